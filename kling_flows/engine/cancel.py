"""Ending a task for its caller, honestly: free before anything is sent; afterwards the provider makes it all the same.

What becomes of the video then is the caller's choice. It is kept in the record, because the provider's answer may come
after the end.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from kling_flows.engine.failures import error_record, since_then
from kling_flows.errors import VideoTaskCancelled, VideoTaskFinal
from kling_flows.ledger import LateVideo, State, UpstreamRecord, VideoTask
from kling_flows.upstream.constants import StatusWord

#: Seconds for which a provider keeps a video, if nobody says otherwise (fact sheet 5).
RETENTION: Final = 30 * 86_400.0

_WISH: Final = "late_video"


def cancelled(
    before: VideoTask, reason: str, on_cancel: LateVideo = LateVideo.DISCARD, *, retention: float = RETENTION
) -> VideoTask:
    """The task after a cancel.

    A task that is CANCELLED already is unchanged, unless ``on_cancel`` now asks for a video that was to be discarded
    and can still be had.

    Args:
        before: The task as it is.
        reason: The caller's words; may be empty.
        on_cancel: What becomes of the video if the provider has accepted the task, or may have.
        retention: Seconds for which the provider keeps a video.

    Raises:
        VideoTaskFinal: it has ended in another way.
    """
    if before.state is State.CANCELLED:
        if on_cancel is LateVideo.KEEP_VIDEO and can_be_kept(before, retention):
            wanted = {_WISH: on_cancel.value}
            error = since_then(before.error, "the video is wanted after all and will be archived", **wanted)
            return before.model_copy(update={"video_pending": True, "error": error})
        return before
    if before.state.final:
        raise VideoTaskFinal(
            f"videoTasks/{before.id} is {before.state}, which is final; there is nothing left to cancel",
            metadata={"video_task": before.id, "state": before.state.value},
        )
    message = f"cancelled: {consequence(before.upstream, on_cancel)}" + (f" (reason: {reason})" if reason else "")
    was_sent = sent(before.upstream)
    error = VideoTaskCancelled(message, metadata={"sent": str(was_sent).lower(), _WISH: on_cancel.value})
    return before.model_copy(
        update={
            "state": State.CANCELLED,
            "error": error_record(error),
            "video_pending": was_sent and on_cancel is LateVideo.KEEP_VIDEO,
        }
    )


def sent(upstream: UpstreamRecord | None) -> bool:
    """Whether the provider has accepted the task, or may have."""
    return upstream is not None and bool(upstream.task_id or upstream.outcome_unknown)


def consequence(upstream: UpstreamRecord | None, late: LateVideo) -> str:
    """What an end for the caller means for the money and for the video, in words."""
    if upstream is None:
        return "nothing was sent to the provider and nothing is spent"
    if not sent(upstream):
        return "the provider has refused it until now, so that nothing is spent"
    cost = "it was already sent; the provider has no cancel, so it may still generate and bill the video"
    if late is LateVideo.KEEP_VIDEO:
        return f"{cost}, which will then be archived"
    return f"{cost}; nobody looks at it any more, but a cancel with on_cancel KEEP_VIDEO can still have it archived"


def keeps_video(task: VideoTask) -> bool:
    """Whether the caller of a final task wants its video all the same."""
    if task.state is State.EXPIRED:
        return task.on_deadline is LateVideo.KEEP_VIDEO
    if task.state is State.FAILED:
        # Its caller has not turned away from it.
        return True
    return task.error is not None and task.error.metadata.get(_WISH) == LateVideo.KEEP_VIDEO


def can_be_kept(task: VideoTask, retention: float) -> bool:
    """Whether a final task without a video may still get one."""
    upstream = task.upstream
    if upstream is None or task.video_pending or task.artifacts or not sent(upstream):
        return False
    if upstream.status == StatusWord.FAILED:
        return False
    # What was never followed ended about when its caller turned away from it.
    ended = upstream.end_time or task.end_time
    return ended is None or datetime.now(UTC) - ended < timedelta(seconds=retention)


def nothing_created(before: VideoTask, words: str) -> VideoTask:
    """A final task after it became known that its request has led to nothing at the provider."""
    if before.upstream is None:
        return before
    error = since_then(before.error, f"{words}: nothing is spent", sent="false")
    upstream = before.upstream.model_copy(update={"outcome_unknown": False})
    return before.model_copy(update={"upstream": upstream, "error": error, "video_pending": False})
