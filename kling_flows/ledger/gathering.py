"""Creates that come while the database is busy share their statements, not only their commit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Final, Self

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
        waiter = None if group is None or group.written else group.join(creation)
        if waiter is None:
            group, waiter = _Group.of(creation)
            self._write(group.run).add_done_callback(group.answer)
            self._open = group
        return await waiter


class _Group:
    """Creates of one operation; it takes more until its turn comes."""

    def __init__(self, first: Creation, waiter: asyncio.Future[VideoTask]) -> None:
        self._creations = [first]
        # Of each its own: who goes takes nobody along.
        self._waiters = [waiter]
        self._closed = False
        self._joining = threading.Lock()
        #: Whether the outcomes have been told.
        self.written = False

    @classmethod
    def of(cls, first: Creation) -> tuple[Self, asyncio.Future[VideoTask]]:
        """A group of one, and what will be its task, or why there is none."""
        waiter: asyncio.Future[VideoTask] = asyncio.get_running_loop().create_future()
        return cls(first, waiter), waiter

    def join(self, creation: Creation) -> asyncio.Future[VideoTask] | None:
        """As for the first; None if it comes too late."""
        waiter: asyncio.Future[VideoTask] = asyncio.get_running_loop().create_future()
        with self._joining:
            if self._closed or len(self._creations) == MOST_TOGETHER:
                return None
            self._creations.append(creation)
            self._waiters.append(waiter)
        return waiter

    def run(self, connection: Connection) -> list[_Outcome]:
        """The operation. It may be run again, for the same creates."""
        with self._joining:
            self._closed = True
        return create_each(connection, self._creations)

    def answer(self, written: asyncio.Future[list[_Outcome]]) -> None:
        """Tell each its own outcome."""
        self.written = True
        if written.cancelled():
            for waiter in self._waiters:
                waiter.cancel()
            return
        error = written.exception()
        outcomes = [error] * len(self._waiters) if error is not None else written.result()
        for waiter, outcome in zip(self._waiters, outcomes, strict=True):
            if waiter.done():
                continue
            if isinstance(outcome, BaseException):
                waiter.set_exception(outcome)
            else:
                waiter.set_result(outcome)
