"""Dispatch by a work pool, with a worker of our own type: real front, runner, worker, Prefect server and sandbox."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.stack import Sandbox, Server, clean_environment, cli, process, serve, serve_settings, until

from .rig import Prefect

pytestmark = pytest.mark.xdist_group("prefect-plugin")

POOL = "videos-of-workers"


@dataclass
class Pool:
    """A front and a runner that dispatches, and the work pool of its workers."""

    prefect: Prefect
    provider: Sandbox
    server: Server
    folder: Path
    deployment: str
    name: str = POOL
    kind: str = "kling-flows"

    def worker(self, **more: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        command = (sys.executable, "-m", "prefect", "worker", "start", "--pool", self.name, "--type", self.kind)
        environment = worker_environment(self.prefect, self.server.settings, **more)
        return process(*command, environment=environment, log=self.folder / "worker.log")

    def create(self, task_id: str, prompt: str) -> str:
        done = self.server.cli("generate", prompt, "--id", task_id, "--detach", "--json")
        return json.loads(done.stdout)["name"]

    def wait(self, name: str, *states: str) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            task = self.server.get(name)
            return task if task["state"] in states else None

        return until(reached, f"{name} is {' or '.join(states)}; {self.log()}")

    def runs(self, task_id: str) -> list[dict[str, Any]]:
        return self.prefect.runs(flow_runs={"name": {"any_": [f"text-to-video/{task_id}"]}})

    def until_run(self, task_id: str, *states: str) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            return next((run for run in self.runs(task_id) if run["state"]["type"] in states), None)

        return until(reached, f"a run of {task_id} is {' or '.join(states)}")

    def charges(self, prompt: str) -> int:
        return [charge["prompt"] for charge in self.provider.charges()].count(prompt)

    def log(self) -> str:
        file = self.folder / "worker.log"
        return file.read_text()[-4000:] if file.exists() else ""


def worker_environment(prefect: Prefect, settings: Mapping[str, str], **more: str) -> dict[str, str]:
    return clean_environment(
        **{**settings, "PREFECT_API_URL": prefect.url, "PREFECT_HOME": str(prefect.folder), **more}
    )


def deploy_to(prefect: Prefect, pool: str, *options: str) -> str:
    """The id of the deployment of text_to_video, with a work pool of its own."""
    command = ("--prefect", prefect.url, "--pool", pool, "--only", "text-to-video/on-demand", "--json", *options)
    environment = clean_environment(PREFECT_HOME=str(prefect.folder))
    [made] = json.loads(cli("deploy", *command, environment=environment).stdout)["deployments"]
    return made["id"]


@pytest.fixture(scope="module")
def pool(prefect: Prefect, provider: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    folder = tmp_path_factory.mktemp("work-pool")
    deployment = deploy_to(prefect, POOL)
    settings = serve_settings(
        folder,
        provider.url,
        KLING_FLOWS_DISPATCH="work-pool",
        KLING_FLOWS_PREFECT_API_URL=prefect.url,
        KLING_FLOWS_POLL_INTERVAL="0.2",
    )
    with serve(folder, settings) as server:
        yield Pool(prefect, provider, server, folder, deployment)


def test_a_dispatcher_that_is_killed_finds_the_run_it_has_made_and_a_worker_takes_it(pool: Pool) -> None:
    prompt = "Made by a worker, once"
    name = pool.create("handed-on", prompt)
    first = pool.until_run("handed-on", "SCHEDULED")
    runner = pool.server.pid("kling_flows.runner")
    assert runner is not None
    os.kill(runner, signal.SIGKILL)
    until(lambda: pool.server.pid("kling_flows.runner") not in (None, runner), "the runner is back")
    assert pool.server.get(name)["state"] == "QUEUED"
    with pool.worker():
        task = pool.wait(name, "SUCCEEDED", "FAILED")
        assert task["state"] == "SUCCEEDED", pool.log()
        run = pool.until_run("handed-on", "COMPLETED")
    assert [run["id"] for run in pool.runs("handed-on")] == [first["id"]]
    assert task["flow_run"]["id"] == run["id"] == first["id"]
    assert run["deployment_id"] == pool.deployment
    assert run["idempotency_key"] == "handed-on"
    assert {"model:kling-v3", "mode:std", "tenant:default", "kling-flows"} <= set(run["tags"])
    assert run["infrastructure_pid"].endswith(f"/{run['id']}")
    assert pool.charges(prompt) == 1


@pytest.fixture(scope="module")
def worker(pool: Pool) -> Iterator[subprocess.Popen[bytes]]:
    with pool.worker() as child:
        yield child


def test_cancelling_the_flow_run_cancels_the_video_task(pool: Pool, worker: subprocess.Popen[bytes]) -> None:
    name = pool.create("unwanted", "[sandbox:stuck] never to end")
    pool.wait(name, "SUBMITTED", "PROCESSING")
    run = pool.until_run("unwanted", "RUNNING")
    set_state(pool.prefect, run, "CANCELLING")
    assert pool.wait(name, "CANCELLED", "FAILED")["state"] == "CANCELLED"
    pool.until_run("unwanted", "CANCELLED")


def test_cancelling_the_video_task_cancels_the_flow_run(pool: Pool, worker: subprocess.Popen[bytes]) -> None:
    name = pool.create("not-needed", "[sandbox:stuck] not needed any more")
    pool.wait(name, "SUBMITTED", "PROCESSING")
    pool.until_run("not-needed", "RUNNING")
    pool.server.cli("cancel", name)
    pool.until_run("not-needed", "CANCELLED")


@pytest.mark.full
def test_what_a_worker_leaves_behind_another_one_finishes_and_nothing_is_paid_twice(
    pool: Pool, worker: subprocess.Popen[bytes]
) -> None:
    """The first is stopped in order, the second is killed, the third carries on."""
    prompt = "Three workers for one video"
    # The video is made, and cannot be fetched for now.
    pool.provider.faults({"fault": "http_error", "on": "download", "status": 503})
    try:
        name = pool.create("passed-on", prompt)
        pool.wait(name, "ARCHIVING")
        first = pool.until_run("passed-on", "RUNNING")
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
        assert pool.until_run("passed-on", "CRASHED")["id"] == first["id"]
        with pool.worker() as second:
            run = pool.until_run("passed-on", "RUNNING")
            assert run["id"] != first["id"]
            until(lambda: pool.server.get(name)["flow_run"]["id"] == run["id"], "the second run has the task")
            second.kill()
            second.wait()
    finally:
        pool.provider.faults()
    with pool.worker():
        task = pool.wait(name, "SUCCEEDED", "FAILED", "LOST")
        last = pool.until_run("passed-on", "COMPLETED")
    assert task["state"] == "SUCCEEDED"
    assert task["flow_run"]["id"] == last["id"]
    assert sorted(run["state"]["type"] for run in pool.runs("passed-on")) == ["COMPLETED", "CRASHED", "CRASHED"]
    assert pool.charges(prompt) == 1


def set_state(prefect: Prefect, run: Mapping[str, Any], kind: str) -> None:
    """As Prefect's page does it."""
    prefect.ask(f"flow_runs/{run['id']}/set_state", state={"type": kind})
