"""How long it will take, by what the server has learned of videos of the same kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kling_flows.cli.client import FINAL_STATES
from kling_flows.cli.describe import age
from kling_flows.v1.video_task_pb2 import VideoTask

AT_PROVIDER: Final = frozenset({VideoTask.SUBMITTED, VideoTask.PROCESSING})
_WAITING: Final = frozenset({VideoTask.QUEUED, VideoTask.SUBMITTING})


def typical_seconds(task: VideoTask) -> float:
    """Seconds at the provider that such a video typically takes; 0 if that is not known."""
    return task.typical_duration.ToTimedelta().total_seconds()


def seconds_at_provider(task: VideoTask) -> float:
    """Seconds since the task was submitted."""
    return age(task.upstream.submit_time)


def seconds_left(task: VideoTask) -> float | None:
    """Seconds until the provider is typically done; None if it is not the provider's, or takes longer already."""
    if task.state not in AT_PROVIDER:
        return None
    left = typical_seconds(task) - seconds_at_provider(task)
    return left if left > 0 else None


def seconds_left_of_all(tasks: Iterable[VideoTask], elapsed: float) -> float | None:
    """Seconds until all are done; None if nothing speaks for any number.

    While some wait for a place at the provider, the pace so far is taken; then the slowest of those that are there.

    Args:
        tasks: All of them, those that have ended too.
        elapsed: Seconds since the first was created.
    """
    everything = list(tasks)
    going = [task for task in everything if task.state not in FINAL_STATES]
    done = len(everything) - len(going)
    if any(task.state in _WAITING for task in going):
        return elapsed * len(going) / done if done else None
    return max(filter(None, map(seconds_left, going)), default=None)
