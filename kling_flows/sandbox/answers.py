"""The JSON that the API answers with, in the field order of the recorded samples (fact sheet 4)."""

from __future__ import annotations

import json
import uuid
from typing import Any, Final

from starlette.responses import Response

from kling_flows.sandbox.clips import delivered_duration
from kling_flows.sandbox.tasks import Task
from kling_flows.sandbox.view import TaskView
from kling_flows.upstream.constants import STANDARD_SUCCEEDED, KlingCode, StatusWord
from kling_flows.upstream.wording import plain

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode

#: A package's type, and what all that is sold here counts as (fact sheet 4.4).
VIDEO_PRODUCT: Final = "video"


def json_response(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Any JSON."""
    return Response(_encode(content), status_code=status, headers=headers, media_type="application/json")


def to_json(content: object) -> str:
    """Any JSON as text."""
    return _encode(content)


def envelope() -> dict[str, Any]:
    """Kling's envelope of a success, still without ``data``."""
    return {"code": KlingCode.OK.value, "message": "SUCCEED", "request_id": str(uuid.uuid4())}


def success(data: object) -> Response:
    """Kling's envelope around a result."""
    return json_response({**envelope(), "data": data})


def kling_error(code: int, message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """Kling's envelope around an error: it has no ``data`` (fact sheet 7.1)."""
    return json_response({"code": code, "message": message, "request_id": str(uuid.uuid4())}, status, headers)


def cometapi_error(message: str, status: int, headers: dict[str, str] | None = None, code: str = "") -> Response:
    """CometAPI's own error envelope (fact sheet 7.4)."""
    request_id = uuid.uuid4().hex
    error = {"message": f"{message} (request id: {request_id})", "type": "comet_api_error", "param": "", "code": code}
    return json_response({"error": error}, status, headers)


def task_info(task: Task) -> dict[str, str]:
    """``task_info``: empty without an external id."""
    name = task.order.external_task_id
    return {} if name is None else {"external_task_id": name}


def created_standard_task(task: Task) -> dict[str, object]:
    """``data`` of a standard create (fixture ``newstd_create_doc_shape.json``)."""
    answer: dict[str, object] = {
        "id": task.task_id,
        "status": StatusWord.SUBMITTED.value,
        "create_time": task.created_ms,
        "update_time": task.created_ms,
    }
    return _with_external_id(answer, task)


def legacy_task(view: TaskView) -> dict[str, object]:
    """A task as a legacy query shows it."""
    task = view.task
    answer: dict[str, object] = {
        "task_id": task.task_id,
        "task_status": view.word or view.status.value,
        "task_status_msg": _reason(view),
        "task_info": task_info(task),
        "task_result": {},
    }
    if view.status is StatusWord.SUCCEED:
        video = {
            "id": task.video_id,
            "url": view.url,
            "watermark_url": view.watermark_url,
            "duration": delivered_duration(task.order),
        }
        answer["task_result"] = {"videos": [video]}
        answer["watermark_info"] = {"enabled": task.order.watermark}
        answer["final_unit_deduction"] = plain(task.order.units)
        answer["final_balance_deduction"] = {"quota": "0", "list_price": "0"}
    answer["created_at"] = task.created_ms
    answer["updated_at"] = view.updated_ms
    return answer


def standard_task(view: TaskView) -> dict[str, object]:
    """A task as ``/tasks`` and a standard callback show it (fixture ``newstd_tasks_get_doc_shape.json``)."""
    task = view.task
    succeeded = view.status is StatusWord.SUCCEED
    answer: dict[str, object] = {
        "id": task.task_id,
        "status": view.word or (STANDARD_SUCCEEDED if succeeded else view.status.value),
        "message": _reason(view),
        "create_time": task.created_ms,
        "update_time": view.updated_ms,
    }
    _with_external_id(answer, task)
    answer["outputs"] = answer["billing"] = []
    if succeeded:
        video = {
            "type": "video",
            "id": task.video_id,
            "url": view.url,
            "watermark_url": view.watermark_url,
            "duration": delivered_duration(task.order),
        }
        answer["outputs"] = [video]
        answer["billing"] = [{"charge_type": "unit", "amount": plain(task.order.units), "package_type": VIDEO_PRODUCT}]
    return answer


def legacy_callback(view: TaskView) -> dict[str, object]:
    """A task as a legacy callback shows it: bare, and without ``watermark_url`` (fact sheet 6)."""
    task = view.task
    answer: dict[str, object] = {
        "task_id": task.task_id,
        "task_status": view.word or view.status.value,
        "task_status_msg": _reason(view),
        "created_at": task.created_ms,
        "updated_at": view.updated_ms,
    }
    if view.status is StatusWord.SUCCEED:
        video = {"id": task.video_id, "url": view.url, "duration": delivered_duration(task.order)}
        answer["final_unit_deduction"] = plain(task.order.units)
        answer["final_balance_deduction"] = {"quota": "0", "list_price": "0"}
        answer["task_info"] = {"parent_video": {"id": "", "url": "", "duration": ""}, **task_info(task)}
        answer["task_result"] = {"images": [], "videos": [video]}
        return answer
    answer["task_info"] = task_info(task)
    if view.status is StatusWord.FAILED:
        answer["task_result"] = {}
    return answer


def _reason(view: TaskView) -> str:
    return view.task.failure if view.status is StatusWord.FAILED else ""


def _with_external_id(answer: dict[str, object], task: Task) -> dict[str, object]:
    # The documented test event of a task without one has no such key (fact sheet 6).
    if task.order.external_task_id is not None:
        answer["external_id"] = task.order.external_task_id
    return answer
