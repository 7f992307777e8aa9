"""Engines that crash, sleep and wake at any boundary, on a provider that fails in any way, against a small model."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from kling_flows.engine import submit
from kling_flows.engine.engine import Engine
from kling_flows.engine.identity import external_task_id
from kling_flows.engine.intake import request_digest
from kling_flows.errors import BudgetExceeded
from kling_flows.ledger import LateVideo, State, VideoTask
from kling_flows.sandbox import SandboxServer, SandboxSettings, VideoSource

from .model import Carrier, World, our_time
from .rig import assert_paid_once, assert_video_kept, new_task

FULL: Final = bool(os.environ.get("KLING_FLOWS_FULL_FAULTS"))

#: Which of what there is; taken modulo its number.
WHICH: Final = st.integers(0, 11)
LATE: Final = st.sampled_from(LateVideo)
#: How many boundaries a task passes; from the claim to the provider's answer there are six.
BOUNDARIES: Final = st.integers(1, 9)

#: A create that is not simply answered: `late` ones can only be told apart by the id that they carry.
FAULTS: Final[tuple[dict[str, Any], ...]] = (
    {"fault": "accept_then_drop"},
    {"fault": "drop_before_accept"},
    {"fault": "drop_before_accept", "accept": "late", "seconds": 0.03},
    {"fault": "http_error", "on": "create", "code": 5000},
    {"fault": "http_error", "on": "create", "code": 5000, "accept": "yes"},
    {"fault": "concurrency"},
    {"fault": "http_error", "on": "create", "code": 1102},
    {"fault": "http_error", "on": "create", "code": 1301},
    {"fault": "fail"},
    {"fault": "http_error", "on": "get", "code": 5000},
    {"fault": "video_expired", "on": "download"},
    {"fault": "video_truncated"},
)
SANDBOX: Final = SandboxSettings(
    seconds=(3600.0, 3600.0), concurrency=0, video=VideoSource.TINY, callback_states=frozenset()
)

#: It takes an order that it has already, as a provider might that ignores our id.
CREDULOUS: Final = replace(SANDBOX, reject_duplicates=False)

#: Those after which an order is known at once, or never.
PROMPT_FAULTS: Final = tuple(fault for fault in FAULTS if fault.get("accept") != "late")


class EngineMachine(RuleBasedStateMachine):
    """The rules; each moves one thing as far as the next boundary."""

    server: ClassVar[SandboxServer]
    #: Whether runners are stopped and wake up; harmless only where the provider refuses what it has already.
    pausing: ClassVar[bool] = True
    faults: ClassVar[tuple[dict[str, Any], ...]] = FAULTS
    resolvable: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.stack.enter_context(our_time())
        self.loop = self.stack.enter_context(asyncio.Runner())
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.world = World(self.server, folder / "state", resolvable=self.resolvable)
        self.run(self.world.open())
        self.digests: dict[str, str] = {}

    def run(self, work: Any) -> Any:
        return self.loop.run(work)

    def teardown(self) -> None:
        try:
            self.run(self.world.end())
        finally:
            with self.stack:
                self.run(self.world.close())

    def some(self, things: Any, which: int) -> Any | None:
        listed = list(things)
        return listed[which % len(listed)] if listed else None

    @initialize(boundaries=BOUNDARIES)
    def start(self, boundaries: int) -> None:
        self.create(0, False, LateVideo.KEEP_VIDEO, False, 0)
        self.create(2, True, LateVideo.KEEP_VIDEO, False, 0)
        self.work(0, 2, boundaries)

    @rule(priority=st.integers(0, 2), deadline=st.booleans(), late=LATE, limited=st.booleans(), repeated=WHICH)
    def create(self, priority: int, deadline: bool, late: LateVideo, limited: bool, repeated: int) -> None:
        """Create a task, then repeat the create of any one."""
        name = f"t{len(self.world.book.known)}"
        until = datetime.now(UTC) + timedelta(hours=1) if deadline else None
        task = new_task(name, f"a cup {name}").model_copy(
            update={"priority": priority, "deadline": until, "on_deadline": late}
        )
        assert task.quote is not None
        digest = request_digest(task.request, {}, name)
        # Some of the limited creates are too many by a hair.
        short = limited and priority == 1
        limit = self.world.book.owed() + Decimal(task.quote.units) - (Decimal("0.001") if short else 0)
        budgets = [self.world.budget.model_copy(update={"units": limit})] if limited else []
        make = self.world.ledger.create(task, request_id=name, request_digest=digest, budgets=budgets)
        if short:
            with pytest.raises(BudgetExceeded):
                self.run(make)
        else:
            assert self.run(make) == task
            self.digests[name] = digest
            self.nothing_is_wrong()
        earlier = self.some(self.digests, repeated)
        if earlier is not None:
            again = self.world.ledger.create(
                new_task("another"), request_id=earlier, request_digest=self.digests[earlier]
            )
            assert self.run(again) == self.world.book.known[earlier].task

    @rule(which=WHICH, limit=st.integers(1, 3), boundaries=BOUNDARIES)
    def work(self, which: int, limit: int, boundaries: int) -> None:
        """One of up to three runners, or one more, claims tasks and carries all that it has."""
        awake = [runner for runner in self.world.runners if not runner.fenced]
        more = [None] if len(self.world.runners) < 3 or not awake else []
        runner = self.some([*awake, *more], which) or self.run(self.world.start_runner())
        self.run(self.world.claim(runner, limit))
        self._step(runner.carriers, boundaries)

    @rule(which=WHICH, boundaries=BOUNDARIES)
    def step(self, which: int, boundaries: int) -> None:
        carrier = self.some(self.world.carriers(), which)
        if carrier is not None:
            self._step([carrier], boundaries)

    @rule(boundaries=BOUNDARIES)
    def step_all(self, boundaries: int) -> None:
        self._step(self.world.carriers(), boundaries)

    def _step(self, carriers: Iterable[Carrier], boundaries: int) -> None:
        for carrier in list(carriers):
            for _ in range(boundaries):
                if not carrier.done:
                    self.run(self.world.step(carrier))

    @rule(which=WHICH, what=st.sampled_from(["processing", "end", "end", "w1", "w2", "w2 of progress"]))
    def the_provider_goes_on(self, which: int, what: str) -> None:
        """With one of its tasks, or it calls about one: early, twice, or in vain."""
        if what in ("processing", "end"):
            task = self.some(self.world.upstream_tasks(), which)
            if task is not None:
                self.world.progress(task, end=what == "end")
        else:
            name = self.some(self.world.book.known, which)
            self.run(self.world.hint(name, f"{name} {what}", urgent="progress" not in what))

    @rule(number=st.integers(0, len(FAULTS) - 1))
    def something_will_go_wrong(self, number: int) -> None:
        self.server.set_faults([{**self.faults[number % len(self.faults)], "times": 1}])

    @rule(which=WHICH, what=st.sampled_from(["cancel", "cancel", "resolve", "deadlines"]), late=LATE)
    def somebody_decides(self, which: int, what: str, late: LateVideo) -> None:
        name = self.some(self.world.book.known, which)
        if what == "deadlines":
            self.run(self.world.pass_deadlines())
        elif what == "cancel":
            self.run(self.world.cancel(name, late))
        else:
            self.run(self.world.resolve(name))

    @rule(which=WHICH, what=st.sampled_from(["dies", "dies", "sleeps", "opens the ledger anew"]))
    def a_process(self, which: int, what: str) -> None:
        runner = self.some(self.world.runners, which)
        if what == "opens the ledger anew":
            self.run(self.world.reopen())
        elif runner is not None:
            self.run(self.world.pause(runner) if what == "sleeps" and self.pausing else self.world.crash(runner))

    @invariant()
    def nothing_is_wrong(self) -> None:
        self.run(self.world.audit())


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=50 if FULL else 30,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        # A run that waits in vain takes its time: to make it shorter would take hundreds of those.
        phases=Phase if FULL else [Phase.generate],
    )


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Play a machine with some attributes on a sandbox with some settings."""
    with ExitStack() as stack:

        def run(how: settings, sandbox: SandboxSettings = SANDBOX, **attributes: Any) -> None:
            server = stack.enter_context(SandboxServer(sandbox))
            machine = type("Machine", (EngineMachine,), {"server": server, **attributes})
            run_state_machine_as_test(machine, settings=how)

        yield run


