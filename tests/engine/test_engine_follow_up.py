"""Final tasks whose video is still wanted: followed to the archive, and never submitted again."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from kling_flows.engine import follow_up
from kling_flows.engine.cancel import cancelled
from kling_flows.engine.carry import carry
from kling_flows.engine.engine import Engine
from kling_flows.engine.resolve import adopted
from kling_flows.engine.retries import REDISPATCH_SECONDS, UNTRIED_SECONDS, redispatch_seconds
from kling_flows.errors import ArchiveError, LeaseLost
from kling_flows.ledger import LateVideo, State, VideoTask
from kling_flows.ledger.operations import NOTICE_SECONDS
from kling_flows.sandbox import SandboxServer
from kling_flows.sandbox.text2video import STUCK_MARK
from kling_flows.upstream import UpstreamAmbiguous

from ..ledger.make import task, upstream
from .rig import OpenEngine, assert_paid_once, assert_video_kept, creates, history, queue, until, until_state


async def _cancel(engine: Engine, on_cancel: LateVideo = LateVideo.KEEP_VIDEO, name: str = "t") -> VideoTask:
    return await engine.ledger.advance(name, lambda before: cancelled(before, "no time", on_cancel))


async def _begin(engine: Engine, sandbox: SandboxServer) -> asyncio.Task[VideoTask]:
    """A task at the provider, which is being carried."""
    await queue(engine, prompt=STUCK_MARK)
    carrying = asyncio.create_task(carry(engine, "t", None))
    await until_state(engine, State.PROCESSING)
    return carrying


async def _unknown_outcome(engine: Engine, sandbox: SandboxServer, fault: str) -> None:
    """A cancelled task whose request went out and that the provider does not show; whoever sent it is gone."""
    sandbox.set_faults([{"fault": fault, "on": "create"}, {"fault": "http_error", "on": "get", "code": 1203}])
    await queue(engine)
    carrying = asyncio.create_task(carry(engine, "t", None))
    await until(lambda: creates(sandbox))
    ended = await _cancel(engine)
    assert ended.video_pending
    carrying.cancel()
    await asyncio.wait({carrying})


async def test_nobody_takes_it_up_before_its_interrupted_step_has_noticed(
    engine: Engine, sandbox: SandboxServer
) -> None:
    carrying = await _begin(engine, sandbox)
    await _cancel(engine)
    assert await engine.ledger.held_by(engine.runner_id) == set()
    start = await engine.ledger.claimable_from()
    assert start is not None
    assert time.time() + NOTICE_SECONDS - 1 < start <= time.time() + NOTICE_SECONDS
    assert await engine.ledger.claim(engine.runner_id, 10) == []
    async with asyncio.timeout(NOTICE_SECONDS):
        with pytest.raises(LeaseLost):
            await carrying
    claimed = await until(lambda: engine.ledger.claim(engine.runner_id, 10))
    assert [task.id for task in claimed] == ["t"]
    # An event of the follow-up does not end the hold.
    await engine.advance("t", lambda before: before.model_copy(update={"labels": {"a": "b"}}))
    assert await engine.ledger.held_by(engine.runner_id) == {"t"}


async def test_another_runner_archives_the_video(open_engine: OpenEngine, sandbox: SandboxServer) -> None:
    first, second = await open_engine(), await open_engine()
    sandbox.set_faults([{"fault": "hang", "on": "download", "times": 1}])
    await queue(first)
    carrying = asyncio.create_task(carry(first, "t", None))
    await until(lambda: sandbox.stats()["calls"]["download"])
    await _cancel(first)
    await second.ledger.claim_one("t", second.runner_id)
    late = await carry(second, "t", None)
    assert_video_kept(late, State.CANCELLED)
    assert late.error is not None
    assert "no time" in late.error.message
    assert "in the archive" in late.error.message
    assert_paid_once(sandbox, late)
    with pytest.raises(LeaseLost):
        await carrying
    assert await second.ledger.held_by(second.runner_id) == set()
    assert len(await history(second)) == late.revision


async def test_an_unknown_outcome_is_looked_up(engine: Engine, sandbox: SandboxServer) -> None:
    await _unknown_outcome(engine, sandbox, "accept_then_drop")
    sandbox.set_faults([])
    await engine.ledger.claim_one("t", engine.runner_id)
    late = await carry(engine, "t", None)
    assert_video_kept(late, State.CANCELLED)
    assert_paid_once(sandbox, late)
    assert creates(sandbox) == 1


async def test_what_was_never_created_is_not_created_afterwards(
    engine: Engine, sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _unknown_outcome(engine, sandbox, "hang")
    await engine.ledger.claim_one("t", engine.runner_id)
    # What is on its way may still arrive.
    with pytest.raises(UpstreamAmbiguous):
        await follow_up.settle(engine, "t")
    assert (await engine.ledger.get("t")).video_pending
    monkeypatch.setattr(follow_up, "BELIEVED_AFTER", 0.0)
    ended = await carry(engine, "t", None)
    assert (ended.state, ended.video_pending) == (State.CANCELLED, False)
    assert ended.upstream is not None
    assert not ended.upstream.outcome_unknown
    assert ended.error is not None
    assert ended.error.message.endswith("nothing is spent")
    assert ended.error.metadata["sent"] == "false"
    assert sandbox.charges() == []
    assert creates(sandbox) == 1


async def test_where_nobody_can_find_it_out_a_person_can(
    engine: Engine, sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_up, "BELIEVED_AFTER", 0.0)
    await engine.ledger.write_meta(f"lookup/{engine.client.account.name}", "not-honoured")
    await _unknown_outcome(engine, sandbox, "accept_then_drop")
    await engine.ledger.claim_one("t", engine.runner_id)
    unsure = await carry(engine, "t", None)
    assert (unsure.state, unsure.video_pending) == (State.CANCELLED, False)
    assert unsure.upstream is not None
    assert unsure.upstream.outcome_unknown
    assert unsure.error is not None
    assert "resolve" in unsure.error.message
    sandbox.set_faults([])
    found = sandbox.charges()[0]["task_id"]
    await engine.ledger.advance("t", lambda before: adopted(before, found))
    await engine.ledger.claim_one("t", engine.runner_id)
    assert_video_kept(await carry(engine, "t", None), State.CANCELLED)
    assert creates(sandbox) == 1


async def test_a_task_that_the_provider_fails_ends_without_a_video(engine: Engine, sandbox: SandboxServer) -> None:
    sandbox.set_faults(
        [
            {"fault": "fail"},
        ]
    )
    await queue(engine)
    carrying = asyncio.create_task(carry(engine, "t", None))
    await until_state(engine, State.SUBMITTED, State.PROCESSING)
    await _cancel(engine)
    carrying.cancel()
    await asyncio.wait({carrying})
    await engine.ledger.claim_one("t", engine.runner_id)
    ended = await carry(engine, "t", None)
    assert (ended.state, ended.video_pending, ended.artifacts) == (State.CANCELLED, False, ())
    assert ended.upstream is not None
    assert ended.upstream.status == "failed"
    assert ended.error is not None
    assert "no video" in ended.error.message


async def test_a_video_that_is_gone_is_given_up_only_after_its_time(
    open_engine: OpenEngine, sandbox: SandboxServer
) -> None:
    sandbox.set_faults([{"fault": "video_expired", "on": "download"}])
    engine = await open_engine(result_retention=3.0)
    await queue(engine)
    carrying = asyncio.create_task(carry(engine, "t", None))
    await until_state(engine, State.ARCHIVING)
    early = await _cancel(engine)
    assert early.video_pending
    carrying.cancel()
    await asyncio.wait({carrying})

    async def given_up() -> VideoTask | None:
        await engine.ledger.claim_one("t", engine.runner_id)
        try:
            ended = await carry(engine, "t", None)
        except ArchiveError:
            assert (await engine.ledger.get("t")).video_pending
            return None
        return ended

    ended = await until(given_up)
    assert (ended.state, ended.video_pending, ended.artifacts) == (State.CANCELLED, False, ())
    assert ended.error is not None
    assert "deleted" in ended.error.message
    assert creates(sandbox) == 1


async def test_what_cannot_be_archived_is_tried_ever_more_rarely(engine: Engine) -> None:
    def after(**age: float) -> float:
        ended = datetime.now(UTC) - timedelta(**age)
        return redispatch_seconds(task("t", state=State.ARCHIVING, upstream=upstream("t", end_time=ended)))

    assert redispatch_seconds(task("t")) == UNTRIED_SECONDS
    assert redispatch_seconds(task("t", state=State.SUBMITTED, upstream=upstream("t"))) == REDISPATCH_SECONDS
    assert after(seconds=1) == REDISPATCH_SECONDS
    assert after(hours=5) == pytest.approx(1800, rel=0.01)
    assert after(days=20) == 3600
