"""The JSON that the API answers with, in the field order of the recorded samples (fact sheet 4)."""

from __future__ import annotations

import json
import uuid
from typing import Final

from starlette.responses import Response

from kling_flows.sandbox.clips import delivered_duration
from kling_flows.sandbox.tasks import FAILURE_TEXT, Task
from kling_flows.upstream.constants import KlingCode, StatusWord

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


def json_response(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Any JSON."""
    return Response(_encode(content), status_code=status, headers=headers, media_type="application/json")


def success(data: object) -> Response:
    """Kling's envelope around a result."""
    return json_response(
        {"code": KlingCode.OK.value, "message": "SUCCEED", "request_id": str(uuid.uuid4()), "data": data}
    )


def kling_error(code: int, message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """Kling's envelope around an error: it has no ``data`` (fact sheet 7.1)."""
    return json_response({"code": code, "message": message, "request_id": str(uuid.uuid4())}, status, headers)


def cometapi_error(message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """CometAPI's own error envelope (fact sheet 7.4)."""
    request_id = uuid.uuid4().hex
    error = {"message": f"{message} (request id: {request_id})", "type": "comet_api_error", "param": "", "code": ""}
    return json_response({"error": error}, status, headers)


def task_info(task: Task) -> dict[str, str]:
    """``task_info``: empty without an external id."""
    name = task.order.external_task_id
    return {} if name is None else {"external_task_id": name}


def queried_task(task: Task, now: float, url: str, watermark_url: str) -> dict[str, object]:
    """A task as a query shows it.

    Args:
        task: The task.
        now: ``time.monotonic()`` at which its state is read.
        url: URL of its result; looked at only if it has succeeded.
        watermark_url: URL of its result with a watermark, or empty.
    """
    status = task.status(now)
    answer: dict[str, object] = {
        "task_id": task.task_id,
        "task_status": status.value,
        "task_status_msg": FAILURE_TEXT if status is StatusWord.FAILED else "",
        "task_info": task_info(task),
        "task_result": {},
    }
    if status is StatusWord.SUCCEED:
        video = {
            "id": task.video_id,
            "url": url,
            "watermark_url": watermark_url,
            "duration": delivered_duration(task.order),
        }
        answer["task_result"] = {"videos": [video]}
        answer["watermark_info"] = {"enabled": task.order.watermark}
        # Decimal text without needless zeros: "3", "4.5".
        answer["final_unit_deduction"] = f"{task.order.units.normalize():f}"
        answer["final_balance_deduction"] = {"quota": "0", "list_price": "0"}
    answer["created_at"] = task.created_ms
    answer["updated_at"] = task.updated_ms(now)
    return answer
