"""A runner that is killed, or stopped, at every step: whoever takes over pays nothing again and loses nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kling_flows.engine import leases
from kling_flows.engine.carry import carry
from kling_flows.engine.engine import Engine
from kling_flows.ledger import Ledger, State
from kling_flows.sandbox import SandboxServer
from kling_flows.sandbox.text2video import STUCK_MARK

from .child import DEATHS, LEASE_LOST
from .conftest import Children
from .rig import OpenEngine, assert_archived, assert_paid_once, creates, history, new_task, until

#: What the ledger says of a task whose runner has died there.
LEFT_IN = {
    "before the intent": State.QUEUED,
    "after the intent": State.SUBMITTING,
    "after the POST": State.SUBMITTING,
    "once submitted": State.SUBMITTED,
    "while polling": State.SUBMITTED,
    "once ended": State.ARCHIVING,
    "within the download": State.ARCHIVING,
    "after publishing": State.ARCHIVING,
    "once succeeded": State.SUCCEEDED,
}


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
async def ledger(state_dir: Path) -> AsyncIterator[Ledger]:
    async with await Ledger.open(f"sqlite:///{state_dir}/ledger.db") as opened:
        yield opened


@pytest.mark.parametrize("point", DEATHS)
async def test_a_killed_runner_s_task_is_finished_by_the_next_one(
    children: Children,
    ledger: Ledger,
    state_dir: Path,
    sandbox: SandboxServer,
    open_engine: OpenEngine,
    point: str,
) -> None:
    await ledger.create(new_task())
    pid = children.start(sandbox, state_dir, "t", point)
    assert await asyncio.to_thread(children.wait, pid) == -signal.SIGKILL
    left = await ledger.get("t")
    assert left.state is LEFT_IN[point]
    engine = await open_engine()
    assert await engine.lease.free_dead_peers() == (0 if left.state.final else 1)
    claimed = await engine.ledger.claim(engine.runner_id, 10)
    assert claimed == ([] if left.state.final else [left])
    ended = await carry(engine, "t", None)
    assert_archived(ended)
    assert_paid_once(sandbox, ended)
    assert creates(sandbox) == 1
    downloads = 2 if point == "within the download" else 1
    assert sandbox.stats()["calls"]["download"] == downloads
    events = await history(engine)
    assert [task.state for task in events if task.state.final] == [State.SUCCEEDED]


async def test_a_runner_that_was_stopped_before_its_request_only_collides(
    children: Children,
    ledger: Ledger,
    state_dir: Path,
    sandbox: SandboxServer,
    open_engine: OpenEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 0.2)
    await ledger.create(new_task())
    pid = children.start(sandbox, state_dir, "t", "stops before the POST")
    await until((state_dir / "paused").exists)
    engine = await open_engine()
    await _take_over(engine)
    ended = await carry(engine, "t", None)
    os.kill(pid, signal.SIGCONT)
    assert await asyncio.to_thread(children.wait, pid) == 0
    assert_archived(await ledger.get("t"))
    assert await ledger.get("t") == ended
    assert_paid_once(sandbox, ended)
    assert creates(sandbox) == 2


async def test_a_runner_that_was_stopped_writes_nothing_after_others_took_over(
    children: Children,
    ledger: Ledger,
    state_dir: Path,
    sandbox: SandboxServer,
    open_engine: OpenEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 0.2)
    await ledger.create(new_task())
    pid = children.start(sandbox, state_dir, "t", "stops while polling")
    await until((state_dir / "paused").exists)
    engine = await open_engine()
    await _take_over(engine)
    held = await ledger.get("t")
    os.kill(pid, signal.SIGCONT)
    assert await asyncio.to_thread(children.wait, pid) == LEASE_LOST
    assert await ledger.get("t") == held
    ended = await carry(engine, "t", None)
    assert_archived(ended)
    assert_paid_once(sandbox, ended)


async def test_what_a_killed_runner_held_is_all_freed_at_once(
    children: Children, ledger: Ledger, state_dir: Path, sandbox: SandboxServer, open_engine: OpenEngine
) -> None:
    await ledger.create(new_task(prompt=STUCK_MARK))
    pid = children.start(sandbox, state_dir, "t", "stops while polling")
    await until((state_dir / "paused").exists)
    engine = await open_engine()
    # It is stopped and not dead, and it has not been so for long.
    assert await engine.lease.free_dead_peers() == 0
    os.kill(pid, signal.SIGKILL)
    assert await asyncio.to_thread(children.wait, pid) == -signal.SIGKILL
    assert await engine.lease.free_dead_peers() == 1
    assert [lease.runner_id for lease in await ledger.read_leases()] == [engine.runner_id]
    assert [path.stem for path in (state_dir / "runners").iterdir()] == [engine.runner_id]


async def _take_over(engine: Engine) -> None:
    await until(engine.lease.free_dead_peers)
    assert len(await engine.ledger.claim(engine.runner_id, 10)) == 1
