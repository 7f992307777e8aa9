"""Creates that come while the database is busy share their statements, not only their commit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Final, Self

from sqlalchemy import Connection

from kling_flows.errors import KlingFlowsError, LedgerUnavailable
from kling_flows.ledger.batch import Created, Creation, create_each
from kling_flows.ledger.records import VideoTask

#: Most creates in one operation, so that what waits behind it does not wait long.
MOST_TOGETHER: Final = 256

#: How many in one operation are a crowd, and seconds after which one is over.
_CROWD: Final = 8
_CROWD_SECONDS: Final = 0.1

#: Seconds without another create after which those that wait are written, and the most that they wait for company.
_MOMENT_SECONDS: Final = 0.004
_LONGEST_SECONDS: Final = 0.02

_Write = Callable[[Callable[[Connection], Created]], asyncio.Future[Created]]
_Note = Callable[[Created], None]


class Gathering:
    """Joins creates to the one that waits for its turn already, if there is one.

    A commit costs as much as some dozen creates, and a database that is quick would have one for every few of them.
    While they come in crowds, those that are to be written wait a moment for what follows on their heels; one that
    comes alone, or with a few, never waits.

    Args:
        write: Runs an operation in a durable transaction, on a thread of its own maybe.
        note: Is told what was committed.
    """

    def __init__(self, write: _Write, note: _Note) -> None:
        self._write = write
        self._note = note
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
            self.hurry()
            now = asyncio.get_running_loop().time()
            crowded = group is not None and group.size >= _CROWD and now < group.begun + _CROWD_SECONDS
            self._open, waiter = _Group.of(creation, self._note)
            if crowded:
                self._wait(self._open, now + _LONGEST_SECONDS)
            else:
                self._send(self._open)
        return await waiter

    def hurry(self) -> None:
        """Let nobody wait for company any longer."""
        if self._open is not None and not self._open.sent:
            self._send(self._open)

    def _wait(self, group: _Group, until: float) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(_MOMENT_SECONDS, self._send_or_wait, group, group.size, until)

    def _send_or_wait(self, group: _Group, size: int, until: float) -> None:
        if group.sent:
            return
        if size < group.size < MOST_TOGETHER and asyncio.get_running_loop().time() < until:
            self._wait(group, until)
        else:
            self._send(group)

    def _send(self, group: _Group) -> None:
        group.sent = True
        group.begun = asyncio.get_running_loop().time()
        try:
            self._write(group.run).add_done_callback(group.answer)
        except KlingFlowsError as error:
            group.refuse(error)


class _Group:
    """Creates of one operation; it takes more until its turn comes."""

    def __init__(self, first: Creation, waiter: asyncio.Future[VideoTask], note: _Note) -> None:
        self._note = note
        self._creations = [first]
        # Of each its own: who goes takes nobody along.
        self._waiters = [waiter]
        self._closed = False
        self._joining = threading.Lock()
        #: Whether it waits for nothing but its turn, and since when, in the loop's seconds.
        self.sent = False
        self.begun = 0.0
        #: Whether the outcomes have been told.
        self.written = False

    @classmethod
    def of(cls, first: Creation, note: _Note) -> tuple[Self, asyncio.Future[VideoTask]]:
        """A group of one, and what will be its task, or why there is none."""
        waiter: asyncio.Future[VideoTask] = asyncio.get_running_loop().create_future()
        return cls(first, waiter, note), waiter

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self._creations)

    def join(self, creation: Creation) -> asyncio.Future[VideoTask] | None:
        """As for the first; None if it comes too late."""
        waiter: asyncio.Future[VideoTask] = asyncio.get_running_loop().create_future()
        with self._joining:
            if self._closed or len(self._creations) == MOST_TOGETHER:
                return None
            self._creations.append(creation)
            self._waiters.append(waiter)
        return waiter

    def run(self, connection: Connection) -> Created:
        """The operation. It may be run again, for the same creates."""
        with self._joining:
            self._closed = True
        return create_each(connection, self._creations)

    def answer(self, written: asyncio.Future[Created]) -> None:
        """Tell each its own outcome."""
        if written.cancelled():
            self.refuse(LedgerUnavailable("the ledger was closed before this was written; try again"))
        elif (error := written.exception()) is not None:
            self.refuse(error)
        else:
            self._note(written.result())
            self._tell(written.result().outcomes)

    def refuse(self, error: BaseException) -> None:
        """Tell all that nothing was written."""
        self._tell([error] * self.size)

    def _tell(self, outcomes: Sequence[VideoTask | BaseException]) -> None:
        self.written = True
        for waiter, outcome in zip(self._waiters, outcomes, strict=True):
            if waiter.done():
                continue
            if isinstance(outcome, BaseException):
                waiter.set_exception(outcome)
            else:
                waiter.set_result(outcome)
