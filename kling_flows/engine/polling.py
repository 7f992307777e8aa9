"""The poll planner: one for all tasks of an account, which decides when to look at which."""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog

from kling_flows.engine.looks import Looked, Looker
from kling_flows.upstream import UpstreamClient, UpstreamError, UpstreamStatus, UpstreamTask

log = structlog.get_logger(__name__)

#: Of what nothing was learned, the first look comes after this share of the time that such a video typically takes.
_FIRST_LOOK: Final = 0.6

_JITTER: Final = 0.1

#: Looks come sooner than they have to while one call shows more tasks than this, which is cheap for each of them; but
#: not sooner than so many seconds, and not for more calls a second than this.
_MANY_PER_CALL: Final = 100
_SHORTEST_SECONDS: Final = 1.5
_CALLS_PER_SECOND: Final = 2.0

#: Longest time between two looks while the provider cannot be asked, in seconds.
_BACKOFF_LIMIT: Final = 60.0

#: Looks in a row at a task that the provider calls succeeded without giving a video, before that is believed.
URLLESS_LOOKS: Final = 200

#: Seconds between two looks at a task that the provider calls back about.
RECONCILE_SECONDS: Final = 30.0

#: Seconds for which hints are gathered, so that one call serves for many. They come in groups as it is: whoever reads
#: them sees commits some hundredths of a second apart.
_HINT_SECONDS: Final = 0.05

#: Seconds for which a hint about an unknown task is kept: it may be followed in a moment.
_EARLY_SECONDS: Final = 10.0

#: A task is late after this many times its typical time, and not before so many seconds; looks then become fewer.
_LATE: Final = 3.0
_LATE_SECONDS: Final = 60.0

#: Fruitless looks in a row (a task not shown, or without its video) before looks become fewer, and by how much.
_FRUITLESS: Final = 10
_GROWTH: Final = 1.1

#: Longest time between two looks at a task that is late or fruitless, in seconds.
_SLOW_SECONDS: Final = 60.0

#: After a day we no longer wait for a task, but it may still end and be billed: it is followed at this pace, for ever.
CEILING_SECONDS: Final = 86_400.0
_CEILING_PACE: Final = 600.0


@dataclass(slots=True, eq=False)
class _Followed:
    task_id: str
    began: float
    typical: float
    called_back: bool
    next_look: float = 0.0
    #: Until when it is looked at as if nobody called back: a hint says that it changes.
    brisk_until: float = 0.0
    news: asyncio.Queue[UpstreamTask | None] = field(default_factory=lambda: asyncio.Queue[UpstreamTask | None]())
    status: UpstreamStatus = UpstreamStatus.SUBMITTED
    urlless: int = 0
    unseen: int = 0

    def pace(self, now: float, interval: float) -> float:
        """Seconds until the next look."""
        age = now - self.began
        if age >= CEILING_SECONDS:
            return max(interval, _CEILING_PACE)
        fruitless = max(self.urlless, self.unseen) - _FRUITLESS
        if fruitless > 0:
            # The exponent is bounded, because a float is not.
            return max(interval, min(interval * _GROWTH ** min(fruitless, 200), _SLOW_SECONDS))
        if self.called_back and not self.urlless and now >= self.brisk_until:
            return max(interval, RECONCILE_SECONDS)
        late = age / max(_LATE * self.typical, _LATE_SECONDS)
        return max(interval, min(interval * late, _SLOW_SECONDS))


