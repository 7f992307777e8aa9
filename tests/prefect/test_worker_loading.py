"""Which flows a worker of our type runs, and what it says of those that it does not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.responses import DeploymentResponse
from prefect.workers.base import BaseWorker

from kling_flows import text_to_video
from kling_flows.errors import ConfigurationError
from kling_flows.flows.deployments import OUR_TYPE
from kling_flows.worker import KlingFlowsWorker
from kling_flows.worker.loading import Flows

pytestmark = pytest.mark.xdist_group("prefect-plugin")

OWN = """
from prefect import flow

@flow
async def trailer(): ...

@flow
def blocking(): ...
"""


def _deployment(entrypoint: str | None, **more: Any) -> DeploymentResponse:
    return DeploymentResponse(id=uuid4(), name="on-demand", flow_id=uuid4(), entrypoint=entrypoint, **more)


def _set_directory(folder: Path) -> dict[str, Any]:
    return {"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}


async def test_installed_flows_and_flows_in_files_are_loaded_once(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    flows = Flows()
    assert (await flows.of(_deployment("kling_flows.flows.text_to_video.text_to_video"))).name == text_to_video.name
    by_path = await flows.of(_deployment("own.py:trailer", path=str(tmp_path)))
    by_step = await flows.of(_deployment("own.py:trailer", pull_steps=[_set_directory(tmp_path)]))
    assert by_path.name == "trailer"
    assert by_step is by_path


async def test_runs_that_start_together_load_a_flow_without_harm(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    flows = Flows()
    deployment = _deployment("own.py:trailer", path=str(tmp_path))
    first, second = await asyncio.gather(flows.of(deployment), flows.of(deployment))
    assert first.name == second.name == "trailer"


@pytest.mark.parametrize(
    ("entrypoint", "more", "said"),
    [
        (None, {}, "no entrypoint"),
        ("own.py:blocking", {}, "async def"),
        ("own.py:trailer", {"pull_steps": [{"prefect.deployments.steps.git_clone": {"repository": "x"}}]}, "pulled"),
    ],
)
async def test_what_it_cannot_run_is_said_with_the_remedy(
    tmp_path: Path, entrypoint: str | None, more: dict[str, Any], said: str
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(ConfigurationError, match=said):
        await Flows().of(_deployment(entrypoint, path=str(tmp_path), **more))


def test_prefect_finds_the_type() -> None:
    assert BaseWorker.get_worker_class_from_type(OUR_TYPE) is KlingFlowsWorker
    worker = KlingFlowsWorker(work_pool_name="any", prefetch_seconds=10)
    assert (worker._limit, worker._prefetch_seconds) == (500, 0)
    assert KlingFlowsWorker(work_pool_name="any", limit=7)._limit == 7
