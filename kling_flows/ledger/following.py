"""The log, event by event, for one who follows it; what this process has just written is not read back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from kling_flows.ledger.records import Event

#: Most events that are kept while nobody asks for them; a commit writes some hundreds.
_MOST: Final = 1_024


class Following:
    """What one follower has not had yet. For one event loop.

    Args:
        read: Reads up to so many events after a position from the ledger.
    """

    def __init__(self, read: Callable[[int, int], Awaitable[Sequence[Event]]]) -> None:
        self._read = read
        self._kept: dict[int, Event] = {}
        # Something was committed since the last look at the ledger, or may have been, that is not kept here.
        self._missed = True
        self._moved = asyncio.Event()

    def note(self, events: Iterable[Event]) -> None:
        """Keep events that were committed, in their order."""
        self._moved.set()
        for event in events:
            self._kept[event.position] = event
        while len(self._kept) > _MOST:
            self._missed = True
            del self._kept[next(iter(self._kept))]

    def miss(self) -> None:
        """Something else was committed."""
        self._missed = True
        self._moved.set()

    async def wait(self, seconds: float) -> None:
        """Wait for the first commit after :meth:`after` was called, at most so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._moved.wait()

    async def after(self, position: int, limit: int) -> tuple[Sequence[Event], bool]:
        """Events that follow a position without a gap, in their order, and whether there may be more already.

        Args:
            position: Where the follower is; it never goes back.
            limit: Of what is read from the ledger.

        Raises:
            LedgerUnavailable: the ledger cannot be read.
        """
        self._moved.clear()
        if following := self._take(position):
            return following, self._missed
        # What is kept came before what will be read, or is part of it.
        self._kept.clear()
        self._missed = False
        try:
            events = await self._read(position, limit)
        except BaseException:
            self.miss()
            raise
        self._missed |= len(events) == limit
        return events, len(events) == limit

    def _take(self, position: int) -> list[Event]:
        following: list[Event] = []
        # Positions have no gaps: what stands at the next one is what comes next, whoever else writes.
        while (event := self._kept.pop(position + 1, None)) is not None:
            following.append(event)
            position = event.position
        return following