def test_whatever_happens_nothing_is_paid_twice_and_nothing_is_lost(play: Callable[..., None]) -> None:
    play(_settings(400 if FULL else 8))


def test_nothing_is_paid_blindly_where_no_look_up_is_honoured(play: Callable[..., None]) -> None:
    sandbox = replace(SANDBOX, external_id_lookup=False)
    play(_settings(200 if FULL else 3), sandbox, resolvable=False)


async def _post_before_the_intent(engine: Engine, task: VideoTask, flow_run: Any, *, doubtful: bool) -> VideoTask:
    """As the engine's own, but that the intent is written when the answer is there."""
    external_id = external_task_id(engine.ledger.ledger_id, task.id)
    accepted = await engine.client.create(task.request, external_id)
    task = await submit._intend(engine, task, flow_run)
    return await submit.adopt(engine, task, accepted)


async def _settle_without_a_look(engine: Engine, task: VideoTask) -> None:
    """As the engine's own, but that what was not answered counts as not accepted."""


@pytest.mark.parametrize(
    ("name", "broken"),
    [("_send", _post_before_the_intent), ("_settle", _settle_without_a_look)],
    ids=["intent after the POST", "no look-up"],
)
def test_an_engine_that_pays_twice_is_found(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch, name: str, broken: Any
) -> None:
    monkeypatch.setattr(submit, name, broken)
    # It is the journal that has to save the money here: this provider takes the same order twice.
    found = settings(_settings(60), derandomize=True, phases=[Phase.generate])
    with pytest.raises(AssertionError, match="paid twice"):
        play(found, CREDULOUS, pausing=False, faults=PROMPT_FAULTS)


def test_the_journal_alone_saves_the_money_where_nobody_sleeps(play: Callable[..., None]) -> None:
    play(_settings(200 if FULL else 3), CREDULOUS, pausing=False, faults=PROMPT_FAULTS)


async def test_a_request_that_wakes_after_another_was_refused_gets_its_video(
    start_sandbox: Callable[..., SandboxServer], tmp_path: Path
) -> None:
    server = start_sandbox()
    with our_time():
        world = World(server, tmp_path / "state")
        await world.open()
        asleep = await world.start_runner()
        await world.ledger.create(new_task("t0"))
        await world.claim(asleep, 1)
        (request,) = asleep.carriers
        while request.at != "before create":
            await world.step(request)
        await world.pause(asleep)
        awake = await world.start_runner()
        await world.claim(awake, 1)
        server.set_faults([{"fault": "http_error", "on": "create", "code": 1102, "times": 1}])
        (refused,) = awake.carriers
        while not refused.done:
            await world.step(refused)
        assert world.book.known["t0"].task.state is State.FAILED
        while not request.done:
            await world.step(request)
        await world.end()
        assert_video_kept(world.book.known["t0"].task, State.FAILED)
        assert_paid_once(server, world.book.known["t0"].task)
        await world.close()
