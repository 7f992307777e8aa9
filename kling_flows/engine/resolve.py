"""What a person decides of a task whose submit has an unknown outcome that nobody else can find out."""

from __future__ import annotations

from datetime import UTC, datetime

from kling_flows.engine.failures import error_record, since_then
from kling_flows.errors import VideoTaskFailed, VideoTaskNotUnresolved
from kling_flows.ledger import State, UpstreamRecord, VideoTask


def adopted(before: VideoTask, upstream_task_id: str) -> VideoTask:
    """The task as SUBMITTED under the id that the person has found; a runner follows it from there.

    One that is CANCELLED or EXPIRED with an unknown outcome stays that, and gets its video.

    Raises:
        VideoTaskNotUnresolved: the task is in another state, unless this very decision has led to it.
    """
    upstream = before.upstream
    if upstream is not None and upstream.task_id == upstream_task_id:
        return before
    if before.state in (State.CANCELLED, State.EXPIRED) and upstream is not None and upstream.outcome_unknown:
        return wanted_late(before, upstream_task_id, "a person has found it at the provider")
    found = _found(_undecided(before), upstream_task_id)
    return before.model_copy(update={"state": State.SUBMITTED, "upstream": found, "error": None})


def wanted_late(before: VideoTask, upstream_task_id: str, words: str) -> VideoTask:
    """A final task with an upstream task that it did not know, or whose video was not wanted; it is followed up.

    Args:
        before: The task as it is.
        upstream_task_id: The provider's id.
        words: How it became known.
    """
    if before.upstream is None:
        raise RuntimeError(f"videoTasks/{before.id} was never submitted")
    found = _found(before.upstream, upstream_task_id)
    error = since_then(before.error, f"{words}; the video will be archived")
    return before.model_copy(update={"upstream": found, "video_pending": True, "error": error})


def _found(upstream: UpstreamRecord, upstream_task_id: str) -> UpstreamRecord:
    return upstream.model_copy(
        update={
            "task_id": upstream_task_id,
            "submit_time": upstream.submit_time or datetime.now(UTC),
            "outcome_unknown": False,
        }
    )


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
