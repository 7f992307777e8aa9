"""What a database has to do for the ledger, and how its answers get back to the loops that wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

from sqlalchemy import Connection

#: Most operations in one transaction.
GROUP_LIMIT: Final = 256

Operation = Callable[[Connection], Any]


class Backend(Protocol):
    """A database for the ledger; the operations are the same on each."""

    def start(self, loop: asyncio.AbstractEventLoop, on_commit: Callable[[bool], None]) -> None:
        """Begin; ``on_commit`` is called on ``loop`` after commits: true for others', false for ours."""
        ...

    def write(self, operation: Operation) -> asyncio.Future[Any]:
        """Run ``operation`` in a durable transaction, after those that were given before. It may be run again.

        A caller that is cancelled while it waits does not undo the write. All writes of all processes are as if they
        came one after the other, and the log's positions follow that order.

        Raises:
            LedgerUnavailable: the database cannot be written, or the ledger is closed.
        """
        ...

    async def read(self, operation: Operation) -> Any:
        """Run ``operation`` on a read-only snapshot; raises LedgerUnavailable if the database cannot be read."""
        ...

    @property
    def write_failed(self) -> bool:
        """Whether the database could not be written when that was last tried."""
        ...

    async def close(self) -> None:
        """Finish the writes that wait, then stop."""
        ...


@dataclass(slots=True)
class Job:
    """An operation, and who waits for its result."""

    operation: Operation
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None

    @classmethod
    def of(cls, operation: Operation) -> Self:
        """For whoever runs on the current loop."""
        loop = asyncio.get_running_loop()
        return cls(operation, loop, loop.create_future())


def answer(group: Sequence[Job]) -> None:
    """Hand the results out, from any thread: one wake-up per loop, not one per job."""
    for loop in {job.loop for job in group}:
        call(loop, _resolve, [job for job in group if job.loop is loop])


def call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: object) -> None:
    """Call ``function`` on a loop, from any thread; nothing if the loop is closed."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        # It was closed while a write was on its way; the write itself is durable.
        return


def _resolve(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
