"""Claims, changes and ends of leases in any order, against a model of what they should leave behind."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kling_flows.errors import LeaseLost, VideoTaskFinal
from kling_flows.ledger import ACTIVE_STATES, TRANSITIONS, Ledger, State

from .conftest import database_of
from .make import lease, task, to, url_of
from .postgres_server import PostgresServer

RUNNERS = st.sampled_from(["r1", "r2"])


@dataclass
class Known:
    state: State = State.QUEUED
    revision: int = 1
    holder: str | None = None
    paused: bool = False

    @property
    def free(self) -> bool:
        return self.holder is None and not self.paused and self.state in ACTIVE_STATES


class LedgerMachine(RuleBasedStateMachine):
    tasks = Bundle("tasks")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.Runner()
        self.ledger: Ledger = self.run(Ledger.open(self.address()))
        self.known: dict[str, Known] = {}
        self.leases: set[str] = set()
        self.events = 0

    def address(self) -> str:
        return url_of(Path(self.folder.name) / "ledger.db")

    def run(self, work: Any) -> Any:
        return self.loop.run(work)

    def teardown(self) -> None:
        self.run(self.ledger.close())
        self.loop.close()
        self.folder.cleanup()

    @rule(target=tasks)
    def create(self) -> str:
        name = f"t-{len(self.known)}"
        self.run(self.ledger.create(task(name)))
        self.known[name] = Known()
        self.events += 1
        return name

    @rule(runner=RUNNERS)
    def open_lease(self, runner: str) -> None:
        if runner not in self.leases:
            self.run(self.ledger.open_lease(lease(runner)))
            self.leases.add(runner)

    @rule(runner=RUNNERS)
    def end_lease(self, runner: str) -> None:
        held = [known for known in self.known.values() if known.holder == runner]
        assert self.run(self.ledger.end_lease(runner)) == len(held)
        for known in held:
            known.holder = None
        self.leases.discard(runner)

    @rule(runner=RUNNERS, limit=st.integers(1, 3))
    def claim(self, runner: str, limit: int) -> None:
        free = [name for name, known in self.known.items() if known.free] if runner in self.leases else []
        # What was begun goes first.
        free.sort(key=lambda name: self.known[name].state is State.QUEUED)
        claimed = self.run(self.ledger.claim(runner, limit))
        assert [found.id for found in claimed] == free[:limit]
        for name in free[:limit]:
            self.known[name].holder = runner

    @rule(runner=RUNNERS, name=tasks)
    def claim_one(self, runner: str, name: str) -> None:
        known = self.known[name]
        allowed = known.state.final or known.holder == runner or (known.holder is None and runner in self.leases)
        if not allowed:
            with pytest.raises(LeaseLost):
                self.run(self.ledger.claim_one(name, runner))
            return
        assert self.run(self.ledger.claim_one(name, runner)).state is known.state
        if not known.state.final:
            known.holder = runner

    @rule(name=tasks, state=st.sampled_from(State), runner=st.none() | RUNNERS)
    def advance(self, name: str, state: State, runner: str | None) -> None:
        known = self.known[name]
        error: type[Exception] | None = None
        if runner is not None and known.holder != runner:
            error = LeaseLost
        elif state is not known.state and state not in TRANSITIONS[known.state]:
            error = VideoTaskFinal if known.state.final else ValueError
        if error is not None:
            with pytest.raises(error):
                self.run(self.ledger.advance(name, to(state), runner_id=runner))
            return
        assert self.run(self.ledger.advance(name, to(state), runner_id=runner)).revision == known.revision + 1
        holder = known.holder if state in ACTIVE_STATES else None
        self.known[name] = Known(state, known.revision + 1, holder)
        self.events += 1

    @rule(name=tasks, runner=RUNNERS)
    def release(self, name: str, runner: str) -> None:
        self.run(self.ledger.release_after([name], runner, 3600))
        known = self.known[name]
        if known.holder == runner:
            known.holder, known.paused = None, True

    @precondition(lambda self: self.known)
    @invariant()
    def the_ledger_is_as_the_model(self) -> None:
        for name, known in self.known.items():
            found = self.run(self.ledger.get(name))
            assert (found.state, found.revision) == (known.state, known.revision)
        for runner in ("r1", "r2"):
            held = {name for name, known in self.known.items() if known.holder == runner}
            assert self.run(self.ledger.held_by(runner)) == held
        assert self.run(self.ledger.head()) == self.events


TestLedgerModel = LedgerMachine.TestCase
TestLedgerModel.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def test_the_ledger_on_postgresql_is_as_the_model(postgres: PostgresServer) -> None:
    class OnPostgres(LedgerMachine):
        def address(self) -> str:
            self.databases = AsyncExitStack()
            return postgres.url(self.run(self.databases.enter_async_context(database_of(postgres))))

        def teardown(self) -> None:
            self.run(self.ledger.close())
            self.run(self.databases.aclose())
            self.loop.close()
            self.folder.cleanup()

    run_state_machine_as_test(OnPostgres, settings=settings(TestLedgerModel.settings, max_examples=5))
