"""A CreateVideoTaskRequest as a new video task."""

from __future__ import annotations

from typing import Final

from grpc_server.spec import read_spec
from kling_flows.engine.intake import REQUEST_PATH, new_video_task, request_digest
from kling_flows.errors import InvalidRequest, Violation
from kling_flows.ledger import VideoTask
from kling_flows.upstream import Provider, TextToVideoRequest
from kling_flows.v1.video_task_service_pb2 import CreateVideoTaskRequest

_TASK: Final = "video_task"
_SPEC: Final = f"{_TASK}.{REQUEST_PATH}"

#: Fields that stand beside the task in the request; all others stand in it.
_TOP_LEVEL: Final = frozenset({"video_task_id", "request_id"})


def read_create(request: CreateVideoTaskRequest, provider: Provider, tenant: str) -> tuple[VideoTask, str]:
    """The task that is asked for, and the fingerprint that tells a repetition from another body.

    Raises:
        InvalidRequest: with all violations, their paths as in the request.
    """
    wish, violations = _read_wish(request)
    labels = dict(request.video_task.labels)
    try:
        task = new_video_task(
            wish,
            provider,
            tenant=tenant,
            task_id=request.video_task_id,
            request_id=request.request_id,
            labels=labels,
        )
    except InvalidRequest as error:
        violations.extend(
            Violation(v.field if v.field in _TOP_LEVEL else f"{_TASK}.{v.field}", v.rule, v.message)
            for v in error.violations
        )
    else:
        if not violations:
            return task, request_digest(wish, labels, request.video_task_id)
    raise InvalidRequest(violations)


def _read_wish(request: CreateVideoTaskRequest) -> tuple[TextToVideoRequest, list[Violation]]:
    spec = request.video_task.text_to_video
    if request.video_task.WhichOneof("spec") is None or not spec.ByteSize():
        # Some clients drop fields that they do not know without a word; what arrives is then empty.
        missing = Violation(
            _SPEC,
            "REQUIRED",
            "says nothing; fill in at least its prompt. If you did, your client has dropped a field: check the names "
            "against video_task.text_to_video.prompt",
        )
        return TextToVideoRequest(prompt="-"), [missing]
    wish, violations = read_spec(spec)
    return wish, [Violation(f"{_SPEC}.{v.field}", v.rule, v.message) for v in violations]
