"""The poll planner: one for all tasks of an account, which asks in the fewest calls that the dialect allows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog

from kling_flows.upstream import Provider, UpstreamClient, UpstreamError, UpstreamStatus, UpstreamTask
from kling_flows.upstream.errors import UpstreamNotFound

log = structlog.get_logger(__name__)

#: Tasks that are due together before a list page is asked for instead of each (fact sheet 4.3).
_LIST_FROM: Final = 4

_PAGE_SIZE: Final = 500

#: Single looks under way at a time.
_CONCURRENCY: Final = 8

#: The first look comes after this share of the time that such a video typically takes.
_FIRST_LOOK: Final = 0.6

_JITTER: Final = 0.1

#: Longest time between two looks while the provider cannot be asked, in seconds.
_BACKOFF_LIMIT: Final = 60.0

#: Looks in a row at a task that the provider calls succeeded without giving a video, before that is believed.
URLLESS_LOOKS: Final = 200


@dataclass(slots=True, eq=False)
class _Followed:
    task_id: str
    next_look: float
    news: asyncio.Queue[UpstreamTask | None] = field(default_factory=lambda: asyncio.Queue[UpstreamTask | None]())
    status: UpstreamStatus = UpstreamStatus.SUBMITTED
    urlless: int = 0


class PollPlanner:
    """Follows upstream tasks to their end. A failed look is a missed tick, never a failed task.

    Args:
        client: The account.
        interval: Seconds between two looks at a task.
    """

    def __init__(self, client: UpstreamClient, interval: float) -> None:
        self._client = client
        self._interval = interval
        self._lists = client.account.provider is not Provider.COMETAPI
        self._followed: dict[str, _Followed] = {}
        self._wake = asyncio.Event()
        self._failures = 0
        self._not_before = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Looks are taken while this context is open."""
        looking = asyncio.create_task(self._run(), name="poll-planner")
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.wait({looking})
            if not looking.cancelled():
                looking.result()

    async def follow(self, task_id: str, *, typical_seconds: float, age_seconds: float) -> AsyncGenerator[UpstreamTask]:
        """Yield the upstream task at each change of its status, the last time when it has ended.

        Ends earlier only if :meth:`stop_following` is called.

        Args:
            task_id: The provider's id.
            typical_seconds: How long such a video takes from submit to end.
            age_seconds: How long ago it was submitted.
        """
        wait = max(self._interval, typical_seconds * _FIRST_LOOK - age_seconds)
        followed = _Followed(task_id, self._now() + self._jittered(wait))
        self._followed[task_id] = followed
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
                del self._followed[task_id]

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
        """Look at the next opportunity: somebody has hinted that it changed."""
        followed = self._followed.get(task_id)
        if followed is not None:
            followed.next_look = self._now()
            self._wake.set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 + random.uniform(-_JITTER, _JITTER))

    async def _run(self) -> None:
        while True:
            due = await self._next_due()
            try:
                seen = await self._look(due)
            except UpstreamError as error:
                self._back_off(error)
                seen = ()
            except Exception:
                # A bug in one look must not end the looks at all other tasks.
                log.exception("a look failed")
                seen = ()
            if seen:
                self._failures = 0
            looked = self._now()
            for followed in due:
                followed.next_look = looked + self._jittered(self._interval)
            self._tell(seen, looked)

    async def _next_due(self) -> list[_Followed]:
        while True:
            self._wake.clear()
            now = self._now()
            first = min((f.next_look for f in self._followed.values()), default=None)
            start = None if first is None else max(first, self._not_before)
            if start is not None and start <= now:
                # What is due within half an interval comes along: one call then serves for more.
                horizon = now + self._interval / 2
                return [f for f in self._followed.values() if f.next_look <= horizon]
            try:
                async with asyncio.timeout(None if start is None else start - now):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _look(self, due: Sequence[_Followed]) -> Sequence[UpstreamTask]:
        missing = {followed.task_id for followed in due}
        seen: list[UpstreamTask] = []
        if self._lists and len(due) >= _LIST_FROM:
            pages = 2 + 2 * len(self._followed) // _PAGE_SIZE
            for page in range(1, pages + 1):
                listed = await self._client.list_page(page, _PAGE_SIZE)
                seen.extend(listed)
                missing.difference_update(upstream.task_id for upstream in listed)
                if not missing or len(listed) < _PAGE_SIZE:
                    break
        seen.extend(await self._look_singly(sorted(missing)))
        return seen

    async def _look_singly(self, task_ids: Sequence[str]) -> list[UpstreamTask]:
        slots = asyncio.Semaphore(_CONCURRENCY)

        async def look(task_id: str) -> UpstreamTask | UpstreamError:
            async with slots:
                try:
                    return await self._client.get(task_id)
                except UpstreamError as error:
                    return error

        answers = await asyncio.gather(*(look(task_id) for task_id in task_ids))
        seen = [answer for answer in answers if isinstance(answer, UpstreamTask)]
        errors = [answer for answer in answers if isinstance(answer, UpstreamError)]
        for error in errors:
            if not isinstance(error, UpstreamNotFound):
                self._back_off(error)
                break
            log.warning("the provider does not show a task that it has accepted", error=error.message)
        return seen

    def _back_off(self, error: UpstreamError) -> None:
        self._failures += 1
        seconds = min(self._interval * 2**self._failures, _BACKOFF_LIMIT)
        seconds = max(seconds, error.retry_after or 0.0)
        self._not_before = self._now() + self._jittered(seconds)
        log.warning("missed a look", reason=error.reason, error=error.message, next_look_seconds=round(seconds, 1))

    def _tell(self, seen: Iterable[UpstreamTask], looked: float) -> None:
        for upstream in seen:
            followed = self._followed.get(upstream.task_id)
            if followed is None:
                continue
            # A list shows more tasks than were due; those need no look of their own now.
            followed.next_look = max(followed.next_look, looked + self._interval * (1 - _JITTER))
            if upstream.status is UpstreamStatus.SUCCEEDED and not upstream.videos:
                followed.urlless += 1
                if followed.urlless < URLLESS_LOOKS:
                    continue
            if upstream.status is not followed.status:
                followed.status = upstream.status
                followed.news.put_nowait(upstream)
