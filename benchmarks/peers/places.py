"""Places of runs that go on at the same time."""

from __future__ import annotations

import asyncio
from typing import Self


class Place:
    """One of the places of runs that go on at the same time; it can be left before the run has ended.

    Args:
        places: All that there are.
    """

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        self._taken = False

    async def __aenter__(self) -> Self:
        """Wait for it."""
        await self._places.acquire()
        self._taken = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave it, if that has not happened yet."""
        self.leave()

    def leave(self) -> None:
        """Give it to the next."""
        if self._taken:
            self._taken = False
            self._places.release()
