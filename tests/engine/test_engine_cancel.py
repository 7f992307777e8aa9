from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kling_flows.engine.cancel import cancelled
from kling_flows.engine.carry import carry
from kling_flows.engine.engine import Engine
from kling_flows.engine.failures import ending
from kling_flows.engine.submit import submit
from kling_flows.errors import LeaseLost, VideoTaskCancelled, VideoTaskFinal
from kling_flows.ledger import FINAL_STATES, LateVideo, State, VideoTask
from kling_flows.sandbox import SandboxServer
from kling_flows.sandbox.text2video import STUCK_MARK
from kling_flows.upstream import UpstreamBilling, UpstreamConcurrency, UpstreamError

from ..ledger.make import task, upstream
from .rig import OpenEngine, creates, history, queue, until, until_state, waiting_for_a_slot


async def _cancel(engine: Engine, reason: str = "", name: str = "t") -> VideoTask:
    """As the front does it: by nobody's lease."""
    return await engine.ledger.advance(name, lambda before: cancelled(before, reason))


async def test_a_cancel_before_anything_was_sent_is_free(engine: Engine, sandbox: SandboxServer) -> None:
    await queue(engine)
    ended = await _cancel(engine, "changed my mind")
    assert ended.state is State.CANCELLED
    assert ended.error is not None
    assert ended.error.metadata["sent"] == "false"
    assert "nothing is spent" in ended.error.message
    assert "changed my mind" in ended.error.message
    assert await carry(engine, "t", None) == ended
    assert creates(sandbox) == 0


async def test_a_cancel_while_it_waits_for_a_slot_is_free(open_engine: OpenEngine, sandbox: SandboxServer) -> None:
    engine = await open_engine(submit_concurrency=1)
    sandbox.set_faults([{"fault": "slow", "on": "create", "seconds": 60}])
    for name in ("first", "waits"):
        await queue(engine, name)
    first = asyncio.create_task(carry(engine, "first", None))
    await until(lambda: creates(sandbox))
    waits = asyncio.create_task(carry(engine, "waits", None))
    await until(lambda: waiting_for_a_slot(engine))
    ended = await _cancel(engine, name="waits")
    assert ended.error is not None
    assert ended.error.metadata["sent"] == "false"
    # The slot becomes free.
    first.cancel()
    with pytest.raises(LeaseLost):
        await waits
    assert await engine.ledger.get("waits") == ended
    assert creates(sandbox) == 1


async def test_a_cancel_while_the_request_is_out_keeps_what_it_cost(engine: Engine, sandbox: SandboxServer) -> None:
    sandbox.set_faults([{"fault": "slow", "on": "create", "seconds": 1.0}])
    await queue(engine)
    carrying = asyncio.create_task(carry(engine, "t", None))
    await until(lambda: creates(sandbox))
    early = await _cancel(engine)
    assert early.error is not None
    assert early.error.metadata["sent"] == "true"
    ended = await carrying
    assert ended.state is State.CANCELLED
    assert ended.end_time == early.end_time
    assert ended.upstream is not None
    assert ended.upstream.task_id == sandbox.charges()[0]["task_id"]
    assert not ended.upstream.outcome_unknown
    assert ended.error == early.error
    assert [seen.state for seen in await history(engine)][-2:] == [State.CANCELLED] * 2


async def test_a_cancel_while_the_outcome_is_unknown_keeps_what_it_cost(engine: Engine, sandbox: SandboxServer) -> None:
    sandbox.set_faults(
        [
            {"fault": "accept_then_drop", "times": 1},
            {"fault": "slow", "on": "get", "seconds": 0.8, "times": 1},
        ]
    )
    await queue(engine)
    carrying = asyncio.create_task(carry(engine, "t", None))
    await until(lambda: sandbox.stats()["calls"]["get"])
    await _cancel(engine)
    ended = await carrying
    assert ended.state is State.CANCELLED
    assert ended.upstream is not None
    assert ended.upstream.task_id == sandbox.charges()[0]["task_id"]


def test_a_cancel_of_what_was_only_refused_says_that_nothing_is_spent() -> None:
    ended = cancelled(task("t", state=State.SUBMITTING, upstream=upstream("t")), "")
    assert ended.error is not None
    assert ended.error.metadata["sent"] == "false"
    assert "nothing is spent" in ended.error.message


async def _refused(engine: Engine) -> bool:
    return (await engine.ledger.get("t")).error is not None


async def test_a_cancel_is_not_followed_by_another_request(engine: Engine, sandbox: SandboxServer) -> None:
    sandbox.set_faults([{"fault": "concurrency"}])
    await queue(engine)
    carrying = asyncio.create_task(carry(engine, "t", None))
    await until(lambda: creates(sandbox))
    await until(lambda: _refused(engine))
    ended = await _cancel(engine)
    await asyncio.wait({carrying})
    sent = creates(sandbox)
    sandbox.set_faults([])
    assert await carry(engine, "t", None) == await engine.ledger.get("t")
    assert (await engine.ledger.get("t")).state is ended.state
    assert creates(sandbox) == sent
    assert sandbox.charges() == []
    carrying.exception()


async def test_a_cancel_ends_the_wait_soon(engine: Engine, sandbox: SandboxServer) -> None:
    await queue(engine, prompt=STUCK_MARK)
    carrying = asyncio.create_task(carry(engine, "t", None))
    await until_state(engine, State.PROCESSING)
    ended = await _cancel(engine)
    async with asyncio.timeout(4):
        with pytest.raises(LeaseLost):
            await carrying
    assert (await engine.ledger.get("t")).state is ended.state
    # And nobody looks at it any more.
    looks = sandbox.stats()["calls"]["get"]
    await asyncio.sleep(0.3)
    assert sandbox.stats()["calls"]["get"] <= looks + 1


