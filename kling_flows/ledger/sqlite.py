"""SQLite behind the ledger: one writer thread with group commit, a few reader threads, one thread that sees commits."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self, cast

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from kling_flows.errors import ConfigurationError, LedgerUnavailable
from kling_flows.ledger.backend import GROUP_LIMIT, Job, Operation, answer, call
from kling_flows.ledger.migrate import migrate

#: Seconds that a statement waits for another process's write.
BUSY_SECONDS: Final = 5.0

#: Seconds between two looks at whether another connection has committed; one look costs a few microseconds.
WATCH_SECONDS: Final = 0.04

#: Primary result codes of what passes by itself or by somebody's making room: locked by another process, the disk full
#: or failing.
_PASSING: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})

_READERS: Final = 2


def create_sqlite_engine(path: str, *, writer: bool) -> Engine:
    """An engine whose transactions are IMMEDIATE for the writer and read-only for readers.

    ``synchronous=FULL``: a commit that was answered survives the loss of power, which is what guards the money.
    """
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=QueuePool,
        pool_size=1 if writer else _READERS,
        max_overflow=0,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )

    def on_connect(connection: sqlite3.Connection, _record: object) -> None:
        # The driver's own transaction control would begin too late and not IMMEDIATE.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        if not writer:
            connection.execute("PRAGMA query_only=ON")

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    return engine


class SqliteBackend:
    """Runs operations on a SQLite file; every write that was waiting shares one durable commit."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._writer = create_sqlite_engine(path, writer=True)
        self._reader = create_sqlite_engine(path, writer=False)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="ledger-read")
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._on_commit: Callable[[bool], None] = lambda _foreign: None
        self._writing = threading.Lock()
        #: Whether the file could not be written when that was last tried.
        self.write_failed = False

    @classmethod
    async def open(cls, path: str, *, shown_url: str) -> Self:
        """Open the file, make it if need be, and bring its schema up to date.

        Raises:
            ConfigurationError: it cannot be written, or is of a newer release.
            LedgerUnavailable: it is locked by another process, or its disk is full.
        """
        await asyncio.to_thread(_prepare, path, shown_url)
        return cls(path)

    def start(self, loop: asyncio.AbstractEventLoop, on_commit: Callable[[bool], None]) -> None:
        """Start the threads; ``on_commit`` is called on ``loop`` after commits: true for others', false for ours."""
        self._on_commit = lambda foreign: call(loop, on_commit, foreign)
        for name, target in (("ledger-write", self._write_forever), ("ledger-watch", self._watch_forever)):
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def write(self, operation: Operation) -> asyncio.Future[Any]:
        """Run ``operation`` in a durable transaction.

        A caller that is cancelled while it waits does not undo the write.

        Raises:
            LedgerUnavailable: the file could not be written within ``BUSY_SECONDS``, or the ledger is closed.
        """
        if self._stop.is_set():
            raise LedgerUnavailable("the ledger is closed here; nothing was written")
        job = Job.of(operation)
        self._jobs.put(job)
        return job.future

    async def read(self, operation: Operation) -> Any:
        """Run ``operation`` on a read-only snapshot.

        Raises:
            LedgerUnavailable: the file could not be read, or the ledger is closed.
        """
        if self._stop.is_set():
            raise LedgerUnavailable("the ledger is closed here; nothing was read")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, operation)

    async def close(self) -> None:
        """Finish the writes that wait, then stop."""
        self._stop.set()
        self._jobs.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        self._readers.shutdown(wait=True)
        self._writer.dispose()
        self._reader.dispose()

    def _read(self, operation: Operation) -> Any:
        try:
            with self._reader.begin() as connection:
                return operation(connection)
        except DBAPIError as error:
            raise unavailable(error) from error

    def _write_forever(self) -> None:
        while (job := self._jobs.get()) is not None:
            group = [job]
            stopping = False
            while len(group) < GROUP_LIMIT:
                try:
                    following = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    stopping = True
                    break
                group.append(following)
            self._commit(group)
            if stopping:
                return

    def _commit(self, group: Sequence[Job]) -> None:
        with self._writing:
            self._run(group)
        answer(group)
        self._on_commit(False)

    def _run(self, group: Sequence[Job]) -> None:
        begun = False
        try:
            with self._writer.begin() as connection:
                begun = True
                for job in group:
                    job.result = job.operation(connection)
            self.write_failed = False
        except BaseException as error:
            if isinstance(error, DBAPIError) and not begun:
                # The file itself cannot be written: alone, each would wait as long again, one after the other.
                self.write_failed = True
                for job in group:
                    job.error = unavailable(error)
            else:
                # One of them failed and took the others' work with it: each again, alone.
                for job in group:
                    self._commit_alone(job)

    def _commit_alone(self, job: Job) -> None:
        try:
            with self._writer.begin() as connection:
                job.result = job.operation(connection)
            self.write_failed = False
        except DBAPIError as error:
            self.write_failed = is_passing(error)
            job.error = unavailable(error)
        except BaseException as error:
            job.error = error

    def _watch_forever(self) -> None:
        # The first look always wakes: a commit may have come between the caller's first read and it.
        seen = None
        while not self._stop.wait(WATCH_SECONDS):
            # A connection does not see its own commits in this number: asked of the writer, it tells of others' only.
            if not self._writing.acquire(timeout=WATCH_SECONDS):
                continue
            try:
                version = self._foreign_version()
            except (sqlite3.Error, DBAPIError):
                # Whoever reads meets it too and says so. This thread has to be there when it is over.
                continue
            finally:
                self._writing.release()
            if version != seen:
                seen = version
                self._on_commit(True)

    def _foreign_version(self) -> int:
        connection = self._writer.raw_connection()
        try:
            return _data_version(cast("sqlite3.Connection", connection.driver_connection))
        finally:
            connection.close()


def _data_version(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA data_version").fetchone()[0]


def is_passing(error: DBAPIError) -> bool:
    """Whether the file may be usable again later although nobody changes a setting."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    # The upper bits only say more of the same.
    return isinstance(code, int) and code & 0xFF in _PASSING


def unavailable(error: DBAPIError) -> LedgerUnavailable:
    """What callers are told of a database that cannot be used."""
    return LedgerUnavailable(
        f"the ledger cannot be used at the moment ({error.orig}); nothing was lost, try again",
        metadata={"cause": type(error.orig).__name__},
    )


def _prepare(path: str, shown_url: str) -> None:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        engine = create_sqlite_engine(path, writer=True)
        try:
            migrate(engine, shown_url=shown_url)
        finally:
            engine.dispose()
    except (OSError, DBAPIError) as error:
        if isinstance(error, DBAPIError) and is_passing(error):
            raise unavailable(error) from error
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise ConfigurationError(
            "KLING_FLOWS_STATE_DIR", f"the ledger {path} cannot be opened for writing ({cause}); name a folder that can"
        ) from error
