"""PostgreSQL behind the ledger: group commit in each process, one writer at a time among all of them.

The driver runs on a loop and a thread of its own: operations are synchronous and some take long, and whoever waits for
them must be able to go on meanwhile.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, Self, TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from kling_flows.errors import ConfigurationError, LedgerUnavailable
from kling_flows.ledger.address import ADDRESS_SETTING
from kling_flows.ledger.backend import GROUP_LIMIT, Job, Operation, answer, call
from kling_flows.ledger.migrate import bring_up_to_date, is_current
from kling_flows.ledger.postgres_connection import FAILURES, create_engine, not_opened, told
from kling_flows.ledger.postgres_news import listen_forever
from kling_flows.ledger.postgres_writer import RETRY_SECONDS, TAKE_TURN, GroupWriter
from kling_flows.processes import new_event_loop

T = TypeVar("T")

_READERS: Final = 4

#: Seconds after which a statement that changes the schema is given up.
_MIGRATION_SECONDS: Final = 600.0

#: Seconds for a connection's farewell.
_CLOSE_SECONDS: Final = 5.0

#: `pg_current_xact_id` and `pg_xact_status` of what it gives.
_OLDEST_SERVER: Final = 13


class PostgresBackend:
    """Runs operations on a PostgreSQL database; every write that was waiting shares one durable commit."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        # What others know this process's commits by.
        self._name = secrets.token_hex(8)
        self._writer = create_engine(dsn, size=1)
        self._group_writer = GroupWriter(self._writer, self._name)
        self._reader = create_engine(dsn, size=_READERS, read_only=True)
        self._loop = new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ledger-postgres", daemon=True)
        self._thread.start()
        self._waiting: deque[Job] = deque()
        self._arrived = asyncio.Event()
        self._closing = False
        self._reads: set[asyncio.Task[None]] = set()
        self._writing: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._on_commit: Callable[[bool], None] = lambda _foreign: None

    @property
    def write_failed(self) -> bool:
        """See :meth:`Backend.write_failed`."""
        return self._group_writer.write_failed

    @classmethod
    async def open(cls, dsn: str, *, shown_url: str) -> Self:
        """Connect, and bring the schema up to date.

        Raises:
            ConfigurationError: the database, the role or its rights are not as they have to be, or the ledger is of a
                newer release.
            LedgerUnavailable: the server does not answer.
        """
        backend = cls(dsn)
        try:
            await backend._there(backend._prepare(shown_url))
        except (*FAILURES, ValueError) as error:
            await backend.close()
            raise not_opened(error, shown_url) from None
        except BaseException:
            await backend.close()
            raise
        return backend

    def start(self, loop: asyncio.AbstractEventLoop, on_commit: Callable[[bool], None]) -> None:
        """See :meth:`Backend.start`."""
        self._on_commit = lambda foreign: call(loop, on_commit, foreign)
        call(self._loop, self._start)

    def write(self, operation: Operation) -> asyncio.Future[Any]:
        """See :meth:`Backend.write`."""
        if self._closing:
            raise LedgerUnavailable("the ledger is closed here; nothing was written")
        job = Job.of(operation)
        call(self._loop, self._take_in, job)
        return job.future

    async def read(self, operation: Operation) -> Any:
        """See :meth:`Backend.read`."""
        if self._closing:
            raise LedgerUnavailable("the ledger is closed here; nothing was read")
        job = Job.of(operation)
        call(self._loop, self._begin_read, job)
        return await job.future

    async def close(self) -> None:
        """See :meth:`Backend.close`."""
        if self._closing:
            return
        self._closing = True
        await self._there(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the driver's loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    # From here on everything runs on the driver's loop.

    async def _prepare(self, shown_url: str) -> None:
        engine = create_engine(self._dsn, size=1, statement_seconds=_MIGRATION_SECONDS)
        try:
            async with engine.begin() as connection:
                await connection.run_sync(_prepare, shown_url)
        finally:
            await engine.dispose()

    def _start(self) -> None:
        self._writing = self._loop.create_task(self._write_forever())
        self._listening = self._loop.create_task(
            listen_forever(self._dsn, self._name, lambda: self._on_commit(True), retry_seconds=RETRY_SECONDS)
        )

    def _take_in(self, job: Job) -> None:
        self._waiting.append(job)
        self._arrived.set()

    def _begin_read(self, job: Job) -> None:
        reading = self._loop.create_task(self._answer_read(job))
        self._reads.add(reading)
        reading.add_done_callback(self._reads.discard)

    async def _answer_read(self, job: Job) -> None:
        try:
            job.result = await self._read(job.operation)
        except BaseException as error:
            job.error = told(error)
        answer([job])

    async def _read(self, operation: Operation) -> Any:
        for attempt in range(1 + _READERS):
            try:
                async with self._reader.begin() as connection:
                    return await connection.run_sync(operation)
            except DBAPIError as error:
                # A connection that was lost while nobody used it says so only now.
                if not error.connection_invalidated or attempt == _READERS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _write_forever(self) -> None:
        while await self._arrived.wait():
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), GROUP_LIMIT))]
            if group:
                await self._group_writer.commit(group)
                self._on_commit(False)
            elif self._closing:
                return
            else:
                self._arrived.clear()

    async def _finish(self) -> None:
        self._arrived.set()
        if self._writing is not None:
            await self._writing
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])
        if self._reads:
            await asyncio.wait(self._reads)
        for engine in (self._writer, self._reader):
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await engine.dispose()
            except FAILURES:
                # The server is gone; so is the connection.
                continue


def _prepare(connection: Connection, shown_url: str) -> None:
    version = connection.dialect.server_version_info or (0,)
    if int(version[0]) < _OLDEST_SERVER:
        raise ConfigurationError(
            ADDRESS_SETTING,
            f"the ledger {shown_url} is on PostgreSQL {version[0]}; {_OLDEST_SERVER} or newer is needed",
        )
    encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        raise ConfigurationError(
            ADDRESS_SETTING, f"the database {shown_url} is encoded in {encoding}; make one with ENCODING 'UTF8'"
        )
    if not is_current(connection, shown_url=shown_url, setting=ADDRESS_SETTING):
        connection.execute(TAKE_TURN)
        # Somebody else may have done it meanwhile.
        if not is_current(connection, shown_url=shown_url, setting=ADDRESS_SETTING):
            bring_up_to_date(connection)
