"""Creates that come while the database is busy share their statements, not only their commit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection

from kling_flows.errors import KlingFlowsError
from kling_flows.ledger.batch import Creation, create_each
from kling_flows.ledger.records import VideoTask

#: Most creates in one operation, so that what waits behind it does not wait long.
MOST_TOGETHER: Final = 256

_Outcome = VideoTask | KlingFlowsError
_Write = Callable[[Callable[[Connection], list[_Outcome]]], asyncio.Future[list[_Outcome]]]


class Gathering:
    """Joins creates to the one that waits for its turn already, if there is one.

    Args:
        write: Runs an operation in a durable transaction, on a thread of its own maybe.
    """

    def __init__(self, write: _Write) -> None:
        self._write = write
        self._open: _Group | None = None

    async def create(self, creation: Creation) -> VideoTask:
        """Create a task durably; a caller that is cancelled meanwhile does not undo it.

        Raises:
            KlingFlowsError: it was refused, see `operations.create`, or nothing could be written.
        """
        group = self._open
        # One that could not even be begun still takes more; it has failed for all that join it.
        number = None if group is None or group.written.done() else group.join(creation)
        if group is None or number is None:
            group, number = _Group(creation), 0
            group.written = self._write(group.run)
            group.written.add_done_callback(_retrieve)
            self._open = group
        outcome = (await asyncio.shield(group.written))[number]
        if isinstance(outcome, KlingFlowsError):
            raise outcome
        return outcome


class _Group:
    """Creates of one operation; it takes more until its turn comes."""

    written: asyncio.Future[list[_Outcome]]

    def __init__(self, first: Creation) -> None:
        self._creations = [first]
        self._closed = False
        self._joining = threading.Lock()

    def join(self, creation: Creation) -> int | None:
        """Its place among them; None if it comes too late."""
        with self._joining:
            if self._closed or len(self._creations) == MOST_TOGETHER:
                return None
            self._creations.append(creation)
            return len(self._creations) - 1

    def run(self, connection: Connection) -> list[_Outcome]:
        """The operation. It may be run again, for the same creates."""
        with self._joining:
            self._closed = True
        return create_each(connection, self._creations)


def _retrieve(written: asyncio.Future[Any]) -> None:
    # Whoever waited may have gone; a failure that nobody hears of is not an error of the loop.
    if not written.cancelled():
        written.exception()