class PollPlanner:
    """Follows upstream tasks to their end. A failed look is a missed tick, never a failed task.

    Looks happen at ticks, an interval apart, so that what is due shares its calls; hints are followed beside them.

    Args:
        client: The account.
        interval: Seconds between two looks at a task; fewer where a call shows very many.
    """

    def __init__(self, client: UpstreamClient, interval: float) -> None:
        self._looker = Looker(client)
        self._longest = interval
        #: Seconds between two ticks, as the last one has shown what looks cost.
        self._interval = interval
        self._followed: dict[str, _Followed] = {}
        self._wake = asyncio.Event()
        # In the order in which they came, for there may be more than one look takes.
        self._hinted: dict[str, None] = {}
        self._hinted_looks = 0
        self._looking: set[str] = set()
        self._hints = asyncio.Event()
        self._early: dict[str, float] = {}
        self._failures = 0
        self._failed_at = -math.inf
        self._next_tick = 0.0
        self._not_before = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Looks are taken while this context is open."""
        loops = [
            asyncio.create_task(self._run(), name="poll-planner"),
            asyncio.create_task(self._run_hinted(), name="poll-planner-hints"),
        ]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.wait(loops)
            for loop in loops:
                if not loop.cancelled():
                    loop.result()

    async def follow(
        self,
        task_id: str,
        *,
        typical_seconds: float,
        age_seconds: float,
        earliest_seconds: float | None = None,
        called_back: bool = False,
        hinted: bool = False,
    ) -> AsyncGenerator[UpstreamTask]:
        """Yield the upstream task at each change of its status, the last time when it has ended.

        Ends earlier only if :meth:`stop_following` is called, or if somebody follows the task anew: it was given up and
        taken up again before this one has noticed.

        Args:
            task_id: The provider's id.
            typical_seconds: How long such a video takes from submit to end.
            age_seconds: How long ago it was submitted.
            earliest_seconds: After which time few such videos have ended; None if nothing was learned.
            called_back: The provider tells us when it changes: looks only make sure.
            hinted: It has told us already: look at once.
        """
        now = self._now()
        followed = _Followed(task_id, now - age_seconds, typical_seconds, called_back)
        followed.next_look = now + self._first_wait(followed, age_seconds, earliest_seconds)
        self.stop_following(task_id)
        self._followed[task_id] = followed
        if hinted or self._early.pop(task_id, None) is not None:
            self.look_now(task_id)
        self._wake.set()
        try:
            while True:
                upstream = await followed.news.get()
                if upstream is None:
                    return
                yield upstream
                if upstream.status.final:
                    return
        finally:
            # An abandoned generator may end long after the task was followed anew.
            if self._followed.get(task_id) is followed:
                self._drop(task_id)

    def _drop(self, task_id: str) -> None:
        del self._followed[task_id]
        self._looker.forget(task_id)

    def stop_following(self, task_id: str) -> None:
        """End :meth:`follow` of this task without its end."""
        followed = self._followed.get(task_id)
        if followed is not None:
            followed.news.put_nowait(None)

    def stop(self) -> None:
        """End :meth:`follow` of all tasks."""
        for task_id in list(self._followed):
            self.stop_following(task_id)

    def look_now(self, task_id: str) -> None:
        """Look within a moment: somebody has hinted that it ended."""
        now = self._now()
        followed = self._followed.get(task_id)
        if followed is None:
            self._early = {known: when for known, when in self._early.items() if now - when < _EARLY_SECONDS}
            self._early[task_id] = now
            return
        followed.brisk_until = now + RECONCILE_SECONDS
        self._hinted[task_id] = None
        self._hints.set()

    def look_soon(self, task_id: str) -> None:
        """Look at the next tick: somebody has hinted that it changed, but not that it ended."""
        followed = self._followed.get(task_id)
        if followed is not None:
            followed.next_look = min(followed.next_look, self._now())
            self._wake.set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    @staticmethod
    def _jittered(seconds: float) -> float:
        return seconds * (1 + random.uniform(-_JITTER, _JITTER))

    def _first_wait(self, followed: _Followed, age: float, earliest: float | None) -> float:
        if followed.called_back and age < RECONCILE_SECONDS:
            return self._jittered(followed.pace(self._now(), self._interval))
        expected = followed.typical * _FIRST_LOOK if earliest is None else min(earliest, followed.typical)
        # Ahead of the first possible end, for looks come up to a tick later than they are planned.
        return max(self._interval, expected - age) - random.uniform(0, min(self._interval, 0.1 * expected))

    async def _run(self) -> None:
        while True:
            due = await self._next_due()
            now = self._now()
            self._interval = self._interval_for(len(due))
            self._next_tick = now + self._jittered(self._interval)
            await self._look_at(due, now)

    def _interval_for(self, due: int) -> float:
        calls = max(self._looker.calls(due), 1)
        if due <= calls * _MANY_PER_CALL:
            return self._longest
        cheap = self._longest * _MANY_PER_CALL * calls / due
        return min(self._longest, max(cheap, calls / _CALLS_PER_SECOND, _SHORTEST_SECONDS))

    async def _run_hinted(self) -> None:
        async with asyncio.TaskGroup() as looks:
            while True:
                await self._hints.wait()
                await asyncio.sleep(max(_HINT_SECONDS, self._not_before - self._now()))
                self._hints.clear()
                for portion in self._take_hinted():
                    looks.create_task(self._look_at_hinted(portion), name="poll-planner-hinted-look")

    def _take_hinted(self) -> list[Sequence[str]]:
        """What to look at now because of hints, by look; the rest is taken when a look that is under way has ended."""
        wanted = [task_id for task_id in self._hinted if task_id in self._followed]
        # An answer that is on its way may be older than the hint: what is being looked at is looked at again.
        portions = self._looker.portions([task_id for task_id in wanted if task_id not in self._looking])
        portions = portions[: max(self._looker.at_once - self._hinted_looks, 0)]
        taken = {task_id for portion in portions for task_id in portion}
        self._hinted = {task_id: None for task_id in wanted if task_id not in taken}
        self._looking |= taken
        self._hinted_looks += len(portions)
        return portions

    async def _look_at_hinted(self, task_ids: Sequence[str]) -> None:
        try:
            due = [self._followed[task_id] for task_id in task_ids if task_id in self._followed]
            await self._look_at(due, self._now(), hinted=True)
        finally:
            self._looking.difference_update(task_ids)
            self._hinted_looks -= 1
            if self._hinted:
                self._hints.set()
        # Their next looks come at ticks, sooner than the ticks know of.
        self._wake.set()

    async def _next_due(self) -> list[_Followed]:
        while True:
            self._wake.clear()
            now = self._now()
            first = min((f.next_look for f in self._followed.values()), default=None)
            start = None if first is None else max(first, self._next_tick, self._not_before)
            if start is not None and start <= now:
                return self._gather(now)
            try:
                async with asyncio.timeout(None if start is None else start - now):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _gather(self, now: float) -> list[_Followed]:
        # To each its nearest tick: half an interval early, or half an interval late.
        horizon = now + self._interval / 2
        due = [f for f in self._followed.values() if f.next_look <= horizon]
        room = min(self._looker.room(len(due)), len(self._followed) - len(due))
        if room:
            later = (f for f in self._followed.values() if f.next_look > horizon)
            due.extend(heapq.nsmallest(room, later, key=lambda f: f.next_look))
        return due

    async def _look_at(self, due: Sequence[_Followed], started: float, *, hinted: bool = False) -> None:
        try:
            looked = await self._look(due, started, hinted)
        except Exception:
            # A bug in one look must not end the looks at all other tasks.
            log.exception("a look failed")
            looked = Looked()
        else:
            shown = {upstream.task_id for upstream in looked.tasks}
            for followed in due:
                if followed.task_id in shown:
                    followed.unseen = 0
                elif looked.error is None:
                    followed.unseen += 1
        for followed in due:
            self._plan(followed, started)
        self._tell(looked.tasks, started)

    async def _look(self, due: Sequence[_Followed], started: float, hinted: bool) -> Looked:
        looked = await self._looker.look([f.task_id for f in due], len(self._followed), hinted=hinted)
        if looked.error is not None:
            self._back_off(looked.error, started)
        if looked.tasks:
            self._failures = 0
        return looked

    def _plan(self, followed: _Followed, started: float) -> None:
        pace = followed.pace(started, self._interval)
        # What is looked at in every tick keeps to the ticks, which have a jitter of their own.
        planned = started + (pace if pace == self._interval else self._jittered(pace))
        # What only came along, because there was room, keeps its own time.
        brisk = started < followed.brisk_until
        followed.next_look = planned if brisk else max(followed.next_look, planned)

    def _back_off(self, error: UpstreamError, started: float) -> None:
        # Looks overlap: those that were under way when one failed tell of the same trouble, not of more of it.
        if started >= self._failed_at:
            self._failures += 1
            self._failed_at = self._now()
        seconds = min(self._longest * 2**self._failures, _BACKOFF_LIMIT)
        seconds = max(seconds, error.retry_after or 0.0)
        self._not_before = self._now() + self._jittered(seconds)
        log.warning("missed a look", reason=error.reason, error=error.message, next_look_seconds=round(seconds, 1))

    def _tell(self, seen: Iterable[UpstreamTask], started: float) -> None:
        for upstream in seen:
            followed = self._followed.get(upstream.task_id)
            if followed is None:
                continue
            # A list shows more tasks than were due; those need no look of their own now.
            followed.next_look = max(followed.next_look, started + self._interval)
            if upstream.status is UpstreamStatus.SUCCEEDED and not upstream.videos:
                followed.urlless += 1
                if followed.urlless < URLLESS_LOOKS:
                    continue
            else:
                followed.urlless = 0
            if upstream.status is not followed.status:
                followed.status = upstream.status
                followed.news.put_nowait(upstream)
                if upstream.status.final:
                    # While its end is being written down, nobody needs to look again.
                    self._drop(upstream.task_id)
