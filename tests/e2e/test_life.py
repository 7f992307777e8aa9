"""Start, drain, crash and come back: nothing is lost and nothing is paid twice."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import PATIENCE, Sandbox, Server, sandbox, serve, serve_settings, until

pytestmark = pytest.mark.xdist_group("e2e-life")


@pytest.fixture(scope="module")
def slow_provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("sandbox")
    # Long enough for several commands in between, each of which is a process, on a busy machine.
    with sandbox(folder, "--seconds", "30:32", "--concurrency", "0", "--video", "tiny") as running:
        yield running


def _create(server: Server, prompt: str) -> str:
    return json.loads(server.cli("generate", prompt, "--detach", "--json").stdout)["name"]


def _wait(server: Server, name: str, *states: str) -> dict[str, object]:
    def reached() -> dict[str, object] | None:
        task = server.get(name)
        return task if task["state"] in states else None

    return until(reached, f"{name} is {' or '.join(states)}")


def _charges(provider: Sandbox, server: Server, name: str) -> int:
    external = server.get(name)["upstream"]["external_task_id"]
    return [charge["external_task_id"] for charge in provider.charges()].count(external)


def test_a_create_is_accepted_before_prefect_is_up(tmp_path: Path, slow_provider: Sandbox) -> None:
    with serve(tmp_path, serve_settings(tmp_path, slow_provider.url)) as server:
        name = _create(server, "Early")
        assert server.get(name)["state"] == "QUEUED"
        assert not server.prefect_is_up()


def test_a_killed_runner_costs_nothing_and_loses_nothing(tmp_path: Path, slow_provider: Sandbox) -> None:
    with serve(tmp_path, serve_settings(tmp_path, slow_provider.url)) as server:
        name = _create(server, "Killed while it waits")
        _wait(server, name, "SUBMITTED", "PROCESSING")
        first = server.get(name)["flow_run"]["id"]
        runner = server.pid("kling_flows.runner")
        assert runner is not None
        os.kill(runner, signal.SIGKILL)
        task = _wait(server, name, "SUCCEEDED", "FAILED")
        assert task["state"] == "SUCCEEDED"
        assert _charges(slow_provider, server, name) == 1

        def crashed() -> bool:
            [run] = server.prefect("flow_runs/filter", flow_runs={"id": {"any_": [first]}})
            return run["state_type"] == "CRASHED"

        until(crashed, "the dead runner's flow run is closed")


def test_sigterm_drains_and_the_next_start_goes_on(tmp_path: Path, slow_provider: Sandbox) -> None:
    settings = serve_settings(tmp_path, slow_provider.url)
    with serve(tmp_path, settings) as server:
        name = _create(server, "Across a restart")
        _wait(server, name, "SUBMITTED", "PROCESSING")
        children = [server.pid(role) for role in ("grpc_server", "kling_flows.runner")]
        server.child.send_signal(signal.SIGTERM)
        assert server.child.wait(PATIENCE) == 0
        assert not [pid for pid in children if pid is not None and Path(f"/proc/{pid}").exists()]
    with serve(tmp_path, settings) as server:
        assert _wait(server, name, "SUCCEEDED", "FAILED")["state"] == "SUCCEEDED"
        assert _charges(slow_provider, server, name) == 1


def test_children_do_not_outlive_a_killed_supervisor(tmp_path: Path, slow_provider: Sandbox) -> None:
    settings = serve_settings(tmp_path, slow_provider.url)
    with serve(tmp_path, settings) as server:
        roles = ("grpc_server", "kling_flows.runner", "kling_flows.runner.prefect_server")
        pids = [until(lambda role=role: server.pid(role), f"{role} runs") for role in roles]
        server.child.kill()
        server.child.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the children have ended")