async def test_a_cancel_while_archiving_is_not_overwritten(engine: Engine, sandbox: SandboxServer) -> None:
    sandbox.set_faults([{"fault": "slow", "on": "download", "seconds": 0.8}])
    await queue(engine)
    carrying = asyncio.create_task(carry(engine, "t", None))
    await until(lambda: sandbox.stats()["calls"]["download"])
    ended = await _cancel(engine)
    with pytest.raises(LeaseLost):
        await carrying
    assert await engine.ledger.get("t") == ended


async def test_a_second_cancel_changes_nothing(engine: Engine) -> None:
    await queue(engine)
    first = await _cancel(engine, "one")
    assert await _cancel(engine, "two") == first
    assert await engine.ledger.head() == 2


@pytest.mark.parametrize("state", sorted(FINAL_STATES - {State.CANCELLED}))
def test_what_has_ended_cannot_be_cancelled(state: State) -> None:
    with pytest.raises(VideoTaskFinal) as caught:
        cancelled(task("t", state=state), "")
    assert caught.value.metadata == {"video_task": "t", "state": state.value}


@pytest.mark.parametrize("state", sorted(set(State) - FINAL_STATES - {State.QUEUED}))
@pytest.mark.parametrize("facts", [{"task_id": "850"}, {"outcome_unknown": True}], ids=["accepted", "unknown"])
def test_what_was_sent_can_be_cancelled_and_says_that_it_may_cost(state: State, facts: dict[str, Any]) -> None:
    ended = cancelled(task("t", state=state, upstream=upstream("t", **facts)), "")
    assert ended.state is State.CANCELLED
    assert ended.error is not None
    assert "may still generate and bill" in ended.error.message


@pytest.mark.parametrize("state", State)
def test_only_an_ending_without_a_video_is_an_error(state: State) -> None:
    ended = task("t", state=state)
    error = ending(ended)
    assert (error is not None) == (state in FINAL_STATES - {State.SUCCEEDED})
    if state is State.CANCELLED:
        assert isinstance(ending(cancelled(task("t"), "why")), VideoTaskCancelled)


def test_the_error_of_an_ending_says_why() -> None:
    error: Any = ending(cancelled(task("t"), "why"))
    assert "why" in error.message
    assert error.metadata == {"video_task": "t", "reason": "VIDEO_TASK_CANCELLED"}


@pytest.mark.parametrize("error", [UpstreamBilling, UpstreamConcurrency])
async def test_what_the_provider_refuses_after_the_end_is_no_longer_unknown(
    engine: Engine, sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch, error: type[UpstreamError]
) -> None:
    await queue(engine)

    async def create(*_arguments: Any) -> Any:
        await _cancel_and_keep(engine)
        raise error("no")

    monkeypatch.setattr(engine.client, "create", create)
    with pytest.raises(LeaseLost):
        await submit(engine, "t")
    ended = await engine.ledger.get("t")
    assert (ended.state, ended.video_pending) == (State.CANCELLED, False)
    assert ended.upstream is not None
    assert not ended.upstream.outcome_unknown
    assert ended.error is not None
    assert ended.error.message.endswith("the provider has refused it: nothing is spent")


async def _cancel_and_keep(engine: Engine) -> VideoTask:
    return await engine.ledger.advance("t", lambda before: cancelled(before, "", LateVideo.KEEP_VIDEO))


def _discarded(**facts: Any) -> VideoTask:
    ended = cancelled(task("t", state=State.PROCESSING, upstream=upstream("t", **facts)), "why")
    return ended.model_copy(update={"end_time": datetime.now(UTC)})


@pytest.mark.parametrize("facts", [{"task_id": "850"}, {"outcome_unknown": True}], ids=["accepted", "unknown"])
def test_a_second_cancel_can_still_ask_for_the_video(facts: dict[str, Any]) -> None:
    first = _discarded(**facts)
    assert not first.video_pending
    assert cancelled(first, "again") is first
    second = cancelled(first, "", LateVideo.KEEP_VIDEO)
    assert (second.state, second.video_pending) == (State.CANCELLED, True)
    assert second.error is not None
    assert "why" in second.error.message
    assert "will be archived" in second.error.message
    for again in (LateVideo.KEEP_VIDEO, LateVideo.DISCARD):
        assert cancelled(second, "", again) is second


def test_a_video_that_cannot_be_had_is_not_promised() -> None:
    hour = timedelta(hours=1)
    old = _discarded(task_id="850").model_copy(update={"end_time": datetime.now(UTC) - hour})
    gone = [
        cancelled(task("t"), ""),
        cancelled(task("t", state=State.SUBMITTING, upstream=upstream("t")), ""),
        _discarded(task_id="850", status="failed"),
        _discarded(task_id="850", end_time=datetime.now(UTC) - timedelta(days=31)),
    ]
    for ended in gone:
        assert cancelled(ended, "", LateVideo.KEEP_VIDEO) is ended
    assert cancelled(old, "", LateVideo.KEEP_VIDEO, retention=3599.0) is old
    assert cancelled(old, "", LateVideo.KEEP_VIDEO, retention=3700.0).video_pending


def test_a_cancel_for_free_keeps_no_video() -> None:
    assert not cancelled(task("t"), "", LateVideo.KEEP_VIDEO).video_pending


async def test_a_cancel_stops_the_download(engine: Engine, sandbox: SandboxServer) -> None:
    sandbox.set_faults([{"fault": "hang", "on": "download"}])
    await queue(engine)
    carrying = asyncio.create_task(carry(engine, "t", None))
    await until(lambda: sandbox.stats()["calls"]["download"])
    await _cancel(engine)
    async with asyncio.timeout(60):
        with pytest.raises(LeaseLost):
            await carrying
