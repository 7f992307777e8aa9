"""What looks after the ledger, the archive and dead flow runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
import pytest
from sqlalchemy import update

from kling_flows import TextToVideoRequest, audit, reconcile, retention, submit_video, text_to_video, video_session
from kling_flows.flows.dead_runs import close_dead_runs
from kling_flows.ledger import Ledger, State, VideoTask
from kling_flows.ledger.schema import video_tasks
from tests.stack import Sandbox

from .rig import Prefect

pytestmark = pytest.mark.xdist_group("prefect-plugin")


def _file(task: VideoTask) -> Path:
    return Path(unquote(urlsplit(task.artifacts[0].uri).path))


async def _age(ledger: Ledger, ids: list[str], moment: datetime) -> None:
    """Let tasks have ended at another time, as the ledger's search sees it."""
    ended = update(video_tasks).where(video_tasks.c.id.in_(ids)).values(end_time=moment.timestamp())
    await ledger._write(lambda connection: connection.execute(ended).rowcount)


async def test_reconcile_carries_on_what_nobody_carries(connected: Prefect, provider: Sandbox) -> None:
    left = await submit_video.fn(TextToVideoRequest(prompt="Left behind by its flow"), "left-behind")
    assert left.state is State.SUBMITTED
    counts = await reconcile(days=1)
    assert counts["carried"] == 1
    async with video_session() as engine:
        task = await engine.ledger.get("left-behind")
    assert task.state is State.SUCCEEDED
    assert _file(task).exists()
    assert [charge["prompt"] for charge in provider.charges()].count("Left behind by its flow") == 1


async def test_an_audit_fails_for_what_is_amiss_and_reconcile_mends_it(connected: Prefect, provider: Sandbox) -> None:
    async with video_session() as engine:
        external = f"kf-{engine.ledger.ledger_id}-forgotten"
        made = await engine.client.create(TextToVideoRequest(prompt="Forgotten by the ledger"), external)
    assert made.task_id
    state = await audit(days=1, return_state=True)
    assert state.is_failed()
    assert "1 amiss" in (state.message or "")
    counts = await reconcile(days=1)
    assert counts["adopted"] == 1
    async with video_session() as engine:
        task = await engine.ledger.get("forgotten")
    assert task.state is State.SUCCEEDED
    assert (await audit(days=1))["amiss"] == 0
    assert [charge["prompt"] for charge in provider.charges()].count("Forgotten by the ledger") == 1


async def test_retention_fetches_again_what_the_archive_has_lost_and_pays_nothing(
    connected: Prefect, provider: Sandbox
) -> None:
    task = await text_to_video(TextToVideoRequest(prompt="Lost from the archive"), task_id="lost-file")
    kept = await text_to_video(TextToVideoRequest(prompt="Still there"), task_id="kept-file")
    before = _file(task).read_bytes()
    _file(task).unlink()
    assert await retention() == {"fetched again": 1}
    assert _file(task).read_bytes() == before
    assert _file(kept).exists()
    assert await retention() == {}
    assert [charge["prompt"] for charge in provider.charges()].count("Lost from the archive") == 1


async def test_retention_prunes_by_policy_and_never_fetches_what_it_has_pruned(connected: Prefect) -> None:
    old = await text_to_video(TextToVideoRequest(prompt="Old"), task_id="old")
    marked = await text_to_video(TextToVideoRequest(prompt="Old and dear"), task_id="dear")
    long_ago = datetime.now(UTC) - timedelta(days=40)
    async with video_session() as engine:
        await engine.ledger.advance("dear", lambda task: task.model_copy(update={"labels": {"keep": "yes"}}))
        await _age(engine.ledger, ["old", "dear"], long_ago)
    assert await retention(prune_after_days=30, dry_run=True) == {"would be pruned": 1}
    assert _file(old).exists()
    assert await retention(prune_after_days=30) == {"pruned": 1}
    assert not _file(old).exists()
    assert _file(marked).exists()
    assert await retention() == {}
    async with video_session() as engine:
        task = await engine.ledger.get("old")
    assert (task.state, task.artifacts) == (State.SUCCEEDED, ())


async def test_a_flow_run_whose_process_is_gone_is_closed_once_its_video_has_ended(connected: Prefect) -> None:
    task = await text_to_video(TextToVideoRequest(prompt="Its run is forgotten"), task_id="forgotten-run")
    assert task.flow_run is not None
    running = {"state": {"type": "RUNNING", "name": "Running"}, "force": True}
    httpx.post(f"{connected.url}/flow_runs/{task.flow_run.id}/set_state", json=running).raise_for_status()
    async with video_session() as engine:
        assert await close_dead_runs(engine, timedelta(minutes=10)) == []
        assert task.flow_run.name in await close_dead_runs(engine, timedelta(0))
    [run] = connected.runs(flow_runs={"id": {"any_": [task.flow_run.id]}})
    assert run["state"]["type"] == "COMPLETED"
