"""From a request to a video: what ``generate`` and ``demo`` do."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kling_flows.cli.client import FINAL_STATES, VideoTaskClient
from kling_flows.v1.video_task_pb2 import VideoTask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kling_flows.cli.progress import Progress
    from kling_flows.v1.video_task_service_pb2 import CreateVideoTaskRequest


@dataclass(slots=True)
class Generation:
    """One video, from the request to its end.

    Args:
        request: What to create.
        task: The video task as it was last seen; None until the server has answered.
    """

    request: CreateVideoTaskRequest
    task: VideoTask | None = None

    async def create(self, client: VideoTaskClient) -> VideoTask:
        """Make the task durable."""
        self.task = await client.create(self.request)
        return self.task

    async def run(self, client: VideoTaskClient, progress: Progress) -> VideoTask:
        """Create the task and follow it until nothing more happens by itself.

        Returns:
            The task: final, or UNRESOLVED, which only a person can change.
        """
        latest = await self.create(client)
        progress.changed(latest)

        def changed(task: VideoTask) -> None:
            nonlocal latest
            latest = self.task = task
            progress.changed(task)

        if not settled(latest):
            await follow(client, [latest.name], changed, until=settled)
        return latest


async def follow(
    client: VideoTaskClient,
    names: Sequence[str],
    changed: Callable[[VideoTask], None],
    *,
    until: Callable[[VideoTask], bool],
) -> None:
    """Call ``changed`` with every change of the named tasks, until ``until`` holds for all of them."""
    pending = set(names)
    async with aclosing(client.watch(names, until_final=True)) as watch:
        async for seen in watch:
            changed(seen.task)
            if until(seen.task):
                pending.discard(seen.task.name)
            if not pending:
                return


def final(task: VideoTask) -> bool:
    """Whether nothing can follow."""
    return task.state in FINAL_STATES


def settled(task: VideoTask) -> bool:
    """Whether nothing follows without a person."""
    return final(task) or task.state == VideoTask.UNRESOLVED
