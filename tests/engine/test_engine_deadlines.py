"""A task's own deadline ends it for its caller, and neither its costs nor, if it is wanted, its video."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kling_flows.engine import deadlines
from kling_flows.engine.carry import carry
from kling_flows.engine.deadlines import expire_due, expired
from kling_flows.engine.engine import Engine
from kling_flows.engine.failures import ending
from kling_flows.engine.resolve import adopted
from kling_flows.engine.submit import submit
from kling_flows.errors import LeaseLost, VideoTaskExpired
from kling_flows.ledger import FINAL_STATES, LateVideo, State, VideoTask
from kling_flows.sandbox import SandboxServer
from kling_flows.sandbox.text2video import STUCK_MARK

from ..ledger.make import task, upstream
from .rig import OpenEngine, assert_paid_once, assert_video_kept, creates, history, new_task, until, until_state


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "LOOK_SECONDS", 0.05)


async def _queue(engine: Engine, *, seconds: float, **fields: Any) -> VideoTask:
    due = new_task(prompt=fields.pop("prompt", "a cup")).model_copy(
        update={"deadline": datetime.now(UTC) + timedelta(seconds=seconds), **fields}
    )
    return await engine.ledger.create(due, runner_id=engine.runner_id)


async def test_a_task_that_waits_expires_for_free_although_nobody_carries_it(
    engine: Engine, sandbox: SandboxServer
) -> None:
    await engine.ledger.create(new_task().model_copy(update={"deadline": datetime.now(UTC) + timedelta(seconds=0.3)}))
    ended = await until_state(engine, State.EXPIRED)
    assert ended.error is not None
    assert "nothing is spent" in ended.error.message
    assert ended.error.metadata["sent"] == "false"
    assert not ended.video_pending
    assert isinstance(ending(ended), VideoTaskExpired)
    assert await carry(engine, "t", None) == ended
    assert creates(sandbox) == 0


async def test_a_video_that_comes_after_the_deadline_is_archived(
    start_sandbox: Callable[..., SandboxServer], open_engine_on: Callable[..., Any]
) -> None:
    server = start_sandbox(seconds=(2.5, 2.5))
    engine: Engine = await open_engine_on(server)
    await _queue(engine, seconds=0.7)
    with pytest.raises(LeaseLost):
        await carry(engine, "t", None)
    early = await engine.ledger.get("t")
    assert (early.state, early.video_pending) == (State.EXPIRED, True)
    assert early.error is not None
    assert "will still bill" in early.error.message
    await engine.ledger.claim_one("t", engine.runner_id)
    late = await carry(engine, "t", None)
    assert_video_kept(late, State.EXPIRED)
    assert late.end_time == early.end_time
    assert_paid_once(server, late)
    assert creates(server) == 1
    assert late.upstream is not None
    assert late.upstream.settled_units
    # Revisions without a gap, and never another state.
    seen = [event.state for event in await history(engine)]
    assert set(seen[seen.index(State.EXPIRED) :]) == {State.EXPIRED}


async def test_a_video_that_is_to_be_discarded_is_not_looked_at_any_more(
    engine: Engine, sandbox: SandboxServer
) -> None:
    await _queue(engine, seconds=0.5, prompt=STUCK_MARK, on_deadline=LateVideo.DISCARD)
    with pytest.raises(LeaseLost):
        await carry(engine, "t", None)
    ended = await engine.ledger.get("t")
    assert (ended.state, ended.video_pending) == (State.EXPIRED, False)
    assert ended.error is not None
    assert "will still bill" in ended.error.message
    assert await carry(engine, "t", None) == ended
    assert await engine.ledger.claimable_from() is None
    assert len(sandbox.charges()) == 1


async def test_a_video_that_exists_already_is_archived_after_the_deadline(
    engine: Engine, sandbox: SandboxServer
) -> None:
    sandbox.set_faults([{"fault": "hang", "on": "download", "times": 1}])
    await _queue(engine, seconds=1.0)
    with pytest.raises(LeaseLost):
        await carry(engine, "t", None)
    early = await engine.ledger.get("t")
    assert early.video_pending
    assert early.error is not None
    assert "has made the video" in early.error.message
    await engine.ledger.claim_one("t", engine.runner_id)
    assert_video_kept(await carry(engine, "t", None), State.EXPIRED)


async def test_nothing_is_sent_after_the_deadline_however_rarely_it_is_looked_for(
    open_engine: OpenEngine, sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "LOOK_SECONDS", 3600.0)
    engine = await open_engine()
    await asyncio.sleep(0)
    await _queue(engine, seconds=-1.0)
    ended = await submit(engine, "t")
    assert ended.state is State.EXPIRED
    assert creates(sandbox) == 0


async def test_all_that_are_due_end_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "_LIMIT", 2)
    due = datetime.now(UTC) + timedelta(seconds=0.4)
    for number in range(5):
        await engine.ledger.create(new_task(f"t-{number}").model_copy(update={"deadline": due}))
    await engine.ledger.create(new_task("later").model_copy(update={"deadline": due + timedelta(hours=1)}))
    await engine.ledger.create(new_task("never"))
    for number in range(5):
        await until_state(engine, State.EXPIRED, name=f"t-{number}")
    for name in ("later", "never"):
        assert (await engine.ledger.get(name)).state is State.QUEUED
    assert await expire_due(engine.ledger) == 0
    first = await engine.ledger.first_deadline()
    assert first is not None
    assert first > time.time()


async def test_what_waits_for_a_person_expires_and_can_still_be_decided(engine: Engine, sandbox: SandboxServer) -> None:
    unsure = task(
        "t",
        state=State.UNRESOLVED,
        upstream=upstream("t", outcome_unknown=True),
        deadline=datetime.now(UTC) - timedelta(seconds=1),
    )
    ended = expired(unsure)
    assert (ended.state, ended.video_pending) == (State.EXPIRED, True)
    assert ended.upstream is not None
    assert ended.upstream.outcome_unknown
    assert ended.error is not None
    assert "unknown whether" in ended.error.message
    found = adopted(ended.model_copy(update={"video_pending": False}), "850")
    assert (found.state, found.video_pending) == (State.EXPIRED, True)
    assert found.upstream is not None
    assert (found.upstream.task_id, found.upstream.outcome_unknown) == ("850", False)


@pytest.mark.parametrize("state", sorted(FINAL_STATES))
def test_what_is_final_does_not_expire(state: State) -> None:
    ended = task("t", state=state, deadline=datetime.now(UTC))
    assert expired(ended) is ended


async def test_a_task_that_ends_in_time_is_left_alone(engine: Engine) -> None:
    await _queue(engine, seconds=1.5)
    ended = await carry(engine, "t", None)
    assert ended.state is State.SUCCEEDED
    await until(lambda: ended.deadline is not None and ended.deadline < datetime.now(UTC))
    assert await engine.ledger.first_deadline() is None
    assert await engine.ledger.get("t") == ended
