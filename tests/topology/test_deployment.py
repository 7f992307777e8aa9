"""Somebody else's Prefect: a scheduled deployment, a stock worker, and what people do to its runs in the UI."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from kling_flows.errors import VideoTaskNotFound
from kling_flows.ledger import Ledger, State, VideoTask
from tests.prefect.conftest import prefect  # noqa: F401 - a fixture
from tests.prefect.rig import Prefect
from tests.stack import Sandbox, clean_environment, cli, process, sandbox, until

pytestmark = [pytest.mark.xdist_group("topology-deployment"), pytest.mark.timeout(1_200), pytest.mark.full]

#: As Prefect's UI sends them.
_CANCEL = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": True}
_RETRY = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}, "force": True}

#: A download fails, and asking for another address is refused for good: the run fails at once.
_NO_VIDEO = (
    {"fault": "http_error", "on": "download", "status": 500},
    {"fault": "http_error", "on": "get", "code": 1103},
)


@dataclass
class Deployment:
    """The deployment of text_to_video, with a worker that runs it."""

    prefect: Prefect
    provider: Sandbox
    id: str
    ledger_url: str
    worker_log: Path

    def schedule(self, prompt: str) -> None:
        """Have a run made each minute, the first in some seconds."""
        soon = datetime.now(UTC) + timedelta(seconds=5)
        entry = {
            "schedule": {"interval": 60, "anchor_date": soon.isoformat()},
            "active": True,
            "parameters": {"request": {"prompt": prompt}},
        }
        httpx.post(f"{self._url}/schedules", json=[entry], timeout=60).raise_for_status()

    def pause(self) -> None:
        """No schedule fires any more, and the runs that are planned are gone."""
        httpx.post(f"{self._url}/pause_deployment", timeout=60).raise_for_status()

    def start(self, prompt: str) -> str:
        return self.prefect.ask(f"deployments/{self.id}/create_flow_run", parameters={"request": {"prompt": prompt}})[
            "id"
        ]

    def runs(self, *states: str) -> list[dict[str, Any]]:
        return self.prefect.runs(
            flow_runs={"deployment_id": {"any_": [self.id]}, "state": {"type": {"any_": list(states)}}}
        )

    def until_run(self, run_id: str, state: str) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            return next((run for run in self.runs(state) if run["id"] == run_id), None)

        return until(reached, f"the run is {state}")

    def set_state(self, run_id: str, state: dict[str, Any]) -> None:
        self.prefect.ask(f"flow_runs/{run_id}/set_state", **state)

    def until_video(self, run_id: str, *states: State) -> VideoTask:
        """The video task of a run, once it is in one of these states."""

        async def read() -> VideoTask | None:
            async with await Ledger.open(self.ledger_url) as ledger:
                try:
                    return await ledger.get(f"vt-{run_id}")
                except VideoTaskNotFound:
                    return None

        def reached() -> VideoTask | None:
            task = asyncio.run(read())
            return task if task is not None and task.state in states else None

        return until(reached, f"the video task is {' or '.join(states)}")

    def charges(self, run_id: str) -> int:
        return sum(charge["external_task_id"].endswith(f"-vt-{run_id}") for charge in self.provider.charges())

    @property
    def _url(self) -> str:
        return f"{self.prefect.url}/deployments/{self.id}"


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("sandbox")
    with sandbox(folder, "--seconds", "10:11", "--concurrency", "0", "--video", "tiny") as running:
        yield running


@pytest.fixture(scope="module", params=["process"])
def deployment(
    request: pytest.FixtureRequest,
    prefect: Prefect,  # noqa: F811
    provider: Sandbox,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    folder, pool = tmp_path_factory.mktemp("worker"), f"pool-of-{request.param}"
    environment = clean_environment(
        KLING_FLOWS_PROVIDER="sandbox",
        KLING_FLOWS_UPSTREAM_URL=provider.url,
        KLING_FLOWS_STATE_DIR=str(folder / "state"),
        KLING_FLOWS_POLL_INTERVAL="0.5",
        PREFECT_HOME=str(prefect.folder),
        PREFECT_API_URL=prefect.url,
        PREFECT_LOGGING_TO_API_ENABLED="false",
        PREFECT_WORKER_QUERY_SECONDS="1",
    )
    options = ("--pool", pool, "--type", request.param, "--only", "text-to-video/on-demand", "--json")
    [made] = json.loads(cli("deploy", "--prefect", prefect.url, *options, environment=environment).stdout)[
        "deployments"
    ]
    worker = (sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", request.param)
    with process(*worker, environment=environment, log=folder / "worker.log"):
        ledger_url = f"sqlite:///{folder / 'state' / 'ledger.db'}"
        yield Deployment(prefect, provider, made["id"], ledger_url, folder / "worker.log")


@pytest.fixture(autouse=True)
def no_faults(provider: Sandbox) -> None:
    provider.faults()


def test_a_schedule_fires_and_cancelling_its_run_cancels_the_video(deployment: Deployment) -> None:
    deployment.schedule("Made by a schedule")
    [run, *_] = until(lambda: deployment.runs("RUNNING"), "the schedule fires")
    deployment.pause()
    assert run["auto_scheduled"]
    deployment.until_video(run["id"], State.SUBMITTED, State.PROCESSING)
    deployment.set_state(run["id"], _CANCEL)
    deployment.until_run(run["id"], "CANCELLED")
    task = deployment.until_video(run["id"], State.CANCELLED, State.SUCCEEDED, State.FAILED)
    assert task.state is State.CANCELLED
    assert deployment.charges(run["id"]) == 1


def test_a_run_that_is_cancelled_before_the_provider_accepts_it_costs_nothing(deployment: Deployment) -> None:
    deployment.provider.faults({"fault": "throttle", "on": "create"})
    run_id = deployment.start("Cancelled before it was accepted")
    deployment.until_video(run_id, State.SUBMITTING)
    deployment.set_state(run_id, _CANCEL)
    deployment.until_run(run_id, "CANCELLED")
    deployment.until_video(run_id, State.CANCELLED)
    deployment.provider.faults()
    assert deployment.charges(run_id) == 0


def test_a_retry_of_a_failed_archive_goes_on_in_the_same_run_and_pays_nothing(deployment: Deployment) -> None:
    deployment.provider.faults(*_NO_VIDEO[:1])
    run_id = deployment.start("Failed in the archive")
    deployment.until_video(run_id, State.ARCHIVING)
    deployment.provider.faults(*_NO_VIDEO)
    deployment.until_run(run_id, "FAILED")
    deployment.provider.faults()
    deployment.set_state(run_id, _RETRY)
    deployment.until_run(run_id, "COMPLETED")
    task = deployment.until_video(run_id, State.SUCCEEDED)
    assert task.flow_run is not None
    assert task.flow_run.id == run_id
    assert deployment.charges(run_id) == 1
