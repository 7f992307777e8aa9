"""How a video task's end is told: its files on stdout, or on stderr why there are none; and the exit code."""

from __future__ import annotations

from typing import Final

from kling_flows.cli.describe import plain_path, state_name, video_lines, video_of
from kling_flows.cli.documents import document
from kling_flows.cli.failures import Failure, report
from kling_flows.cli.output import Output
from kling_flows.cli.request import short_id
from kling_flows.cli.status import decode
from kling_flows.errors import (
    KlingFlowsError,
    VideoTaskCancelled,
    VideoTaskExpired,
    VideoTaskFailed,
    VideoTaskLost,
    VideoTaskUnresolved,
)
from kling_flows.v1.video_task_pb2 import VideoTask

_ERRORS: Final[dict[VideoTask.State.ValueType, type[KlingFlowsError]]] = {
    VideoTask.FAILED: VideoTaskFailed,
    VideoTask.CANCELLED: VideoTaskCancelled,
    VideoTask.EXPIRED: VideoTaskExpired,
    VideoTask.LOST: VideoTaskLost,
    VideoTask.UNRESOLVED: VideoTaskUnresolved,
}


def tell(task: VideoTask, output: Output) -> int:
    """Print how ``task`` has ended.

    Returns:
        The exit code.
    """
    if output.json:
        output.document(document(task))
    elif task.state == VideoTask.SUCCEEDED:
        _tell_video(task, output)
    failure = failure_of(task)
    if failure is None:
        return 0
    report(failure, output)
    return failure.exit_code


def failure_of(task: VideoTask) -> Failure | None:
    """Why ``task`` has ended, or stopped, without a video; None if it has not."""
    error = _ERRORS.get(task.state)
    if error is None:
        return None
    details = decode(task.error)
    words = task.error.message or "no reason is known"
    return Failure(
        code=error.grpc_code,
        reason=details.reason or error.reason,
        message=f"{short_id(task.name)} is {state_name(task.state)}: {words}",
        exit_code=error.exit_code,
        metadata={**details.metadata, "video_task": task.name},
    )


def _tell_video(task: VideoTask, output: Output) -> None:
    video = video_of(task)
    if output.quiet and video is not None:
        output.line(plain_path(video.uri))
    else:
        output.result(video_lines(task))
