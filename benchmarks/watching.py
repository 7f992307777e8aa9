"""What a watch tells of the video tasks of one load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from kling_flows.cli.client import FINAL_STATES
from kling_flows.v1.video_task_pb2 import BASIC, VideoTask
from kling_flows.v1.video_task_service_pb2 import WatchVideoTasksRequest

if TYPE_CHECKING:
    from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceAsyncStub

#: The label by which the tasks of a load are watched.
LABEL: Final = "benchmark"

State = VideoTask.State


class WatchEnded(Exception):
    """The watch ended before its tasks did."""


@dataclass(slots=True)
class TaskStory:
    """One video task, as its events told of it.

    Args:
        created: When it became durable, in seconds since the epoch.
        reached: When it was first in each state, in seconds since the epoch.
        state: Where it is.
        external_task_id: What the provider knows it by.
        flow_runs: Ids of the Prefect flow runs that have carried it.
        archived: Whether it has a video in the archive.
        revision: Of its newest event.
        gaps: Events that were skipped or came twice.
    """

    created: float
    reached: dict[State.ValueType, float] = field(default_factory=lambda: dict[State.ValueType, float]())
    state: State.ValueType = VideoTask.STATE_UNSPECIFIED
    external_task_id: str = ""
    flow_runs: set[str] = field(default_factory=lambda: set[str]())
    archived: bool = False
    revision: int = 0
    gaps: int = 0

    def tell(self, task: VideoTask) -> None:
        """Note an event."""
        self.gaps += abs(task.revision - self.revision - 1)
        self.revision = task.revision
        self.state = task.state
        self.reached.setdefault(task.state, task.update_time.ToNanoseconds() / 1e9)
        self.external_task_id = task.upstream.external_task_id
        self.archived = bool(task.artifacts)
        if task.flow_run.id:
            self.flow_runs.add(task.flow_run.id)

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL_STATES

    @property
    def accepted(self) -> bool:
        """Whether the provider has it."""
        return VideoTask.SUBMITTED in self.reached

    @property
    def in_flight(self) -> bool:
        """Whether it is started and has not ended."""
        return VideoTask.SUBMITTING in self.reached and not self.final


class Watcher:
    """Follows the tasks that carry one label."""

    def __init__(self) -> None:
        self.stories: dict[str, TaskStory] = {}
        self.in_flight = 0
        self.accepted = 0
        self.final = 0
        self.events = 0
        self._synced = asyncio.Event()
        self._news = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def watching(cls, stub: VideoTaskServiceAsyncStub, label: str) -> AsyncGenerator[Watcher]:
        """A watch that is live; it misses nothing that is created while this context is open.

        Raises:
            WatchEnded: the server ended it.
        """
        watcher = cls()
        async with asyncio.TaskGroup() as group:
            following = group.create_task(watcher._follow(stub, label))
            try:
                await watcher._synced.wait()
                yield watcher
            finally:
                following.cancel()

    async def all_final(self, tasks: int, patience: float) -> bool:
        """Wait until so many tasks have ended; false if nothing happened to any for ``patience`` seconds."""
        return await self._count(lambda: self.final, tasks, patience)

    async def all_accepted(self, tasks: int, patience: float) -> bool:
        """Wait until the provider has so many; false if nothing happened to any for ``patience`` seconds."""
        return await self._count(lambda: self.accepted, tasks, patience)

    async def _count(self, count: Callable[[], int], tasks: int, patience: float) -> bool:
        while count() < tasks:
            self._news.clear()
            try:
                async with asyncio.timeout(patience):
                    await self._news.wait()
            except TimeoutError:
                return False
        return True

    async def _follow(self, stub: VideoTaskServiceAsyncStub, label: str) -> None:
        call = stub.WatchVideoTasks(WatchVideoTasksRequest(filter=f'labels.{LABEL} = "{label}"', view=BASIC))
        try:
            async for message in call:
                for task in message.video_tasks:
                    self._tell(task)
                if message.video_tasks:
                    self._news.set()
                if message.synced:
                    self._synced.set()
        finally:
            call.cancel()
        raise WatchEnded("the server ended the watch")

    def _tell(self, task: VideoTask) -> None:
        story = self.stories.get(task.name)
        if story is None:
            story = self.stories[task.name] = TaskStory(task.create_time.ToNanoseconds() / 1e9)
        self.in_flight -= story.in_flight
        self.accepted -= story.accepted
        self.final -= story.final
        story.tell(task)
        self.in_flight += story.in_flight
        self.accepted += story.accepted
        self.final += story.final
        self.events += 1
