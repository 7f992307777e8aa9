"""What a person decides of a task whose submit has an unknown outcome that nobody else can find out."""

from __future__ import annotations

from datetime import UTC, datetime

from kling_flows.engine.failures import error_record
from kling_flows.errors import VideoTaskFailed, VideoTaskNotUnresolved
from kling_flows.ledger import State, UpstreamRecord, VideoTask


def adopted(before: VideoTask, upstream_task_id: str) -> VideoTask:
    """The task as SUBMITTED under the id that the person has found; a runner follows it from there.

    Raises:
        VideoTaskNotUnresolved: the task is in another state, unless this very decision has led to it.
    """
    upstream = before.upstream
    if upstream is not None and upstream.task_id == upstream_task_id:
        return before
    upstream = _undecided(before)
    found = upstream.model_copy(
        update={"task_id": upstream_task_id, "submit_time": datetime.now(UTC), "outcome_unknown": False}
    )
    return before.model_copy(update={"state": State.SUBMITTED, "upstream": found, "error": None})


def abandoned(before: VideoTask) -> VideoTask:
    """The task as FAILED.

    Raises:
        VideoTaskNotUnresolved: the task is in another state, unless this very decision has led to it.
    """
    if before.state is State.FAILED and before.error is not None and "abandoned" in before.error.metadata:
        return before
    upstream = _undecided(before)
    error = VideoTaskFailed(
        "abandoned by a person: it was unknown whether the provider had accepted it, and it may still bill it",
        metadata={"abandoned": "true", "external_task_id": upstream.external_task_id},
    )
    return before.model_copy(update={"state": State.FAILED, "error": error_record(error)})


def _undecided(task: VideoTask) -> UpstreamRecord:
    if task.state is not State.UNRESOLVED or task.upstream is None:
        raise VideoTaskNotUnresolved(
            f"videoTasks/{task.id} is {task.state}; only an UNRESOLVED task waits for a person's decision",
            metadata={"video_task": task.id, "state": task.state.value},
        )
    return task.upstream
