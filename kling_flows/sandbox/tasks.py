"""The tasks of a sandbox: their ids, their states over time, and how many of them run."""

from __future__ import annotations

import bisect
import heapq
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from kling_flows.sandbox.errors import Refusal, invalid
from kling_flows.sandbox.settings import SandboxSettings
from kling_flows.sandbox.text2video import FAIL_MARK, STUCK_MARK, Text2Video
from kling_flows.upstream.constants import KlingCode, StatusWord

#: Share of a task's time that it is only submitted, and the most seconds of it.
_SUBMITTED_SHARE: Final = 0.1
_SUBMITTED_MAX: Final = 2.0
#: What a failed task says; seen live (fact sheet 5).
FAILURE_TEXT: Final = "Failure to pass the risk control system"

#: Smallest id; all are 18 digits (fact sheet 4.1), with room for the milliseconds of decades.
_FIRST_ID: Final = 850_000_000_000_000_000
_IDS_PER_MILLISECOND: Final = 100_000
#: 2026-01-01 in Unix milliseconds: ids count from here.
_ID_EPOCH_MS: Final = 1_767_225_600_000


@dataclass(frozen=True, slots=True)
class Task:
    """One accepted order. Its future is decided at its create, so that its state is a matter of the clock alone.

    Args:
        task_id: Id of 18 digits.
        video_id: Id of its result.
        account: Whose it is.
        order: What was ordered.
        created_ms: Unix milliseconds of its create.
        created_at: ``time.monotonic()`` of its create.
        processing_at: ``time.monotonic()`` from which it is processing.
        final_at: ``time.monotonic()`` at which it ends; infinite if it never does.
        outcome: How it ends.
        failure: Why, if it fails.
    """

    task_id: str
    video_id: str
    account: str
    order: Text2Video
    created_ms: int
    created_at: float
    processing_at: float
    final_at: float
    outcome: StatusWord
    failure: str = FAILURE_TEXT

    def status(self, now: float) -> StatusWord:
        """Its state at a value of ``time.monotonic()``."""
        if now >= self.final_at:
            return self.outcome
        return StatusWord.PROCESSING if now >= self.processing_at else StatusWord.SUBMITTED

    def updated_ms(self, now: float) -> int:
        """Unix milliseconds of its last change of state before ``now``."""
        if now >= self.final_at:
            return self.finished_ms
        if now >= self.processing_at:
            return self.created_ms + round((self.processing_at - self.created_at) * 1000)
        return self.created_ms

    @property
    def finished_ms(self) -> int:
        """Unix milliseconds at which it ends; only of a task that does."""
        return self.created_ms + round((self.final_at - self.created_at) * 1000)


