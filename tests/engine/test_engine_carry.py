from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kling_flows.engine.carry import carry
from kling_flows.engine.durations import duration_key, typical_seconds
from kling_flows.engine.engine import Engine
from kling_flows.errors import RunnerDraining
from kling_flows.ledger import FlowRunRecord, State
from kling_flows.sandbox import SandboxServer
from kling_flows.sandbox.tasks import FAILURE_TEXT
from kling_flows.sandbox.text2video import FAIL_MARK, STUCK_MARK
from kling_flows.upstream import Provider, TextToVideoRequest

from .rig import (
    OpenEngine,
    assert_archived,
    assert_paid_once,
    creates,
    history,
    queue,
    until,
    until_state,
    waiting_for_a_slot,
)

RUN = FlowRunRecord(id="run-1", name="text-to-video/t")


async def test_a_video_is_paid_once_and_archived(
    start_sandbox: Callable[..., SandboxServer], open_engine_on: Callable[..., Any]
) -> None:
    server = start_sandbox(seconds=(1.5, 1.5))
    engine: Engine = await open_engine_on(server)
    await queue(engine)
    ended = await carry(engine, "t", RUN)
    assert_archived(ended)
    assert_paid_once(server, ended)
    assert [task.state for task in await history(engine)] == [
        State.QUEUED,
        State.SUBMITTING,
        State.SUBMITTED,
        State.PROCESSING,
        State.ARCHIVING,
        State.SUCCEEDED,
    ]
    assert ended == await engine.ledger.get("t")
    assert ended.flow_run == RUN
    assert ended.upstream is not None
    assert ended.upstream.submit_attempts == 1
    assert ended.upstream.settled_units
    assert ended.artifacts[0].duration_seconds == pytest.approx(5, abs=0.5)
    assert await engine.ledger.held_by(engine.runner_id) == set()


async def test_a_task_that_has_ended_is_not_carried_again(engine: Engine, sandbox: SandboxServer) -> None:
    await queue(engine)
    ended = await carry(engine, "t", RUN)
    assert await carry(engine, "t", None) == ended
    assert creates(sandbox) == 1


async def test_many_videos_are_each_paid_once(
    start_sandbox: Callable[..., SandboxServer], open_engine_on: Callable[..., Any]
) -> None:
    server = start_sandbox(seconds=(0.1, 0.5))
    engine: Engine = await open_engine_on(server)
    names = [f"t-{n}" for n in range(30)]
    for name in names:
        await queue(engine, name)
    ended = await asyncio.gather(*(carry(engine, name, None) for name in names))
    for task in ended:
        assert_archived(task)
    charged = [charge["external_task_id"] for charge in server.charges()]
    assert sorted(charged) == sorted(task.upstream.external_task_id for task in ended if task.upstream)
    assert len(set(charged)) == 30


async def test_the_provider_s_words_say_why_it_failed(engine: Engine, sandbox: SandboxServer) -> None:
    await queue(engine, prompt=f"a cup {FAIL_MARK}")
    ended = await carry(engine, "t", None)
    assert ended.state is State.FAILED
    assert ended.error is not None
    assert ended.error.reason == "VIDEO_TASK_FAILED"
    assert FAILURE_TEXT in ended.error.message
    assert ended.upstream is not None
    assert ended.upstream.status_message == FAILURE_TEXT
    assert ended.upstream.end_time is not None
    assert [charge["refunded"] for charge in sandbox.charges()] == [True]


@pytest.mark.parametrize("operation", ["get", "list"])
async def test_a_success_that_shows_no_video_for_a_moment_still_succeeds(
    engine: Engine, sandbox: SandboxServer, operation: str
) -> None:
    names = ["t"] if operation == "get" else [f"t-{n}" for n in range(5)]
    sandbox.set_faults([{"fault": "succeed_without_url", "on": operation, "times": 3 * len(names)}])
    for name in names:
        await queue(engine, name)
    for task in await asyncio.gather(*(carry(engine, name, None) for name in names)):
        assert_archived(task)


async def test_how_long_videos_take_is_learned_and_used(
    start_sandbox: Callable[..., SandboxServer], open_engine_on: Callable[..., Any]
) -> None:
    server = start_sandbox(seconds=(0.7, 0.7))
    engine: Engine = await open_engine_on(server)
    first = await queue(engine, "t-1")
    await carry(engine, "t-1", None)
    key = duration_key("sandbox", first.request)
    known = await engine.ledger.read_durations()
    assert known == {key: pytest.approx(0.7, abs=0.05)}
    # A task of the same kind, of which nobody has said how long it takes.
    await engine.ledger.create(
        first.model_copy(update={"id": "t-2", "typical_seconds": None}), runner_id=engine.runner_id
    )
    gets = server.stats()["calls"]["get"]
    ended = await carry(engine, "t-2", None)
    assert ended.typical_seconds == known[key]
    # Nobody looks before 60 % of that has passed: of the looks every 0.1 s, the first few are saved.
    assert server.stats()["calls"]["get"] - gets <= 6


def test_what_was_never_seen_is_guessed_by_the_clip_s_length() -> None:
    short, long = (TextToVideoRequest(prompt="x", duration=seconds) for seconds in (5, 10))
    assert typical_seconds({}, Provider.KLING, long) == 2 * typical_seconds({}, Provider.KLING, short)
    assert typical_seconds({}, Provider.SANDBOX, long) == typical_seconds({}, Provider.SANDBOX, short)
    assert typical_seconds({duration_key("kling", long): 7.0}, Provider.KLING, long) == 7.0


async def test_a_draining_engine_sends_nothing_and_lets_go(engine: Engine, sandbox: SandboxServer) -> None:
    await queue(engine, "waits", prompt=STUCK_MARK)
    await queue(engine, "queued")
    waiting = asyncio.create_task(carry(engine, "waits", None))
    await until(lambda: sandbox.charges())
    await until_state(engine, State.SUBMITTED, name="waits")
    engine.drain()
    with pytest.raises(RunnerDraining):
        await waiting
    with pytest.raises(RunnerDraining):
        await carry(engine, "queued", None)
    assert (await engine.ledger.get("queued")).state is State.QUEUED
    assert creates(sandbox) == 1


async def test_a_drain_also_stops_what_waits_for_a_slot(open_engine: OpenEngine, sandbox: SandboxServer) -> None:
    engine = await open_engine(submit_concurrency=1)
    sandbox.set_faults([{"fault": "slow", "on": "create", "seconds": 60}])
    for name in ("first", "waits"):
        await queue(engine, name)
    first = asyncio.create_task(carry(engine, "first", None))
    await until(lambda: creates(sandbox))
    waits = asyncio.create_task(carry(engine, "waits", None))
    await until(lambda: waiting_for_a_slot(engine))
    engine.drain()
    # The slot becomes free, as it does when those that drain get no more time.
    first.cancel()
    with pytest.raises(RunnerDraining):
        await waits
    assert (await engine.ledger.get("first")).state is State.SUBMITTING
    assert (await engine.ledger.get("waits")).state is State.QUEUED
    assert creates(sandbox) == 1


async def test_two_ledgers_on_one_account_do_not_adopt_each_other_s_tasks(
    sandbox: SandboxServer, open_engine: OpenEngine, tmp_path: Any
) -> None:
    engines = [await open_engine(), await open_engine(state_dir=tmp_path / "another")]
    for engine in engines:
        await queue(engine, "same-name")
    ended = [await carry(engine, "same-name", None) for engine in engines]
    assert {task.upstream.task_id for task in ended if task.upstream} == {c["task_id"] for c in sandbox.charges()}
    assert len(sandbox.charges()) == 2
