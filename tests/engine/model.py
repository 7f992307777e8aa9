"""Engines on one ledger and one sandbox that move from journal boundary to journal boundary, and die there on demand.

:class:`World` is the real thing: ledger file, engines, sandbox, archive. Only time is ours: a carried task stops before
and after each write of its engine and each request that may cost money, until it is told to go on. :class:`Book` is the
model: what must be true of every task whatever happened.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import func, select

from kling_flows.archive import VideoArchive, download
from kling_flows.engine import deadlines, follow_up, leases, lookup, polling, retries, submit
from kling_flows.engine.cancel import cancelled
from kling_flows.engine.carry import carry
from kling_flows.engine.deadlines import expired
from kling_flows.engine.engine import Engine
from kling_flows.engine.hints import CallbackAddresses
from kling_flows.engine.phases import Phase, phase_of
from kling_flows.engine.polling import PollPlanner
from kling_flows.engine.resolve import abandoned, adopted
from kling_flows.errors import KlingFlowsError, LedgerUnavailable, VideoTaskFinal
from kling_flows.ledger import LateVideo, Ledger, State, VideoTask, operations
from kling_flows.ledger.schema import video_tasks
from kling_flows.sandbox import SandboxServer
from kling_flows.settings import Budget
from kling_flows.upstream import UpstreamClient

from .rig import PATIENCE, assert_archived, assert_video_kept, settings_for

#: Places at the provider that claims may take.
SLOTS: Final = 3

#: Nobody listens there, and the sandbox is told to call nobody.
NOWHERE: Final = "http://127.0.0.1:9"

#: How far a task is; it never goes back.
_RANK: Final = {
    State.QUEUED: 0,
    State.SUBMITTING: 1,
    State.UNRESOLVED: 2,
    State.SUBMITTED: 3,
    State.PROCESSING: 4,
    State.ARCHIVING: 5,
}
_END_RANK: Final = 6

_carrier: ContextVar[Carrier | None] = ContextVar("carrier", default=None)


class Carrier:
    """One task that one engine carries; it moves only when it is told to."""

    def __init__(self, engine: Runner, name: str) -> None:
        self.engine = engine
        self.name = name
        #: The boundary at which it stands; empty while it moves.
        self.at = ""
        #: The upstream task that it waits for.
        self.following = ""
        self.free = False
        #: Set whenever it may have come to stand.
        self.moved = asyncio.Event()
        self._go = asyncio.Event()
        self.work = asyncio.create_task(self._carry())
        self.work.add_done_callback(lambda _: self.moved.set())

    @property
    def done(self) -> bool:
        return self.work.done()

    async def _carry(self) -> None:
        _carrier.set(self)
        await self.stop_at("the claim")
        await carry(self.engine.opened, self.name, None)

    async def stop_at(self, boundary: str) -> None:
        if self.free:
            return
        self.at = boundary
        self.moved.set()
        await self._go.wait()
        self._go.clear()
        self.at = ""

    def follows(self, task_id: str) -> None:
        self.following = task_id
        self.moved.set()

    def go_on(self) -> None:
        # What moves by itself must not be let through the next boundary.
        if self.at:
            self.at = ""
            self._go.set()


class Runner:
    """An engine, alive, or stopped while its peers think that it is dead."""

    def __init__(self, opened: Engine, stack: AsyncExitStack) -> None:
        self.opened = opened
        self.fenced = False
        self.carriers: list[Carrier] = []
        self._stack = stack

    async def close(self) -> None:
        await self._stack.aclose()

    async def die(self) -> None:
        """Be gone at this instant: nothing of what an orderly end would write is written."""
        _dead.add(self.opened.ledger)
        for carrier in self.carriers:
            carrier.work.cancel()
        if self.carriers:
            await asyncio.wait([carrier.work for carrier in self.carriers])
        with suppress(LedgerUnavailable):
            await self._stack.aclose()
        _dead.discard(self.opened.ledger)


_dead: set[Ledger] = set()


@contextmanager
def our_time() -> Iterator[None]:
    """Boundaries stop carriers, dead ledgers write nothing, and what is repeated is repeated at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retries, "RETRY_DELAYS", (0.03,) * len(retries.RETRY_DELAYS))
        for module in (submit, lookup):
            patch.setattr(module, "LOOKUP_DELAYS", (0.0, 0.02))
        patch.setattr(download, "_RESUME_SECONDS", 0.01)
        patch.setattr(follow_up, "BELIEVED_AFTER", 0.1)
        patch.setattr(operations, "NOTICE_SECONDS", 0.0)
        patch.setattr(polling, "RECONCILE_SECONDS", 0.05)
        # What is done by the clock is done by rules here, except that who has lost a task is told.
        patch.setattr(leases, "RENEW_SECONDS", 3600.0)
        patch.setattr(leases, "_HELD_SECONDS", 0.05)
        patch.setattr(deadlines, "LOOK_SECONDS", 3600.0)
        for owner, method in (
            (Ledger, "advance"),
            (Ledger, "advance_and_expect"),
            (Ledger, "advance_and_learn"),
            (UpstreamClient, "create"),
            (VideoArchive, "store"),
        ):
            patch.setattr(owner, method, _stopping(method, getattr(owner, method)))
        for method in ("_read", "_write"):
            patch.setattr(Ledger, method, _mortal(getattr(Ledger, method)))
        patch.setattr(PollPlanner, "follow", _watched(PollPlanner.follow))
        yield


