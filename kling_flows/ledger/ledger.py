"""The ledger: the durable record of every video task and every event of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import IO, Self, TypeVar

from sqlalchemy import Connection

from kling_flows.errors import KlingFlowsError, VideoTaskExists
from kling_flows.ledger import adoption, callbacks, claims, deadlines, durations, leases, operations
from kling_flows.ledger.backend import Backend
from kling_flows.ledger.batch import Created, Creation, CreationRefused, create_all, create_each
from kling_flows.ledger.callbacks import Delivery, DeliveryState, Hint
from kling_flows.ledger.figures import Figures, read_figures
from kling_flows.ledger.following import Following
from kling_flows.ledger.gathering import Gathering
from kling_flows.ledger.migrate import read_schema
from kling_flows.ledger.opening import open_backend
from kling_flows.ledger.operations import Change
from kling_flows.ledger.queries import TaskPlace, TimeBound, select_tasks
from kling_flows.ledger.records import Event, Lease, State, VideoTask
from kling_flows.ledger.slots import Places, holds_slot, learn_refusal, read_places
from kling_flows.ledger.spending import BudgetUse, read_budgets
from kling_flows.ledger.transfer import export_rows, import_rows
from kling_flows.settings import Budget
from kling_flows.telemetry.spans import span

T = TypeVar("T")


class Ledger:
    """Open one with :meth:`open`; it belongs to the event loop that opened it.

    Every method raises LedgerUnavailable while the database cannot be used.
    """

    def __init__(self, backend: Backend, facts: dict[str, str]) -> None:
        self._backend = backend
        self._followers: list[Following] = []
        self._gathering = Gathering(backend.write, self._note)
        self._changed = asyncio.Event()
        self._changed_by_others = asyncio.Event()
        self._line_moves = asyncio.Event()
        self.ledger_id = facts["ledger_id"]
        self.token_key = bytes.fromhex(facts["token_key"])

    @classmethod
    async def open(cls, url: str) -> Self:
        """Open the ledger at ``url`` (``sqlite:///…``, ``postgresql://…``), make it or bring it up to date if need be.

        Raises:
            ConfigurationError: the address is not one of ours, cannot be written, or is of a newer release.
            LedgerUnavailable: it is locked by another process, its disk is full, or its server does not answer.
        """
        backend = await open_backend(url)
        try:
            facts: dict[str, str] = await backend.read(operations.read_meta)
        except BaseException:
            await backend.close()
            raise
        ledger = cls(backend, facts)
        backend.start(asyncio.get_running_loop(), ledger._notify)
        return ledger

    async def check(self) -> None:
        """Do nothing if the ledger can be read, and written as far as that is known.

        Writing is tried only after a write that failed: what is calm stays calm.

        Raises:
            LedgerUnavailable: it cannot.
        """
        await self.head()
        if self._backend.write_failed:
            await self.write_meta("written_again", datetime.now(UTC).isoformat())

    async def close(self) -> None:
        """Finish the writes that wait, then close."""
        self._gathering.hurry()
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
            self._miss()
            self._changed_by_others.set()
            self._changed_by_others = asyncio.Event()
            self._move_line()

    def _note(self, created: Created) -> None:
        for following in self._followers:
            following.note(created.events)
            if len(created.events) < len(created.outcomes):
                following.miss()

    def _miss(self, _written: object = None) -> None:
        for following in self._followers:
            following.miss()

    def _move_line(self) -> None:
        self._line_moves.set()
        self._line_moves = asyncio.Event()

    def _note_ends(self, tasks: Iterable[VideoTask]) -> None:
        if not all(map(holds_slot, tasks)):
            self._move_line()

    def changes(self) -> CommitSignal:
        """A signal taken before a read, so that no commit after the read is slept through."""
        return CommitSignal(self._changed)

    def changes_by_others(self) -> CommitSignal:
        """As :meth:`changes`, for commits through other :class:`Ledger` objects, in this process or another."""
        return CommitSignal(self._changed_by_others)

    def line_moves(self) -> CommitSignal:
        """As :meth:`changes_by_others`, and also for what is written here and gives a place at the provider back."""
        return CommitSignal(self._line_moves)

    async def create(
        self,
        task: VideoTask,
        *,
        request_id: str = "",
        request_digest: str = "",
        runner_id: str | None = None,
        budgets: Sequence[Budget] = (),
    ) -> VideoTask:
        """See :func:`operations.create`."""
        with span("ledger write"):
            return await self._gathering.create(Creation(task, request_id, request_digest, budgets, runner_id))

    async def create_each(self, creations: Sequence[Creation]) -> list[VideoTask | KlingFlowsError]:
        """See :func:`batch.create_each`."""
        return (await self._write(lambda c: create_each(c, creations))).outcomes

    async def create_all(self, creations: Sequence[Creation]) -> list[VideoTask]:
        """Create all, or none.

        Raises:
            CreationRefused: by the first that cannot be created.
        """
        outcome = await self._write(lambda c: create_all(c, creations))
        if isinstance(outcome, CreationRefused):
            raise outcome
        return outcome

    async def create_or_get(self, task: VideoTask, request_digest: str, *, budgets: Sequence[Budget] = ()) -> VideoTask:
        """Insert a task, or return the one of that id."""
        try:
            return await self.create(task, request_digest=request_digest, budgets=budgets)
        except VideoTaskExists:
            return await self.get(task.id)

    async def get(self, task_id: str, *, tenant: str | None = None) -> VideoTask:
        """See :func:`operations.get`."""
        return await self._read(lambda c: operations.get(c, task_id, tenant=tenant))

    async def get_each(self, task_ids: Sequence[str]) -> list[VideoTask]:
        """See :func:`operations.get_each`."""
        return await self._read(lambda c: operations.get_each(c, task_ids))

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
        model_name: str | None = None,
        times: Sequence[TimeBound] = (),
        ids: Sequence[str] = (),
        oldest_first: bool = False,
        beyond: TaskPlace | None = None,
        limit: int | None = None,
    ) -> list[tuple[int, VideoTask]]:
        """Sequence numbers and tasks; see :func:`queries.select_tasks`."""
        query = select_tasks(
            tenant=tenant,
            states=states,
            label_values=label_values,
            model_name=model_name,
            times=times,
            ids=ids,
            oldest_first=oldest_first,
            beyond=beyond,
            limit=limit,
        )

        def run(connection: Connection) -> list[tuple[int, VideoTask]]:
            return [(row.seq, VideoTask.model_validate_json(row.document)) for row in connection.execute(query)]

        return await self._read(run)

    async def advance(self, task_id: str, change: Change, *, runner_id: str | None = None) -> VideoTask:
        """See :func:`operations.advance`."""
        task = await self._write(lambda c: operations.advance(c, task_id, change, runner_id=runner_id))
        self._note_ends((task,))
        return task

    async def advance_and_learn(
        self, task_id: str, change: Change, *, runner_id: str, key: str, seconds: float
    ) -> VideoTask:
        """As :meth:`advance`, and remember how long the provider took, in the same transaction."""

        def run(connection: Connection) -> VideoTask:
            task = operations.advance(connection, task_id, change, runner_id=runner_id)
            durations.learn_duration(connection, key, seconds)
            return task

        task = await self._write(run)
        self._note_ends((task,))
        return task

    async def adopt(self, task: VideoTask) -> bool:
        """See :func:`adoption.adopt`."""
        return await self._write(lambda c: adoption.adopt(c, task))

    async def upstream_ids(self, account: str, *, since: datetime) -> dict[str, str]:
        """See :func:`adoption.upstream_ids`."""
        return await self._read(lambda c: adoption.upstream_ids(c, account, since=since.timestamp()))

    async def first_deadline(self) -> float | None:
        """See :func:`deadlines.first_deadline`."""
        return await self._read(deadlines.first_deadline)

    async def expire_due(self, change: Change, now: float, limit: int) -> list[VideoTask]:
        """See :func:`deadlines.expire_due`."""
        expired = await self._write(lambda c: deadlines.expire_due(c, change, now, limit))
        self._note_ends(expired)
        return expired

    async def read_budgets(self, budgets: Sequence[Budget], tenant: str | None = None) -> list[BudgetUse]:
        """See :func:`spending.read_budgets`."""
        return await self._read(lambda c: read_budgets(c, budgets, tenant))

    async def read_figures(self) -> Figures:
        """See :func:`figures.read_figures`."""
        return await self._read(read_figures)

    async def read_places(self, account: str, most: int | None) -> Places:
        """See :func:`slots.read_places`."""
        return await self._read(lambda c: read_places(c, account, most))

    async def learn_refusal(self, slot: str) -> int:
        """See :func:`slots.learn_refusal`."""
        return await self._write(lambda c: learn_refusal(c, slot))

    async def claim(
        self, runner_id: str, limit: int, *, account: str = "", slots: int | None = None
    ) -> list[VideoTask]:
        """See :func:`claims.claim`."""
        return await self._write(lambda c: claims.claim(c, runner_id, limit, account=account, slots=slots))

    async def claim_one(self, task_id: str, runner_id: str, *, account: str = "") -> VideoTask:
        """See :func:`claims.claim_one`."""
        return await self._write(lambda c: claims.claim_one(c, task_id, runner_id, account=account))

    async def claimable_from(self, *, account: str = "", slots: int | None = None) -> float | None:
        """See :func:`claims.claimable_from`."""
        return await self._read(lambda c: claims.claimable_from(c, account=account, slots=slots))

    async def release_after(self, task_ids: Sequence[str], runner_id: str, seconds: float) -> None:
        """Give tasks back; nobody takes them again before so many seconds have passed."""
        not_before = time.time() + seconds
        await self._write(lambda c: operations.release(c, task_ids, runner_id, not_before=not_before))

    async def held_by(self, runner_id: str) -> set[str]:
        """See :func:`leases.held_by`."""
        return await self._read(lambda c: leases.held_by(c, runner_id))

    async def read_meta(self) -> dict[str, str]:
        """See :func:`operations.read_meta`."""
        return await self._read(operations.read_meta)

    async def write_meta(self, key: str, value: str) -> None:
        """See :func:`operations.write_meta`."""
        await self._write(lambda c: operations.write_meta(c, key, value))

    async def move_meta(self, key: str, before: str | None, after: str) -> bool:
        """See :func:`operations.move_meta`."""
        return await self._write(lambda c: operations.move_meta(c, key, before, after))

    async def open_lease(self, lease: Lease) -> None:
        """See :func:`leases.open_lease`."""
        await self._write(lambda c: leases.open_lease(c, lease))

    async def renew_lease(self, runner_id: str) -> bool:
        """See :func:`leases.renew_lease`."""
        return await self._write(lambda c: leases.renew_lease(c, runner_id))

    async def read_leases(self) -> Sequence[Lease]:
        """See :func:`leases.read_leases`."""
        return await self._read(leases.read_leases)

    async def end_lease(self, runner_id: str, beat: int | None = None) -> int:
        """See :func:`leases.end_lease`."""
        return await self._write(lambda c: leases.end_lease(c, runner_id, beat))

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

    def follow(self) -> Following:
        """The log, for one who follows it as long as the ledger is open."""
        following = Following(lambda after, limit: self.read_events(after, limit))
        self._followers.append(following)
        return following

    async def read_history(self, task_id: str) -> Sequence[Event]:
        """All events of one task, in their order."""
        return await self._read(lambda c: operations.read_history(c, task_id))

    async def count_waiting(self) -> int:
        """How many tasks are QUEUED."""
        return await self._read(operations.count_waiting)

    async def read_durations(self) -> dict[str, float]:
        """Mean seconds that videos take, by key."""
        return await self._read(durations.read_durations)

    async def read_shortest(self, key: str) -> tuple[float, int] | None:
        """See :func:`durations.read_shortest`."""
        return await self._read(lambda c: durations.read_shortest(c, key))

    async def advance_and_expect(
        self, task_id: str, change: Change, *, runner_id: str, callback_digest: str
    ) -> VideoTask:
        """As :meth:`advance`, and know the provider's callbacks about the task, in the same transaction."""

        def run(connection: Connection) -> VideoTask:
            task = operations.advance(connection, task_id, change, runner_id=runner_id)
            callbacks.expect_callback(connection, task_id, callback_digest)
            return task

        return await self._write(run)

    async def is_expected(self, digest: str) -> bool:
        """See :func:`callbacks.is_expected`."""
        return await self._read(lambda c: callbacks.is_expected(c, digest))

    async def note_hint(self, digest: str, webhook_id: str, *, urgent: bool) -> bool:
        """See :func:`callbacks.note_hint`."""
        return await self._write(lambda c: callbacks.note_hint(c, digest, webhook_id, urgent=urgent))

    async def last_hint(self) -> int:
        """See :func:`callbacks.last_hint`."""
        return await self._read(callbacks.last_hint)

    async def read_hints(self, after: int, runner_id: str) -> tuple[int, list[Hint]]:
        """See :func:`callbacks.read_hints`."""
        return await self._read(lambda c: callbacks.read_hints(c, after, runner_id))

    async def is_hinted(self, task_id: str) -> bool:
        """See :func:`callbacks.is_hinted`."""
        return await self._read(lambda c: callbacks.is_hinted(c, task_id))

    async def prune_hints(self, before: float) -> int:
        """See :func:`callbacks.prune_hints`."""
        return await self._write(lambda c: callbacks.prune_hints(c, before))

    async def next_delivery_time(self) -> float | None:
        """See :func:`callbacks.next_delivery_time`."""
        return await self._read(callbacks.next_delivery_time)

    async def claim_deliveries(self, limit: int, lease_seconds: float) -> list[Delivery]:
        """See :func:`callbacks.claim_deliveries`."""
        return await self._write(lambda c: callbacks.claim_deliveries(c, limit, lease_seconds))

    async def settle_delivery(
        self, delivery: Delivery, state: DeliveryState, *, next_time: float = 0.0, last_error: str = ""
    ) -> bool:
        """See :func:`callbacks.settle_delivery`."""
        return await self._write(
            lambda c: callbacks.settle_delivery(c, delivery, state, next_time=next_time, last_error=last_error)
        )

    async def list_deliveries(
        self,
        tenant: str,
        *,
        state: DeliveryState | None = None,
        task_id: str | None = None,
        before_id: int | None = None,
        limit: int,
    ) -> list[Delivery]:
        """See :func:`callbacks.list_deliveries`."""
        return await self._read(
            lambda c: callbacks.list_deliveries(
                c, tenant, state=state, task_id=task_id, before_id=before_id, limit=limit
            )
        )

    async def retry_delivery(self, tenant: str, delivery_id: int) -> Delivery:
        """See :func:`callbacks.retry_delivery`."""
        return await self._write(lambda c: callbacks.retry_delivery(c, tenant, delivery_id))

    async def read_schema(self) -> str:
        """The revision of the schema, which is this release's."""
        return await self._read(read_schema) or ""

    async def export(self, target: IO[str], *, live: bool = False) -> dict[str, int]:
        """See :func:`transfer.export_rows`."""
        return await self._read(lambda c: export_rows(c, target, live=live))

    async def import_(self, source: IO[str]) -> dict[str, int]:
        """See :func:`transfer.import_rows`. Open the ledger anew afterwards: it has become another one."""
        return await self._write(lambda c: import_rows(c, source))

    async def _write(self, operation: Callable[[Connection], T]) -> T:
        with span("ledger write"):
            written = self._backend.write(operation)
            written.add_done_callback(self._miss)
            return await written

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
