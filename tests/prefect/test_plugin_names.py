"""What a flow run's parameters call video tasks, and which are meant; ids that tenants choose are decision 0012."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from kling_flows import TextToVideoRequest, text_to_video, text_to_videos
from kling_flows.engine.engine import Engine
from kling_flows.engine.identity import ledger_task_id
from kling_flows.errors import InvalidRequest
from kling_flows.flows.cancelling import cancel_videos
from kling_flows.flows.runs import known_video_tasks
from kling_flows.ledger import FlowRunRecord, State, VideoTask
from kling_flows.settings import Settings
from kling_flows.steps import submit
from tests.front.rig import new_record
from tests.stack import Sandbox

from .rig import Prefect

pytestmark = pytest.mark.xdist_group("prefect-plugin")

REQUEST = TextToVideoRequest(prompt="a cat")


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    """Of a runner or a worker that is set up for the tenant ``ads``."""
    monkeypatch.setenv("KLING_FLOWS_TENANT", "ads")
    async with Engine.open(Settings.load()) as opened:
        yield opened


async def _chosen(engine: Engine, task_id: str, tenant: str) -> VideoTask:
    """A task under an id that its tenant has chosen."""
    task = new_record(task_id, tenant=tenant)
    return await engine.ledger.create(task.model_copy(update={"id": ledger_task_id(tenant, task_id)}))


def _run(*, tags: Sequence[str] = (), **parameters: Any) -> FlowRun:
    return FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), parameters=parameters, tags=list(tags))


def _one(task_id: str, *tags: str) -> FlowRun:
    return _run(request=REQUEST.model_dump(mode="json"), task_id=task_id, tags=tags)


async def _meant(engine: Engine, run: FlowRun) -> list[str]:
    return [task.id for task in await known_video_tasks(engine, run)]


async def test_a_task_is_found_by_what_its_tenant_calls_it_and_by_what_the_ledger_calls_it(engine: Engine) -> None:
    task = await _chosen(engine, "film", "ads")
    assert await _meant(engine, _one("film")) == await _meant(engine, _one(task.id)) == [task.id]
    assert await _meant(engine, _run(requests=[], task_ids=["film", task.id, "other"])) == [task.id]
    assert await _meant(engine, _one("other")) == []


async def test_a_task_of_another_tenant_is_found_by_the_tenant_that_the_runs_tags_tell_of(engine: Engine) -> None:
    task = await _chosen(engine, "film", "news")
    assert await _meant(engine, _one("film")) == []
    assert await _meant(engine, _one("film", "model:kling-v3", "tenant:news")) == [task.id]


async def test_of_two_tasks_of_one_name_the_one_is_meant_that_the_run_carries(engine: Engine) -> None:
    plain, marked = await _chosen(engine, "film", "default"), await _chosen(engine, "film", "ads")
    run = _one("film")
    assert await _meant(engine, run) == [plain.id]
    carried = FlowRunRecord(id=str(run.id), name="text-to-video/film", url="")
    await engine.ledger.advance(marked.id, lambda task: task.model_copy(update={"flow_run": carried}))
    assert await _meant(engine, run) == [marked.id]
    # A worker of Prefect's own comes to the same.
    await cancel_videos(text_to_video, run, Cancelling())
    states = [(await engine.ledger.get(task.id)).state for task in (plain, marked)]
    assert states == [State.QUEUED, State.CANCELLED]


async def test_a_run_of_a_tenants_own_name_is_found_by_a_runner_of_another_tenant(
    connected: Prefect, provider: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as ads:
        ads.setenv("KLING_FLOWS_TENANT", "ads")
        task = await text_to_video(REQUEST, task_id="film")
        # As a tenant names it also where tasks are carried on.
        assert [again.id for again in await text_to_videos(task_ids=["film"])] == [task.id]
    assert task.tenant == "ads"
    assert task.flow_run is not None
    async with get_client() as client:
        run = await client.read_flow_run(uuid.UUID(task.flow_run.id))
    assert run.parameters["task_id"] == "film"
    async with Engine.open(Settings.load()) as runner:
        assert runner.settings.tenant == "default"
        assert await _meant(runner, run) == [task.id]


@pytest.mark.parametrize("tenant", ["default", "ads"])
async def test_what_no_tenant_can_choose_is_refused_for_a_new_task(
    monkeypatch: pytest.MonkeyPatch, tenant: str
) -> None:
    monkeypatch.setenv("KLING_FLOWS_TENANT", tenant)
    async with Engine.open(Settings.load()) as engine:
        for task_id in ("film_zzz", "film_000000000000", "film_/../x", "Film"):
            with pytest.raises(InvalidRequest) as caught:
                await submit(engine, REQUEST, task_id)
            assert [violation.field for violation in caught.value.violations] == ["video_task_id"]
        assert await engine.ledger.head() == 0
