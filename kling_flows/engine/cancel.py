"""Cancelling, honestly: free before anything is sent, and afterwards only the end of our interest."""

from __future__ import annotations

from kling_flows.engine.failures import error_record
from kling_flows.errors import VideoTaskCancelled, VideoTaskFinal
from kling_flows.ledger import State, VideoTask


def cancelled(before: VideoTask, reason: str) -> VideoTask:
    """The task after a cancel; unchanged if it is CANCELLED already.

    Args:
        before: The task as it is.
        reason: The caller's words; may be empty.

    Raises:
        VideoTaskFinal: it has ended in another way.
    """
    if before.state is State.CANCELLED:
        return before
    if before.state.final:
        raise VideoTaskFinal(
            f"videoTasks/{before.id} is {before.state}, which is final; there is nothing left to cancel",
            metadata={"video_task": before.id, "state": before.state.value},
        )
    upstream = before.upstream
    sent = upstream is not None and bool(upstream.task_id or upstream.outcome_unknown)
    if upstream is None:
        consequence = "nothing was sent to the provider and nothing is spent"
    elif not sent:
        consequence = "the provider has refused it until now, so that nothing is spent"
    else:
        consequence = "it was already sent; the provider has no cancel, so it may still generate and bill the video"
    message = f"cancelled: {consequence}" + (f" (reason: {reason})" if reason else "")
    error = error_record(VideoTaskCancelled(message, metadata={"sent": str(sent).lower()}))
    return before.model_copy(update={"state": State.CANCELLED, "error": error})