def _stopping(name: str, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def stopping(*args: Any, **kwargs: Any) -> Any:
        carrier = _carrier.get()
        if carrier is None:
            return await original(*args, **kwargs)
        await carrier.stop_at(f"before {name}")
        result = await original(*args, **kwargs)
        await carrier.stop_at(f"after {name}")
        return result

    return stopping


def _mortal(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def mortal(ledger: Ledger, operation: Any) -> Any:
        if ledger in _dead:
            raise LedgerUnavailable("its process is dead")
        return await original(ledger, operation)

    return mortal


def _watched(original: Any) -> Any:
    async def follow(planner: PollPlanner, task_id: str, **kwargs: Any) -> Any:
        carrier = _carrier.get()
        looks = original(planner, task_id, **kwargs)
        try:
            while True:
                if carrier is not None:
                    carrier.follows(task_id)
                try:
                    seen = await anext(looks)
                except StopAsyncIteration:
                    return
                finally:
                    if carrier is not None:
                        carrier.following = ""
                yield seen
        finally:
            await looks.aclose()

    return follow


@dataclass(slots=True)
class Known:
    """What the model knows of one task: as its last event left it, and what was done to it."""

    task: VideoTask
    cancelled: bool = False
    expired: bool = False
    #: A person has said that it is to be given up.
    abandoned: bool = False
    #: Its answer died with a runner that its peers had given up before: only an audit finds it.
    answer_lost: bool = False


@dataclass(slots=True)
class Book:
    """The model."""

    known: dict[str, Known] = field(default_factory=lambda: dict[str, Known]())
    position: int = 0

    def owed(self) -> Decimal:
        """Units that are reserved or spent."""
        return sum((_owed(known.task) for known in self.known.values()), Decimal(0))

    def note(self, position: int, after: VideoTask, *, fenced: bool, resolvable: bool) -> None:
        """The next event of the log."""
        assert position > self.position
        self.position = position
        known = self.known.get(after.id)
        if known is None:
            assert (after.revision, after.state) == (1, State.QUEUED)
            self.known[after.id] = Known(after)
            return
        before = known.task
        assert after.revision == before.revision + 1
        if before.state.final:
            assert (after.state, after.end_time) == (before.state, before.end_time)
        else:
            assert _RANK.get(after.state, _END_RANK) >= _RANK[before.state]
        assert after.state is not State.CANCELLED or known.cancelled
        assert after.state is not State.EXPIRED or known.expired
        assert after.state is not State.UNRESOLVED or not resolvable
        assert after.state is not State.LOST
        if before.upstream is not None:
            assert after.upstream is not None
            assert before.upstream.task_id in ("", after.upstream.task_id)
            assert after.upstream.external_task_id == before.upstream.external_task_id
        if fenced:
            # Facts about the one request that was out, whoever learns of them; nothing else.
            assert before.upstream is not None
            assert after.upstream is not None
            learned = bool(after.upstream.task_id) and not before.upstream.task_id
            assert learned or (before.upstream.outcome_unknown and not after.upstream.outcome_unknown)
        known.task = after


def _owed(task: VideoTask) -> Decimal:
    assert task.quote is not None
    upstream = task.upstream
    sent = upstream is not None and (upstream.task_id or upstream.outcome_unknown)
    if task.state.final and not sent:
        return Decimal(0)
    if upstream is not None and upstream.end_time is not None and upstream.status == "failed":
        return Decimal(0)
    return Decimal(task.quote.units)


class World:
    """One ledger, its engines, and a sandbox whose tasks end when they are told to."""

    def __init__(self, server: SandboxServer, folder: Path, *, resolvable: bool = True) -> None:
        self.server = server
        self.folder = folder
        self.resolvable = resolvable
        self.book = Book()
        self.runners: list[Runner] = []
        self.ledger: Ledger = None  # type: ignore[assignment] - until it is opened
        self.budget = Budget(period="total", units=Decimal(0))

    async def open(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.ledger = await Ledger.open(f"sqlite:///{self.folder}/ledger.db")

    async def reopen(self) -> None:
        await self.ledger.close()
        await self.open()

    async def start_runner(self) -> Runner:
        stack = AsyncExitStack()
        settings = settings_for(
            self.server,
            state_dir=self.folder,
            poll_interval=0.05,
            callback_base_url=NOWHERE,
            submit_concurrency=100,
            archive_concurrency=100,
        )
        engine = await stack.enter_async_context(Engine.open(settings))
        if not self.resolvable:
            await self.ledger.write_meta(f"lookup/{engine.client.account.name}", "not-honoured")
        runner = Runner(engine, stack)
        self.runners.append(runner)
        return runner

    async def claim(self, runner: Runner, limit: int) -> None:
        engine = runner.opened
        account = engine.client.account.name
        claimed = await engine.ledger.claim(engine.runner_id, limit, account=account, slots=SLOTS)
        assert not claimed or not runner.fenced
        for task in claimed:
            runner.carriers.append(Carrier(runner, task.id))

    def carriers(self) -> list[Carrier]:
        return [carrier for runner in self.runners for carrier in runner.carriers]

    async def step(self, carrier: Carrier) -> None:
        """Move to the next boundary, to the end, or to where only the provider can go on."""
        carrier.go_on()
        await self._settled(carrier)
        await self.audit(fenced=carrier.engine.fenced)

    async def _settled(self, carrier: Carrier) -> None:
        async with asyncio.timeout(PATIENCE):
            while True:
                carrier.moved.clear()
                if carrier.at or carrier.done or self._waits(carrier):
                    break
                await carrier.moved.wait()
        if carrier.done:
            await self._clear(carrier)

    def _waits(self, carrier: Carrier) -> bool:
        return any(
            task.task_id == carrier.following for task in self.upstream_tasks() if task.final_at > time.monotonic()
        )

    async def _clear(self, carrier: Carrier) -> None:
        """What a runner does with a task whose run has ended."""
        carrier.engine.carriers.remove(carrier)
        if carrier.work.cancelled():
            return
        error = carrier.work.exception()
        if error is None:
            return
        if not isinstance(error, KlingFlowsError):
            raise error
        engine = carrier.engine.opened
        await engine.ledger.release_after([carrier.name], engine.runner_id, 0.0)

    def upstream_tasks(self) -> list[Any]:
        ours = f"kf-{self.ledger.ledger_id}-"
        return [
            task for task in self.server._service.tasks.all() if (task.order.external_task_id or "").startswith(ours)
        ]

    def upstream_of(self, name: str) -> Any | None:
        mine = f"kf-{self.ledger.ledger_id}-{name}"
        return next((task for task in self.upstream_tasks() if task.order.external_task_id == mine), None)

    def progress(self, task: Any, *, end: bool) -> None:
        """The provider's time passes for one of its tasks."""
        now = time.monotonic()
        moments = {"processing_at": now, "final_at": now} if end else {"processing_at": now}
        for name, moment in moments.items():
            object.__setattr__(task, name, min(moment, getattr(task, name)))

    async def hint(self, name: str, webhook_id: str, *, urgent: bool) -> None:
        addresses = CallbackAddresses(NOWHERE, self.ledger.token_key)
        await self.ledger.note_hint(addresses.digest(name), webhook_id, urgent=urgent)

    async def cancel(self, name: str, late: LateVideo) -> None:
        known = self.book.known[name]
        known.cancelled |= not known.task.state.final
        with suppress(VideoTaskFinal):
            await self.ledger.advance(name, lambda before: cancelled(before, "", late))

    async def resolve(self, name: str) -> None:
        """A person looks into the provider's console and decides."""
        known = self.book.known[name]
        task = known.task
        found = self.upstream_of(name)
        if task.state is State.UNRESOLVED and found is None:
            known.abandoned = True
            await self.ledger.advance(name, abandoned)
        elif found is not None and (task.state is State.UNRESOLVED or _is_left_open(task)):
            await self.ledger.advance(name, lambda before: adopted(before, found.task_id))

    async def pass_deadlines(self) -> None:
        for known in self.book.known.values():
            known.expired |= known.task.deadline is not None
        await self.ledger.expire_due(expired, time.time() + 86_400, 100)

    async def crash(self, runner: Runner) -> None:
        for carrier in runner.carriers:
            if runner.fenced and carrier.at in ("after create", "before advance"):
                self.book.known[carrier.name].answer_lost = True
        self.runners.remove(runner)
        await runner.die()
        survivors = [other for other in self.runners if not other.fenced]
        if survivors:
            await survivors[0].opened.lease.free_dead_peers()

    async def pause(self, runner: Runner) -> None:
        """Its peers wait for its beat in vain."""
        runner.fenced = True
        await self.ledger.end_lease(runner.opened.runner_id)

    async def audit(self, *, fenced: bool = False) -> None:
        """Everything that must be true at any moment."""
        for event in await self.ledger.read_events(self.book.position, 10_000):
            self.book.note(event.position, event.task, fenced=fenced, resolvable=self.resolvable)
        paid = Counter(task.order.external_task_id for task in self.upstream_tasks())
        assert all(count == 1 for count in paid.values()), f"paid twice: {paid}"
        (used,) = await self.ledger.read_budgets([self.budget])
        assert used.reserved_units + used.settled_units == self.book.owed()
        places = select(func.count()).select_from(video_tasks).where(video_tasks.c.slot.is_not(None))
        assert await self.ledger._read(lambda c: c.execute(places).scalar_one()) <= SLOTS
        found = {task.id: task for _, task in await self.ledger.list_tasks(tenant="default")}
        assert found == {name: known.task for name, known in self.book.known.items()}

    async def end(self) -> None:
        """Without any more faults, and with those awake who slept, everything comes to its end."""
        self.server.set_faults([])
        await self._let_go()
        awake = [runner for runner in self.runners if not runner.fenced]
        last = awake[0] if awake else await self.start_runner()
        for runner in self.runners:
            if runner is not last:
                await runner.close()
        self.runners = [last]
        await last.opened.lease.free_dead_peers()
        for _ in range(3):
            await self.audit()
            for name in self.book.known:
                await self.resolve(name)
            await self.audit()
            open_ones = [name for name, known in self.book.known.items() if phase_of(known.task) is not Phase.NONE]
            for task in self.upstream_tasks():
                self.progress(task, end=True)
            await asyncio.gather(*(self._finish(last.opened, name) for name in open_ones))
        await self.audit()
        for known in self.book.known.values():
            self._check_end(known)

    async def _let_go(self) -> None:
        # Those that sleep wake one after the other, for what they write must be told from what others write.
        for carrier in self.carriers():
            if carrier.engine.fenced:
                await self._run_free(carrier)
                await self.audit(fenced=True)
        await asyncio.gather(*(self._run_free(carrier) for carrier in self.carriers()))

    async def _run_free(self, carrier: Carrier) -> None:
        carrier.free = True
        carrier.go_on()
        await self._to_the_end(carrier.work)
        await self._clear(carrier)

    async def _to_the_end(self, work: asyncio.Task[Any]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not work.done():
                    for task in self.upstream_tasks():
                        self.progress(task, end=True)
                    await asyncio.wait([work], timeout=0.02)
        except TimeoutError:
            raise AssertionError(f"it does not end: {' > '.join(_awaited(work.get_coro()))}") from None

    async def _finish(self, engine: Engine, name: str) -> None:
        await engine.ledger.claim_one(name, engine.runner_id)
        carrying = asyncio.create_task(carry(engine, name, None))
        await self._to_the_end(carrying)
        carrying.result()

    def _check_end(self, known: Known) -> None:
        task = known.task
        assert task.state.final
        assert phase_of(task) is Phase.NONE
        made = self.upstream_of(task.id)
        if made is None:
            assert task.state is not State.SUCCEEDED
            assert not task.artifacts
            return
        assert task.upstream is not None
        if not task.upstream.task_id:
            assert known.answer_lost or known.abandoned
            return
        assert task.upstream.task_id == made.task_id
        if task.state is State.SUCCEEDED:
            assert_archived(task)
        elif made.outcome == "succeed" and not _unwanted(task):
            assert_video_kept(task, task.state)

    async def close(self) -> None:
        self.server.set_faults([])
        for runner in self.runners:
            await runner.die()
        await self.ledger.close()


def _awaited(coroutine: Any) -> Iterator[str]:
    """Where a coroutine is, from the outside in."""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "ag_frame", None)
        yield f"{coroutine!r}" if frame is None else f"{frame.f_code.co_qualname}:{frame.f_lineno}"
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "ag_await", None)


def _is_left_open(task: VideoTask) -> bool:
    """Whether it has ended, and nobody but a person will find out whether it was accepted."""
    if task.state not in (State.CANCELLED, State.EXPIRED) or task.upstream is None:
        return False
    return task.upstream.outcome_unknown and not task.video_pending


def _unwanted(task: VideoTask) -> bool:
    assert task.error is not None
    return task.error.metadata.get("late_video") == LateVideo.DISCARD
