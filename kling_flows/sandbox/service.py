"""Everything that one running sandbox remembers."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypedDict, TypeVar

from kling_flows.sandbox.callbacks import CallbackSender
from kling_flows.sandbox.charges import ChargeBook
from kling_flows.sandbox.clips import clip_for
from kling_flows.sandbox.fault_board import FaultBoard
from kling_flows.sandbox.faults import Operation
from kling_flows.sandbox.packs import PackBook
from kling_flows.sandbox.settings import SandboxSettings
from kling_flows.sandbox.signing import UrlSigner
from kling_flows.sandbox.tasks import FAILURE_TEXT, Task, TaskBook
from kling_flows.sandbox.text2video import Text2Video
from kling_flows.sandbox.videos import VideoStore, open_store
from kling_flows.sandbox.view import Viewer
from kling_flows.upstream.constants import StatusWord

_T = TypeVar("_T")

_COUNTED: Final = (Operation.CREATE, Operation.GET, Operation.LIST, Operation.DOWNLOAD)


class Stats(TypedDict):
    """Counts since the start.

    ``calls`` has one count per operation on tasks, refused and failed calls included; a HEAD does not count as a
    download.
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
        self.packs = PackBook(settings.units)
        self.tasks = TaskBook(settings, self.packs.check)
        self.charges = ChargeBook()
        self.faults = FaultBoard(settings.seed)
        self.signer = UrlSigner(settings.url_lifetime)
        self.viewer = Viewer(self.faults, self.signer)
        self.callbacks = CallbackSender(settings, self.faults, self.viewer)
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

    def now(self) -> float:
        """The clock that decides the states of tasks."""
        return time.monotonic()

    def accept(self, account: str, order: Text2Video, base: str) -> Task:
        """Take an order, charge it, and report what becomes of it.

        Args:
            account: Whose it is.
            order: What is ordered.
            base: What the URLs of results begin with in callbacks.

        Raises:
            Refusal: It is not accepted, and not charged.
        """

        def failure() -> str | None:
            rule = self.faults.for_order(order.searchable)
            return None if rule is None else rule.message or FAILURE_TEXT

        task = self.tasks.accept(account, order, failure=failure)
        self.charges.add(task)
        self.packs.hold(task)
        self.callbacks.schedule(task, base)
        if task.outcome is StatusWord.SUCCEED and math.isfinite(task.final_at):
            self.videos.prepare(clip_for(order, watermark=False))
        return task

    def later(self, seconds: float, action: Callable[[], Awaitable[_T]]) -> asyncio.Task[_T]:
        """Do something after some time, whatever becomes of the call that asked for it."""

        async def wait_and_act() -> _T:
            await asyncio.sleep(seconds)
            return await action()

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
            calls={operation.value: self._calls[operation] for operation in _COUNTED},
            bytes_served=self.bytes_served,
            tasks={word.value: states[word] for word in StatusWord},
        )

    def task_records(self) -> list[TaskRecord]:
        """Every task, oldest first."""
        now = time.monotonic()
        return [_record(task, now) for task in self.tasks.all()]

    async def stop(self) -> None:
        """Report nothing more; call before the loop ends."""
        await self.callbacks.stop()

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
