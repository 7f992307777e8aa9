"""Everything that one running sandbox remembers."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar

from kling_flows.sandbox.charges import ChargeBook
from kling_flows.sandbox.clips import clip_for
from kling_flows.sandbox.faults import FaultBoard, Operation
from kling_flows.sandbox.settings import SandboxSettings
from kling_flows.sandbox.signing import UrlSigner
from kling_flows.sandbox.tasks import Task, TaskBook
from kling_flows.sandbox.text2video import Text2Video
from kling_flows.sandbox.videos import VideoStore, open_store
from kling_flows.upstream.constants import StatusWord

_T = TypeVar("_T")


class Stats(TypedDict):
    """Counts since the start.

    ``calls`` has one count per operation, refused and failed calls included; a HEAD does not count as a download.
    ``bytes_served`` are bytes of video bodies. ``tasks`` has the number of tasks by their present ``task_status``.
    """

    calls: dict[str, int]
    bytes_served: int
    tasks: dict[str, int]


class TaskRecord(TypedDict):
    """One task as a bench sees it.

    ``created_at_ms`` and ``finished_at_ms`` are Unix milliseconds; the ``monotonic`` ones are ``time.monotonic()`` of
    this machine in milliseconds, comparable between its processes. Unfinished tasks have ``None``.
    """

    task_id: str
    external_task_id: str | None
    status: str
    created_at_ms: int
    created_monotonic_ms: int
    finished_at_ms: int | None
    finished_monotonic_ms: int | None


class SandboxService:
    """The state of one sandbox.

    Args:
        settings: Its settings.

    Raises:
        ConfigurationError: Rendering is wanted, and its packages are not installed.
    """

    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self.tasks = TaskBook(settings)
        self.charges = ChargeBook()
        self.faults = FaultBoard(settings.seed)
        self.signer = UrlSigner(settings.url_lifetime)
        self.videos: VideoStore = open_store(settings)
        self.bytes_served = 0
        self._calls: Counter[Operation] = Counter()
        self._late: set[asyncio.Task[Any]] = set()

    def count_call(self, operation: Operation) -> None:
        """Note one call."""
        self._calls[operation] += 1

    def count_bytes(self, number: int) -> None:
        """Note bytes of video sent."""
        self.bytes_served += number

    def accept(self, account: str, order: Text2Video) -> Task:
        """Take an order and charge it.

        Raises:
            Refusal: It is not accepted, and not charged.
        """
        task = self.tasks.accept(account, order)
        self.charges.add(task)
        if task.outcome is StatusWord.SUCCEED and math.isfinite(task.final_at):
            self.videos.prepare(clip_for(order, watermark=False))
        return task

    def later(self, seconds: float, action: Callable[[], _T]) -> asyncio.Task[_T]:
        """Do something after some time, whatever becomes of the call that asked for it."""

        async def wait_and_act() -> _T:
            await asyncio.sleep(seconds)
            return action()

        task = asyncio.create_task(wait_and_act())
        # The loop holds its tasks only weakly.
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        return task

    def stats(self) -> Stats:
        """Counts since the start."""
        now = time.monotonic()
        states = Counter(task.status(now) for task in self.tasks.all())
        return Stats(
            calls={operation.value: self._calls[operation] for operation in Operation},
            bytes_served=self.bytes_served,
            tasks={word.value: states[word] for word in StatusWord},
        )

    def task_records(self) -> list[TaskRecord]:
        """Every task, oldest first."""
        now = time.monotonic()
        return [_record(task, now) for task in self.tasks.all()]

    def close(self) -> None:
        """Give up what is being rendered and drop the files; call once nothing is served any more."""
        self.videos.close()


def _record(task: Task, now: float) -> TaskRecord:
    finished = now >= task.final_at
    return TaskRecord(
        task_id=task.task_id,
        external_task_id=task.order.external_task_id,
        status=task.status(now).value,
        created_at_ms=task.created_ms,
        created_monotonic_ms=round(task.created_at * 1000),
        finished_at_ms=task.finished_ms if finished else None,
        finished_monotonic_ms=round(task.final_at * 1000) if finished else None,
    )
