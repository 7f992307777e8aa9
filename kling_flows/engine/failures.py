"""Errors as the ledger keeps them."""

from __future__ import annotations

from kling_flows.errors import KlingFlowsError, VideoTaskCancelled, VideoTaskExpired, VideoTaskFailed, VideoTaskLost
from kling_flows.ledger import ErrorRecord, State, VideoTask

_ENDINGS: dict[State, type[VideoTaskFailed]] = {
    State.FAILED: VideoTaskFailed,
    State.CANCELLED: VideoTaskCancelled,
    State.EXPIRED: VideoTaskExpired,
    State.LOST: VideoTaskLost,
}


def error_record(error: KlingFlowsError) -> ErrorRecord:
    """What a task's record says of an error."""
    return ErrorRecord(
        reason=error.reason, grpc_code=error.grpc_code, message=error.message, metadata=dict(error.metadata)
    )


def since_then(error: ErrorRecord | None, words: str, **facts: str) -> ErrorRecord | None:
    """The error of a final task, with what became known after its end added to its message and metadata."""
    if error is None:
        return None
    return error.model_copy(
        update={"message": f"{error.message}; since then: {words}", "metadata": {**error.metadata, **facts}}
    )


def ending(task: VideoTask) -> VideoTaskFailed | None:
    """The error that a final task without a video means to whoever waits for it."""
    kind = _ENDINGS.get(task.state)
    if kind is None:
        return None
    message = task.error.message if task.error else f"videoTasks/{task.id} is {task.state}"
    return kind(message, metadata={"video_task": task.id, "reason": task.error.reason if task.error else ""})
