"""Whether one more video task may wait."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from kling_flows.errors import QueueFull
from kling_flows.ledger import Ledger

#: Seconds that a count is used; between two counts, what this front admits is added to it, so that it errs upwards.
COUNT_SECONDS: Final = 10.0

#: Seconds between two counts while the queue seems full.
RECOUNT_SECONDS: Final = 1.0


class Admission:
    """Keeps the queue below its limit without a count for each task that is created."""

    def __init__(self, ledger: Ledger, limit: int) -> None:
        self._ledger = ledger
        self._limit = limit
        self._waiting = 0
        self._counted = -COUNT_SECONDS
        self._counting = asyncio.Lock()

    async def admit(self, count: int = 1) -> None:
        """Take so many places in the queue.

        Raises:
            QueueFull: there are not so many; none is taken.
        """
        if self._is_stale(count):
            await self._count(count)
        if self._waiting + count > self._limit:
            raise QueueFull(
                f"{self._waiting} video tasks are waiting, of {self._limit} that may, so that there is no room for "
                f"{count} more; try again later",
                metadata={"limit": str(self._limit)},
            )
        self._waiting += count

    async def _count(self, wanted: int) -> None:
        async with self._counting:
            if not self._is_stale(wanted):
                return
            self._waiting = await self._ledger.count_waiting()
            self._counted = time.monotonic()

    def _is_stale(self, wanted: int) -> bool:
        age = time.monotonic() - self._counted
        return age >= (COUNT_SECONDS if self._waiting + wanted <= self._limit else RECOUNT_SECONDS)
