"""One tail of the ledger's log for all watchers of this process, and the newest events in memory."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Final

import structlog

from grpc_server.convert import message_of
from kling_flows.errors import ResumeTokenExpired
from kling_flows.ledger import Event, Ledger, State, VideoTask
from kling_flows.v1.video_task_service_pb2 import WatchVideoTasksResponse

#: How many of the newest events are kept in memory.
RING_SIZE: Final = 4_096

#: The ring is trimmed by so many at a time.
_TRIM: Final = 512

#: Events that one look at the log reads.
_PULL_SIZE: Final = 500

#: Seconds after which the log is looked at even if no commit was signalled.
_LOOK_SECONDS: Final = 5.0

#: Watchers that are woken at a time. All at once, the messages of ten thousand would stand in gRPC's own queue before
#: those of every other call. The next ones follow when these sleep again, or after so many seconds, because a slow
#: reader may take for ever.
WAKE_SIZE: Final = 100
_WAKE_SECONDS: Final = 0.02

#: Seconds between two tries while the log cannot be read.
_RETRY_SECONDS: Final = 0.5

log = structlog.get_logger(__name__)


def encode_task(task: VideoTask, *, full: bool) -> bytes:
    """A part of a WatchVideoTasksResponse that holds one task; parts joined are one response that holds them all."""
    return WatchVideoTasksResponse(video_tasks=[message_of(task, full=full)]).SerializeToString()


class Entry:
    """An event as watchers share it: encoded once for each view, when the first of them asks."""

    __slots__ = ("_parts", "position", "previous", "task")

    def __init__(self, event: Event, previous: State | None) -> None:
        self.position = event.position
        self.task = event.task
        #: The task's state before this event; None if there was none or it is not known.
        self.previous = previous
        self._parts: dict[bool, bytes] = {}

    def part(self, *, full: bool) -> bytes:
        """See :func:`encode_task`."""
        part = self._parts.get(full)
        if part is None:
            part = self._parts[full] = encode_task(self.task, full=full)
        return part


class Subscription:
    """What a watcher sleeps on. It holds no events: only from where on there are some for it."""

    __slots__ = ("_due", "_on_sleep", "_waiter", "missed")

    def __init__(self, on_sleep: Callable[[Subscription], None]) -> None:
        self._on_sleep = on_sleep
        # A future and a timer, instead of an asyncio.Event under a timeout: of these there are ten thousands.
        self._waiter: asyncio.Future[None] | None = None
        self._due = False
        #: Position just before the first event for this watcher since :meth:`rest`; None if there was none.
        self.missed: int | None = None

    def rest(self) -> None:
        """Start afresh; only right while the watcher has seen everything up to the hub's head."""
        self.missed = None
        self._due = False

    async def wait(self, seconds: float) -> None:
        """Sleep until there is something to do, at most so many seconds."""
        self._on_sleep(self)
        if self._due:
            return
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        timer = loop.call_later(max(seconds, 0), _release, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def miss(self, position: int) -> bool:
        """Note that there is an event at ``position``; answers whether the watcher is still to be woken for it."""
        if self.missed is not None:
            return False
        self.missed = position - 1
        return True

    def wake(self) -> None:
        """Wake the watcher, with or without an event."""
        self._due = True
        if self._waiter is not None:
            _release(self._waiter)


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Hub:
    """Follows the log. Whoever reads names a tenant, and sees and is woken by that one's events only."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._following = ledger.follow()
        self._ring: list[Entry] = []
        # Every event with a position in (floor, head] is in the ring.
        self._floor = 0
        self.head = 0
        self._moved = asyncio.Event()
        self._last_states: dict[str, State] = {}
        self._for_all: dict[str, set[Subscription]] = {}
        self._by_task: dict[str, set[Subscription]] = {}
        self._to_wake: deque[Subscription] = deque()
        self._awake: set[Subscription] = set()
        self._wake_timer: asyncio.TimerHandle | None = None
        self._follower: asyncio.Task[None] | None = None
        self.draining = False
        #: Told when an event shows that a task has ended; for metrics.
        self.on_end: Callable[[State], None] | None = None
        #: False while the log cannot be read.
        self.following = False

    async def start(self) -> None:
        """Read the newest events, so that watchers who come back after a restart are served from memory; then follow.

        Raises:
            LedgerUnavailable: the log cannot be read.
        """
        self.head = self._floor = max(0, await self._ledger.head() - RING_SIZE)
        while await self._pull():
            pass
        self.following = True
        self._follower = asyncio.create_task(self._follow(), name="hub")

    def drain(self) -> None:
        """Wake every watcher; each sees ``draining`` and ends."""
        self.draining = True
        for subscription in set[Subscription]().union(*self._for_all.values(), *self._by_task.values()):
            subscription.wake()
        self._notify()

    async def close(self) -> None:
        """Stop following."""
        if self._wake_timer is not None:
            self._wake_timer.cancel()
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait([self._follower])

    @contextmanager
    def subscribe(self, tenant: str, task_ids: Iterable[str]) -> Generator[Subscription]:
        """Be woken by events of these tasks, or of any task of the tenant if there are none."""
        subscription = Subscription(self._asleep)
        ids = tuple(task_ids)
        places = [(self._by_task, task_id) for task_id in ids] or [(self._for_all, tenant)]
        for index, key in places:
            index.setdefault(key, set()).add(subscription)
        try:
            yield subscription
        finally:
            self._asleep(subscription)
            for index, key in places:
                index[key].discard(subscription)
                if not index[key]:
                    del index[key]

    async def reach(self, position: int) -> None:
        """Wait until everything up to ``position`` is in the ring, or until the drain."""
        while self.head < position and not self.draining:
            await self._moved.wait()

    async def read(self, tenant: str, after: int, limit: int) -> tuple[Sequence[Entry], int]:
        """Up to ``limit`` events of a tenant after a position, and the position up to which these are all.

        It does not wait.

        Raises:
            ResumeTokenExpired: some of them are no longer kept.
            LedgerUnavailable: they are not in memory and the ledger cannot be read.
        """
        if after >= self._floor:
            start = bisect_right(self._ring, after, key=attrgetter("position"))
            scanned = self._ring[start : start + limit]
            entries = [entry for entry in scanned if entry.task.tenant == tenant]
            return entries, scanned[-1].position if len(scanned) == limit else max(after, self.head)
        events = await self._ledger.read_events(after, limit)
        if not events or after + 1 < await self._ledger.oldest():
            raise expired()
        return [Entry(event, None) for event in events if event.task.tenant == tenant], events[-1].position

    async def previous_state(self, entry: Entry) -> State | None:
        """The state that the entry's task was in before the entry; None if there was none or it is no longer kept."""
        if entry.previous is None and entry.task.revision > 1:
            for event in await self._ledger.read_history(entry.task.id):
                if event.task.revision == entry.task.revision - 1:
                    entry.previous = event.task.state
        return entry.previous

    async def _follow(self) -> None:
        while True:
            try:
                behind = await self._pull()
            except Exception as error:
                # Whatever it is, one front must not go blind for ever because of it; health tells of it meanwhile.
                if self.following:
                    log.error("cannot follow the ledger", error=repr(error), exc_info=error)
                self.following = False
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if not self.following:
                log.info("following the ledger again")
            self.following = True
            if not behind:
                await self._following.wait(_LOOK_SECONDS)

    async def _pull(self) -> bool:
        events, behind = await self._following.after(self.head, _PULL_SIZE)
        first: dict[str, int] = {}
        for event in events:
            first.setdefault(event.task.tenant, event.position)
            self._add(event)
        for tenant, position in first.items():
            self._wake_soon(self._for_all.get(tenant, ()), position)
        if events:
            self.head = events[-1].position
            self._notify()
        return behind

    def _add(self, event: Event) -> None:
        task = event.task
        self._ring.append(Entry(event, self._last_states.get(task.id)))
        if task.state.final:
            self._last_states.pop(task.id, None)
            # A final task may have later events, about its late video.
            if self.on_end is not None and task.end_time == task.update_time:
                self.on_end(task.state)
        else:
            self._last_states[task.id] = task.state
        if len(self._ring) >= RING_SIZE + _TRIM:
            self._floor = self._ring[_TRIM - 1].position
            del self._ring[:_TRIM]
        self._wake_soon(self._by_task.get(task.id, ()), event.position)

    def _wake_soon(self, subscriptions: Iterable[Subscription], position: int) -> None:
        self._to_wake.extend(subscription for subscription in subscriptions if subscription.miss(position))
        if self._to_wake and self._wake_timer is None:
            self._wake_some()

    def _wake_some(self) -> None:
        self._wake_timer = None
        self._awake.clear()
        for _ in range(min(WAKE_SIZE, len(self._to_wake))):
            subscription = self._to_wake.popleft()
            self._awake.add(subscription)
            subscription.wake()
        if self._to_wake:
            self._wake_timer = asyncio.get_running_loop().call_later(_WAKE_SECONDS, self._wake_some)

    def _asleep(self, subscription: Subscription) -> None:
        self._awake.discard(subscription)
        if not self._awake and self._wake_timer is not None:
            self._wake_timer.cancel()
            self._wake_some()

    def _notify(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


def expired() -> ResumeTokenExpired:
    """The error for a position before what the ledger keeps."""
    return ResumeTokenExpired(
        "resume_token is older than what the ledger keeps; watch again without it, which begins with a snapshot",
        metadata={"field": "resume_token"},
    )
