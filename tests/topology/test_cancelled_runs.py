"""What a worker of Prefect's own has to do with the videos of a run that somebody cancels; without the worker."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from kling_flows.flows import text_to_video, text_to_videos
from kling_flows.ledger import Ledger, State
from kling_flows.settings import Settings
from tests.front.rig import new_record

REQUEST = {"prompt": "a cat"}


@pytest.fixture
async def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ledger]:
    """The one that this process is set up with."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("KLING_FLOWS_STATE_DIR", str(tmp_path))
    async with await Ledger.open(Settings.load().ledger_address) as opened:
        yield opened


async def _cancelled(flow: Flow[..., Any], run_id: uuid.UUID, **parameters: Any) -> None:
    """What Prefect's workers do once the run's process is gone."""
    run = FlowRun(id=run_id, flow_id=uuid.uuid4(), parameters=parameters)
    hooks = flow.on_cancellation_hooks
    assert hooks
    for hook in hooks:
        await hook(flow=flow, flow_run=run, state=Cancelling())


async def test_a_run_takes_its_video_with_it_and_no_other(ledger: Ledger) -> None:
    run, other = uuid.uuid4(), uuid.uuid4()
    for task_id in (f"vt-{run}", f"vt-{other}"):
        await ledger.create(new_record(task_id))
    for _ in range(2):
        await _cancelled(text_to_video, run, request=REQUEST)
        task = await ledger.get(f"vt-{run}")
        assert (task.state, task.active) == (State.CANCELLED, False)
    assert task.error is not None
    assert "cancelled in Prefect" in task.error.message
    assert (await ledger.get(f"vt-{other}")).state is State.QUEUED


async def test_a_run_of_many_takes_all_with_it_that_have_not_ended(ledger: Ledger) -> None:
    run = uuid.uuid4()
    for task_id in (f"vt-{run}-0", "mine", "done"):
        await ledger.create(new_record(task_id))
    await ledger.advance("done", lambda task: task.model_copy(update={"state": State.FAILED}))
    # The second of its requests was never reached.
    await _cancelled(text_to_videos, run, requests=[REQUEST, REQUEST], task_ids=["mine", "done"])
    states = {task_id: (await ledger.get(task_id)).state for task_id in (f"vt-{run}-0", "mine", "done")}
    assert states == {f"vt-{run}-0": State.CANCELLED, "mine": State.CANCELLED, "done": State.FAILED}


async def test_a_video_that_its_tenant_has_named_is_found(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLING_FLOWS_TENANT", "ads")
    task = await ledger.create(new_record("launch", tenant="ads"))
    await _cancelled(text_to_video, uuid.uuid4(), request=REQUEST, task_id="launch")
    assert (await ledger.get(task.id)).state is State.CANCELLED
