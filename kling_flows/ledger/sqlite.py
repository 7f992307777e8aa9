"""SQLite behind the ledger: one writer thread with group commit, a few reader threads, one thread that sees commits."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, cast

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from kling_flows.errors import LedgerUnavailable

#: Seconds that a statement waits for another process's write.
BUSY_SECONDS: Final = 5.0

#: Seconds between two looks at whether another connection has committed; one look costs a few microseconds.
WATCH_SECONDS: Final = 0.04

#: Most operations in one transaction.
GROUP_LIMIT: Final = 256

_READERS: Final = 2

Operation = Callable[[Connection], Any]


@dataclass(slots=True)
class _Job:
    operation: Operation
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


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
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="ledger-read")
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._on_commit: Callable[[bool], None] = lambda _foreign: None
        self._writing = threading.Lock()

    def start(self, loop: asyncio.AbstractEventLoop, on_commit: Callable[[bool], None]) -> None:
        """Start the threads; ``on_commit`` is called on ``loop`` after commits: true for others', false for ours."""
        self._on_commit = lambda foreign: _call(loop, on_commit, foreign)
        for name, target in (("ledger-write", self._write_forever), ("ledger-watch", self._watch_forever)):
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    async def write(self, operation: Operation) -> Any:
        """Run ``operation`` in a durable transaction.

        A caller that is cancelled while it waits does not undo the write.

        Raises:
            LedgerUnavailable: the file could not be written within ``BUSY_SECONDS``, or the ledger is closed.
        """
        if self._stop.is_set():
            raise LedgerUnavailable("the ledger is closed here; nothing was written")
        loop = asyncio.get_running_loop()
        job = _Job(operation, loop, loop.create_future())
        self._jobs.put(job)
        return await job.future

    async def read(self, operation: Operation) -> Any:
        """Run ``operation`` on a read-only snapshot."""
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
            raise _unavailable(error) from error

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

    def _commit(self, group: Sequence[_Job]) -> None:
        with self._writing:
            self._run(group)
        # One wake-up per loop, not one per write.
        for loop in {job.loop for job in group}:
            _call(loop, _resolve, [job for job in group if job.loop is loop])
        self._on_commit(False)

    def _run(self, group: Sequence[_Job]) -> None:
        begun = False
        try:
            with self._writer.begin() as connection:
                begun = True
                for job in group:
                    job.result = job.operation(connection)
        except BaseException as error:
            if isinstance(error, DBAPIError) and not begun:
                # The file itself cannot be written: alone, each would wait as long again, one after the other.
                for job in group:
                    job.error = _unavailable(error)
            else:
                # One of them failed and took the others' work with it: each again, alone.
                for job in group:
                    self._commit_alone(job)

    def _commit_alone(self, job: _Job) -> None:
        try:
            with self._writer.begin() as connection:
                job.result = job.operation(connection)
        except DBAPIError as error:
            job.error = _unavailable(error)
        except BaseException as error:
            job.error = error

    def _watch_forever(self) -> None:
        # The first look always wakes: a commit may have come between the caller's first read and it.
        seen = None
        while not self._stop.wait(WATCH_SECONDS):
            # A connection does not see its own commits in this number: asked of the writer, it tells of others' only.
            if not self._writing.acquire(blocking=False):
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


def _resolve(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: object) -> None:
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        # The loop was closed while a write was on its way; the write itself is durable.
        return


def _unavailable(error: DBAPIError) -> LedgerUnavailable:
    return LedgerUnavailable(
        f"the ledger cannot be used at the moment ({error.orig}); nothing was lost, try again",
        metadata={"cause": type(error.orig).__name__},
    )
