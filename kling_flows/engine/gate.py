"""Lets a limited number in at a time, and of those that wait the one with the smallest key first."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count


class Gate:
    """As a semaphore, but ordered by need and not by arrival.

    Args:
        places: How many may be inside at a time.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._arrivals = count()

    @asynccontextmanager
    async def entered(self, key: float) -> AsyncGenerator[None]:
        """Wait for a place, hold it while the context is open.

        Args:
            key: The smaller, the earlier; of equal ones who came first.
        """
        await self._enter(key)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, key: float) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (key, next(self._arrivals), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # The place was given to somebody who no longer wants it.
                self._leave()
            raise

    def _leave(self) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                # The place is handed over: nobody who comes meanwhile can take it.
                turn.set_result(None)
                return
        self._free += 1
