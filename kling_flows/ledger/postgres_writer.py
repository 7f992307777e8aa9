"""Writing on PostgreSQL: group commit within a process, turns among all of them."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from kling_flows.ledger.backend import Job, answer
from kling_flows.ledger.postgres_connection import FAILURES, WAIT_SECONDS, is_passing, told
from kling_flows.ledger.postgres_news import CHANNEL

#: Seconds between two attempts at a database that does not answer.
RETRY_SECONDS: Final = 0.1

#: Whose turn it is to write. Held to the end of the transaction, so that sequence numbers are in commit order and
#: sums and places that were read stay true: what SQLite's single writer gives by itself.
TAKE_TURN: Final = text("SELECT pg_advisory_xact_lock(7020659183241176940)")

#: Tells the others of the commit, if anything was written; gives the transaction's number then.
_TELL: Final = text(
    "SELECT pg_current_xact_id_if_assigned()::text, pg_notify(:channel, :sender) "
    "WHERE pg_current_xact_id_if_assigned() IS NOT NULL"
).bindparams(channel=CHANNEL)

_STATUS: Final = text("SELECT pg_xact_status(CAST(CAST(:number AS text) AS xid8))")


class _OutcomeUnknown(Exception):
    """The connection was lost while it committed."""

    def __init__(self, number: str) -> None:
        super().__init__(number)
        self.number = number


class GroupWriter:
    """Commits groups of operations, one after the other.

    Args:
        engine: Of one connection.
        name: What others know this process's commits by.
    """

    def __init__(self, engine: AsyncEngine, name: str) -> None:
        self._engine = engine
        self._name = name
        #: Whether the database could not be written when that was last tried.
        self.write_failed = False

    async def commit(self, group: list[Job]) -> None:
        """Run the operations in one durable transaction, and answer those who wait for them."""
        # Where nothing could be written a moment ago, nobody is made to wait for the same again.
        deadline = time.monotonic() + (0.0 if self.write_failed else WAIT_SECONDS)
        unknown: str | None = None
        while True:
            try:
                if unknown is None or not await self._was_committed(unknown):
                    unknown = None
                    await self._write_together(group)
            except _OutcomeUnknown as lost:
                unknown, error = lost.number, lost.__cause__ or lost
                # However long it took to be lost: to leave somebody in doubt is the last resort.
                deadline = time.monotonic() + WAIT_SECONDS
            except BaseException as failure:
                error = failure
            else:
                self.write_failed = False
                break
            if not isinstance(error, FAILURES) or not is_passing(error) or time.monotonic() >= deadline:
                self._fail(group, error, unknown=unknown is not None)
                break
            await asyncio.sleep(RETRY_SECONDS)
        answer(group)

    def _fail(self, group: list[Job], error: BaseException, *, unknown: bool) -> None:
        self.write_failed = isinstance(error, FAILURES) and is_passing(error)
        for job in group:
            job.error = told(error, unknown=unknown)

    async def _write_together(self, group: list[Job]) -> None:
        """One transaction for all; if one of them fails in it, another one that keeps them apart."""
        try:
            await self._transact(group, apart=False)
        except _OutcomeUnknown:
            raise
        except Exception as error:
            if isinstance(error, FAILURES) and is_passing(error):
                raise
            if len(group) == 1:
                group[0].error = told(error)
            else:
                await self._transact(group, apart=True)

    async def _transact(self, group: list[Job], *, apart: bool) -> None:
        async with self._engine.connect() as connection:
            number = await connection.run_sync(self._run, group, apart)
            try:
                await connection.commit()
            except FAILURES as error:
                if number is None:
                    raise
                raise _OutcomeUnknown(number) from error

    def _run(self, connection: Connection, group: list[Job], apart: bool) -> str | None:
        """The transaction's number; None if nothing was written."""
        connection.execute(TAKE_TURN)
        for job in group:
            if apart:
                _run_apart(connection, job)
            else:
                job.result, job.error = job.operation(connection), None
        written = connection.execute(_TELL, {"sender": self._name}).first()
        return None if written is None else written[0]

    async def _was_committed(self, number: str) -> bool:
        async with self._engine.begin() as connection:
            # The lost transaction has the turn for as long as its outcome is open.
            await connection.execute(TAKE_TURN)
            return (await connection.execute(_STATUS, {"number": number})).scalar_one() == "committed"


def _run_apart(connection: Connection, job: Job) -> None:
    try:
        with connection.begin_nested():
            job.result, job.error = job.operation(connection), None
    except Exception as error:
        if isinstance(error, FAILURES) and is_passing(error):
            raise
        job.error = told(error)
