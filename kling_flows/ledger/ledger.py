"""The ledger: the durable record of every video task and every event of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from sqlalchemy import Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from kling_flows.errors import ConfigurationError, VideoTaskExists
from kling_flows.ledger import operations
from kling_flows.ledger.migrate import migrate
from kling_flows.ledger.operations import Change
from kling_flows.ledger.records import Event, Lease, State, VideoTask
from kling_flows.ledger.sqlite import SqliteBackend, create_sqlite_engine

T = TypeVar("T")


class Backend(Protocol):
    """What a database has to do for the ledger; the operations are the same on each."""

    def start(self, loop: asyncio.AbstractEventLoop, on_commit: Callable[[bool], None]) -> None: ...
    async def write(self, operation: Callable[[Connection], Any]) -> Any: ...
    async def read(self, operation: Callable[[Connection], Any]) -> Any: ...
    async def close(self) -> None: ...


class Ledger:
    """Open one with :meth:`open`; it belongs to the event loop that opened it.

    Every method raises LedgerUnavailable while the database cannot be used.
    """

    def __init__(self, backend: Backend, facts: dict[str, str]) -> None:
        self._backend = backend
        self._changed = asyncio.Event()
        self._changed_by_others = asyncio.Event()
        self.ledger_id = facts["ledger_id"]
        self.token_key = bytes.fromhex(facts["token_key"])

    @classmethod
    async def open(cls, url: str) -> Self:
        """Open the ledger at ``url`` (``sqlite:///…``), create it or bring it up to date if need be.

        Raises:
            ConfigurationError: the address is not one of ours, cannot be written, or is of a newer release.
        """
        path = _sqlite_path(url)
        backend = await asyncio.to_thread(_prepare, path, url)
        facts: dict[str, str] = await backend.read(operations.read_meta)
        ledger = cls(backend, facts)
        backend.start(asyncio.get_running_loop(), ledger._notify)
        return ledger

    async def close(self) -> None:
        """Finish the writes that wait, then close."""
        await self._backend.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _notify(self, foreign: bool) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        if foreign:
            self._changed_by_others.set()
            self._changed_by_others = asyncio.Event()

    def changes(self) -> CommitSignal:
        """A signal taken before a read, so that no commit after the read is slept through."""
        return CommitSignal(self._changed)

    def changes_by_others(self) -> CommitSignal:
        """As :meth:`changes`, for commits through other :class:`Ledger` objects, in this process or another."""
        return CommitSignal(self._changed_by_others)

    async def create(
        self, task: VideoTask, *, request_id: str = "", request_digest: str = "", runner_id: str | None = None
    ) -> VideoTask:
        """See :func:`operations.create`."""
        return await self._write(
            lambda c: operations.create(
                c, task, request_id=request_id, request_digest=request_digest, runner_id=runner_id
            )
        )

    async def create_or_get(self, task: VideoTask, request_digest: str) -> VideoTask:
        """Insert a task, or return the one of that id."""
        try:
            return await self.create(task, request_digest=request_digest)
        except VideoTaskExists:
            return await self.get(task.id)

    async def get(self, task_id: str, *, tenant: str | None = None) -> VideoTask:
        """See :func:`operations.get`."""
        return await self._read(lambda c: operations.get(c, task_id, tenant=tenant))

    async def get_many(self, ids: Sequence[str], *, tenant: str) -> list[VideoTask]:
        """Those of the tasks that exist, the newest first."""
        if not ids:
            return []
        return [task for _, task in await self.list_tasks(tenant=tenant, ids=ids)]

    async def list_tasks(
        self,
        *,
        tenant: str,
        states: Sequence[State] = (),
        label_values: Sequence[tuple[str, str]] = (),
        ids: Sequence[str] = (),
        before_seq: int | None = None,
        limit: int | None = None,
    ) -> list[tuple[int, VideoTask]]:
        """Sequence numbers and tasks, the newest first."""
        query = operations.select_tasks(
            tenant=tenant, states=states, label_values=label_values, ids=ids, before_seq=before_seq, limit=limit
        )

        def run(connection: Connection) -> list[tuple[int, VideoTask]]:
            return [(row.seq, VideoTask.model_validate_json(row.document)) for row in connection.execute(query)]

        return await self._read(run)

    async def advance(self, task_id: str, change: Change, *, runner_id: str | None = None) -> VideoTask:
        """See :func:`operations.advance`."""
        return await self._write(lambda c: operations.advance(c, task_id, change, runner_id=runner_id))

    async def advance_and_learn(
        self, task_id: str, change: Change, *, runner_id: str, key: str, seconds: float
    ) -> VideoTask:
        """As :meth:`advance`, and remember how long the provider took, in the same transaction."""

        def run(connection: Connection) -> VideoTask:
            task = operations.advance(connection, task_id, change, runner_id=runner_id)
            operations.learn_duration(connection, key, seconds)
            return task

        return await self._write(run)

    async def claim(self, runner_id: str, limit: int) -> list[VideoTask]:
        """See :func:`operations.claim`."""
        return await self._write(lambda c: operations.claim(c, runner_id, limit))

    async def claim_one(self, task_id: str, runner_id: str) -> VideoTask:
        """See :func:`operations.claim_one`."""
        return await self._write(lambda c: operations.claim_one(c, task_id, runner_id))

    async def claimable_from(self) -> float | None:
        """See :func:`operations.claimable_from`."""
        return await self._read(operations.claimable_from)

    async def release_after(self, task_ids: Sequence[str], runner_id: str, seconds: float) -> None:
        """Give tasks back; nobody takes them again before so many seconds have passed."""
        not_before = time.time() + seconds
        await self._write(lambda c: operations.release(c, task_ids, runner_id, not_before=not_before))

    async def held_by(self, runner_id: str) -> set[str]:
        """See :func:`operations.held_by`."""
        return await self._read(lambda c: operations.held_by(c, runner_id))

    async def read_meta(self) -> dict[str, str]:
        """See :func:`operations.read_meta`."""
        return await self._read(operations.read_meta)

    async def write_meta(self, key: str, value: str) -> None:
        """See :func:`operations.write_meta`."""
        await self._write(lambda c: operations.write_meta(c, key, value))

    async def open_lease(self, lease: Lease) -> None:
        """See :func:`operations.open_lease`."""
        await self._write(lambda c: operations.open_lease(c, lease))

    async def renew_lease(self, runner_id: str) -> bool:
        """See :func:`operations.renew_lease`."""
        return await self._write(lambda c: operations.renew_lease(c, runner_id))

    async def read_leases(self) -> Sequence[Lease]:
        """See :func:`operations.read_leases`."""
        return await self._read(operations.read_leases)

    async def end_lease(self, runner_id: str, beat: int | None = None) -> int:
        """See :func:`operations.end_lease`."""
        return await self._write(lambda c: operations.end_lease(c, runner_id, beat))

    async def head(self) -> int:
        """The newest position of the log; 0 while it is empty."""
        return await self._read(operations.head)

    async def oldest(self) -> int:
        """The oldest position that is kept; 0 while the log is empty."""
        return await self._read(operations.oldest)

    async def read_events(self, after: int, limit: int) -> Sequence[Event]:
        """Up to ``limit`` events after a position, in their order."""
        rows: list[tuple[int, str]] = await self._read(lambda c: operations.read_events(c, after, limit))
        return [Event(position=position, task=VideoTask.model_validate_json(doc)) for position, doc in rows]

    async def read_history(self, task_id: str) -> Sequence[Event]:
        """All events of one task, in their order."""
        return await self._read(lambda c: operations.read_history(c, task_id))

    async def count_waiting(self) -> int:
        """How many tasks are QUEUED."""
        return await self._read(operations.count_waiting)

    async def read_durations(self) -> dict[str, float]:
        """Mean seconds that videos take, by key."""
        return await self._read(operations.read_durations)

    async def _write(self, operation: Callable[[Connection], T]) -> T:
        return await self._backend.write(operation)

    async def _read(self, operation: Callable[[Connection], T]) -> T:
        return await self._backend.read(operation)


class CommitSignal:
    """Set by the first commit after it was taken."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for a commit, at most so many seconds; false if there was none."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        return True


def _sqlite_path(url: str) -> str:
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        raise ConfigurationError(
            "KLING_FLOWS_LEDGER_URL",
            "only sqlite:///<file> is supported by this release; for example sqlite:///ledger.db",
        )
    return parsed.database


def _prepare(path: str, url: str) -> SqliteBackend:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        engine = create_sqlite_engine(path, writer=True)
        try:
            migrate(engine, shown_url=url)
        finally:
            engine.dispose()
    except (OSError, DBAPIError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise ConfigurationError(
            "KLING_FLOWS_STATE_DIR", f"the ledger {path} cannot be opened for writing ({cause}); name a folder that can"
        ) from error
    return SqliteBackend(path)
