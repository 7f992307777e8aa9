"""Looking at many upstream tasks of one account, in the fewest calls that its dialect allows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from kling_flows.upstream import UpstreamClient, UpstreamError, UpstreamTask
from kling_flows.upstream.errors import UpstreamInvalid, UpstreamNotFound, UpstreamPermission

log = structlog.get_logger(__name__)

#: Tasks that are due together before a list page is asked for instead of each (fact sheet 4.3).
_LIST_FROM: Final = 4

#: Most tasks of one list page that are asked for; the provider's own limit may be lower.
_PAGE_SIZE: Final = 500

#: Calls under way at a time: of the looks at ticks, and of the hinted looks, which never queue behind the former.
_CONCURRENCY: Final = 8
_HINTED_CONCURRENCY: Final = 8

#: Refusals of a call for many that one of its ids may be the reason of.
_REFUSED: Final = (UpstreamNotFound, UpstreamInvalid, UpstreamPermission)


@dataclass(slots=True)
class Looked:
    """What a look has brought.

    Args:
        tasks: What was shown, in no order; with a list also tasks that nobody asked for.
        error: Why something could not be asked for, if so: a reason to slow down.
    """

    tasks: list[UpstreamTask] = field(default_factory=list[UpstreamTask])
    error: UpstreamError | None = None

    def add(self, other: Looked) -> None:
        """Take in what another look has brought."""
        self.tasks.extend(other.tasks)
        self.error = self.error or other.error


class Looker:
    """Asks for tasks by twenty ids a call, by list pages or singly; never raises an UpstreamError.

    Args:
        client: The account.
    """

    def __init__(self, client: UpstreamClient) -> None:
        self._client = client
        self._batch = client.features.batch_ids
        self._page_size = min(_PAGE_SIZE, client.features.list_page_size)
        self._slots = asyncio.Semaphore(_CONCURRENCY)
        self._hinted_slots = asyncio.Semaphore(_HINTED_CONCURRENCY)
        # What a call for many does not show, or is spoilt by.
        self._alone: set[str] = set()
        self._pages = 1

    def room(self, wanted: int) -> int:
        """How many tasks more than so many can be asked for without another call."""
        return -wanted % self._batch if self._batch else 0

    def calls(self, wanted: int) -> int:
        """About how many calls a look at so many tasks takes."""
        if self._batch:
            return -(-wanted // self._batch)
        return self._pages if self._page_size and self._is_listed(wanted) else wanted

    @property
    def at_once(self) -> int:
        """How many hinted looks at portions may overlap; lists show the same tasks again, so one follows the other."""
        return 1 if self._page_size else _HINTED_CONCURRENCY

    def portions(self, wanted: Sequence[str]) -> list[Sequence[str]]:
        """Tasks in groups that cost no more calls than all of them together."""
        size = self._batch or (len(wanted) if self._page_size else 1)
        return [wanted[start : start + size] for start in range(0, len(wanted), max(size, 1))]

    def forget(self, task_id: str) -> None:
        """Forget a task that nobody will ask for again."""
        self._alone.discard(task_id)

    async def look(self, wanted: Sequence[str], followed: int, *, hinted: bool = False) -> Looked:
        """Look at tasks.

        Args:
            wanted: The provider's ids, each once.
            followed: How many tasks are followed at all, which tells how far back a list is worth reading.
            hinted: Whether the provider has said that they ended.
        """
        slots = self._hinted_slots if hinted else self._slots
        if self._batch:
            return await self._look_by_ids(wanted, slots)
        if self._page_size:
            return await self._look_by_list(wanted, 2 + 2 * followed // self._page_size, slots)
        return await self._look_singly(wanted, slots)

    async def _look_by_ids(self, wanted: Sequence[str], slots: asyncio.Semaphore) -> Looked:
        together = [task_id for task_id in wanted if task_id not in self._alone]
        batches = [together[start : start + self._batch] for start in range(0, len(together), self._batch)]
        singles = [[task_id] for task_id in wanted if task_id in self._alone]
        return await _gathered(self._look_at_batch(batch, slots) for batch in [*batches, *singles])

    async def _look_at_batch(self, batch: Sequence[str], slots: asyncio.Semaphore) -> Looked:
        try:
            async with slots:
                return Looked(list(await self._client.get_many(batch)))
        except _REFUSED as refused:
            if len(batch) == 1:
                self._alone.update(batch)
                log.warning("the provider does not show a task that it has accepted", error=refused.message)
                return Looked()
        except UpstreamError as error:
            return Looked(error=error)
        half = len(batch) // 2
        return await _gathered(self._look_at_batch(part, slots) for part in (batch[:half], batch[half:]))

    async def _look_by_list(self, wanted: Sequence[str], most_pages: int, slots: asyncio.Semaphore) -> Looked:
        if len(self._alone) > 2 * most_pages:
            # Together they are worth a longer search again.
            self._alone.clear()
        missing = set(wanted)
        looked = Looked()
        if self._is_listed(len(missing - self._alone)):
            looked = await self._read_list(missing, most_pages)
        if looked.error is None:
            looked.add(await self._look_singly(sorted(missing), slots))
        return looked

    def _is_listed(self, wanted: int) -> bool:
        return wanted >= _LIST_FROM and wanted > self._pages

    async def _read_list(self, missing: set[str], most_pages: int) -> Looked:
        looked = Looked()
        for page in range(1, most_pages + 1):
            try:
                listed = await self._client.list_page(page, self._page_size)
            except UpstreamError as error:
                looked.error = error
                return looked
            self._pages = page
            looked.tasks.extend(listed)
            shown = {upstream.task_id for upstream in listed}
            missing -= shown
            self._alone -= shown
            if not missing - self._alone or len(listed) < self._page_size:
                break
        self._alone |= missing
        return looked

    async def _look_singly(self, wanted: Sequence[str], slots: asyncio.Semaphore) -> Looked:
        return await _gathered(self._look_at_one(task_id, slots) for task_id in wanted)

    async def _look_at_one(self, task_id: str, slots: asyncio.Semaphore) -> Looked:
        try:
            async with slots:
                return Looked([await self._client.get(task_id)])
        except UpstreamNotFound as error:
            log.warning("the provider does not show a task that it has accepted", error=error.message)
            return Looked()
        except UpstreamError as error:
            return Looked(error=error)


async def _gathered(looks: Iterable[Awaitable[Looked]]) -> Looked:
    result = Looked()
    for looked in await asyncio.gather(*looks):
        result.add(looked)
    return result