class TaskBook:
    """All tasks.

    Args:
        settings: The sandbox's settings.
        afford: Raises the refusal of an order that its account cannot pay.
    """

    def __init__(self, settings: SandboxSettings, afford: Callable[[str, Text2Video], None]) -> None:
        self._settings = settings
        self._afford = afford
        self._last_id = 0
        self._by_account: defaultdict[str, list[Task]] = defaultdict(list)
        self._by_id: dict[tuple[str, str], Task] = {}
        self._by_external_id: dict[tuple[str, str], Task] = {}
        self._by_video: dict[str, Task] = {}
        # Ends of unfinished tasks by account and model version, soonest first.
        self._running: defaultdict[tuple[str, str], list[float]] = defaultdict(list)

    def accept(self, account: str, order: Text2Video, *, failure: Callable[[], str | None] = lambda: None) -> Task:
        """Take an order.

        Args:
            account: Whose it is.
            order: What is ordered.
            failure: Gives the reason for which the task will fail, if one is wanted; asked once it is accepted.

        Raises:
            Refusal: The external id is taken, the account cannot pay, or it has no free slot for the model.
        """
        key = (account, order.external_task_id or "")
        if order.external_task_id and self._settings.reject_duplicates and key in self._by_external_id:
            raise invalid(f"External_task_id {order.external_task_id} already exists")
        self._afford(account, order)
        now = time.monotonic()
        running = self._running[account, order.version]
        while running and running[0] <= now:
            heapq.heappop(running)
        if self._settings.concurrency and len(running) >= self._settings.concurrency:
            raise Refusal(KlingCode.CONCURRENCY_EXCEEDED)
        task = self._new_task(account, order, now, failure())
        heapq.heappush(running, task.final_at)
        self._by_account[account].append(task)
        self._by_id[account, task.task_id] = task
        self._by_video[task.video_id] = task
        if order.external_task_id:
            self._by_external_id[key] = task
        return task

    def find(self, account: str, key: str) -> Task:
        """The account's task with that task id or external id.

        Raises:
            Refusal: There is none, or it cannot be seen yet.
        """
        task = self._by_id.get((account, key))
        if task is None and self._settings.external_id_lookup:
            task = self._by_external_id.get((account, key))
        if task is None or not self._visible(task, time.monotonic()):
            raise invalid(f"Task not found by id/external id: {key}")
        return task

    def find_all(self, account: str, keys: Sequence[str], *, external: bool) -> list[Task]:
        """The account's tasks with those task ids, or with those external ids; unknown ones are left out."""
        if external and not self._settings.external_id_lookup:
            return []
        book = self._by_external_id if external else self._by_id
        now = time.monotonic()
        found = (book.get((account, key)) for key in dict.fromkeys(keys))
        return [task for task in found if task is not None and self._visible(task, now)]

    def before(self, account: str, place: int | None) -> Iterator[tuple[int, Task]]:
        """The account's tasks from the newest to the oldest, each with its place.

        Args:
            account: Whose.
            place: Only tasks before this place; ``None`` for all.
        """
        tasks = self._by_account[account]
        end = len(tasks) if place is None else min(place, len(tasks))
        now = time.monotonic()
        for number in range(end - 1, -1, -1):
            if self._visible(tasks[number], now):
                yield number, tasks[number]

    def place_after(self, account: str, created_ms: int) -> int:
        """The place behind the last of the account's tasks created at or before ``created_ms``."""
        return bisect.bisect_right(self._by_account[account], created_ms, key=lambda task: task.created_ms)

    def find_video(self, video_id: str) -> Task | None:
        """The task that has that result."""
        return self._by_video.get(video_id)

    def page(self, account: str, number: int, size: int) -> Sequence[Task]:
        """One page of the account's tasks, newest first; ``number`` counts from 1."""
        tasks = self._by_account[account]
        end = len(tasks)
        now = time.monotonic()
        while end and not self._visible(tasks[end - 1], now):
            end -= 1
        stop = max(0, end - (number - 1) * size)
        return tasks[max(0, stop - size) : stop][::-1]

    def all(self) -> list[Task]:
        """Every task of every account, oldest first."""
        # A copy made in one step: the book may be read from another thread.
        return list(self._by_video.values())

    def _visible(self, task: Task, now: float) -> bool:
        return now - task.created_at >= self._settings.lookup_lag

    def _new_task(self, account: str, order: Text2Video, now: float, failure: str | None) -> Task:
        # A named order takes the same time in every run; the others take what the seed gives for their number.
        name = order.external_task_id or f"#{len(self._by_video)}"
        took = random.Random(f"{self._settings.seed}:{name}").uniform(*self._settings.seconds)
        fails = failure is not None or FAIL_MARK in order.words
        return Task(
            task_id=self._new_id(),
            video_id=self._new_id(),
            account=account,
            order=order,
            created_ms=time.time_ns() // 1_000_000,
            created_at=now,
            processing_at=now + min(_SUBMITTED_SHARE * took, _SUBMITTED_MAX),
            final_at=math.inf if STUCK_MARK in order.words else now + took,
            outcome=StatusWord.FAILED if fails else StatusWord.SUCCEED,
            failure=failure or FAILURE_TEXT,
        )

    def _new_id(self) -> str:
        elapsed = time.time_ns() // 1_000_000 - _ID_EPOCH_MS
        self._last_id = max(self._last_id + 1, _FIRST_ID + elapsed * _IDS_PER_MILLISECOND)
        return str(self._last_id)
