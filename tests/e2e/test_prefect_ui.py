"""What people do to flow runs in Prefect's UI: a cancel cancels, a retry resumes, a deletion changes nothing.

The calls are those of Prefect's two UIs: both force a cancel; the newer one forces a retry too, the older one does not.
"""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from kling_flows.v1.text_to_video_pb2 import TextToVideo
from kling_flows.v1.video_task_pb2 import VideoTask
from kling_flows.v1.video_task_service_pb2 import CreateVideoTaskRequest, GetVideoTaskRequest
from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceStub
from tests.stack import Sandbox, Server, sandbox, serve, serve_settings, until

pytestmark = pytest.mark.xdist_group("prefect")

_CANCEL = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": True}
_RETRY = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}}

#: A download fails, and asking for another address is refused for good: the run fails at once.
_NO_VIDEO = (
    {"fault": "http_error", "on": "download", "status": 500},
    {"fault": "http_error", "on": "get", "code": 1103},
)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("sandbox")
    with sandbox(folder, "--seconds", "8:9", "--concurrency", "0", "--video", "tiny") as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, provider: Sandbox) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    with serve(folder, serve_settings(folder, provider.url)) as running:
        until(running.prefect_is_up, "Prefect is up")
        yield running


@pytest.fixture(autouse=True)
def no_faults(provider: Sandbox) -> None:
    provider.faults()


def _create(server: Server, prompt: str) -> str:
    task = VideoTask(text_to_video=TextToVideo(prompt=prompt))
    with grpc.insecure_channel(server.address) as channel:
        request = CreateVideoTaskRequest(video_task=task, request_id=uuid.uuid4().hex)
        return VideoTaskServiceStub(channel).CreateVideoTask(request).name


def _get(server: Server, name: str) -> VideoTask:
    with grpc.insecure_channel(server.address) as channel:
        return VideoTaskServiceStub(channel).GetVideoTask(GetVideoTaskRequest(name=name))


def _reached(server: Server, name: str, *states: VideoTask.State.ValueType) -> VideoTask:
    def reached() -> VideoTask | None:
        task = _get(server, name)
        return task if task.state in states else None

    return until(reached, f"{name} is {' or '.join(map(VideoTask.State.Name, states))}")


def _runs(server: Server, name: str) -> list[dict[str, Any]]:
    task_id = name.removeprefix("videoTasks/")
    runs = server.prefect("flow_runs/filter", flows={"name": {"any_": ["text-to-video", "text-to-videos"]}})
    return [run for run in runs if task_id in json.dumps(run["parameters"])]


def _run(server: Server, name: str) -> dict[str, Any]:
    [run] = until(lambda: _runs(server, name), f"{name} has a flow run")
    return run


def _shown(server: Server, run_id: str, state: str) -> dict[str, Any]:
    def shown() -> dict[str, Any] | None:
        [run] = server.prefect("flow_runs/filter", flow_runs={"id": {"any_": [run_id]}})
        return run if run["state_type"] == state else None

    return until(shown, f"the flow run is {state}")


def _cancelled(server: Server, name: str) -> VideoTask:
    task = _reached(server, name, VideoTask.CANCELLED, VideoTask.SUCCEEDED, VideoTask.FAILED)
    assert task.state == VideoTask.CANCELLED
    return task


def _charges(provider: Sandbox, prompt: str) -> int:
    return [charge["prompt"] for charge in provider.charges()].count(prompt)


def test_a_cancelled_run_cancels_its_video_task(server: Server, provider: Sandbox) -> None:
    name = _create(server, "Cancelled after it was sent")
    _reached(server, name, VideoTask.SUBMITTED, VideoTask.PROCESSING)
    run = _run(server, name)
    server.prefect(f"flow_runs/{run['id']}/set_state", **_CANCEL)
    task = _cancelled(server, name)
    assert "cancelled in Prefect" in task.error.message
    _shown(server, run["id"], "CANCELLED")
    assert _charges(provider, "Cancelled after it was sent") == 1


def test_a_cancel_before_the_provider_has_accepted_it_costs_nothing(server: Server, provider: Sandbox) -> None:
    provider.faults({"fault": "throttle", "on": "create"})
    name = _create(server, "Cancelled before it was accepted")
    run = _run(server, name)
    _shown(server, run["id"], "RUNNING")
    server.prefect(f"flow_runs/{run['id']}/set_state", state={"type": "CANCELLED", "name": "Cancelled"}, force=True)
    _cancelled(server, name)
    provider.faults()
    assert _charges(provider, "Cancelled before it was accepted") == 0
    _shown(server, run["id"], "CANCELLED")


def test_a_cancelled_group_run_cancels_all_that_it_carries(server: Server, provider: Sandbox) -> None:
    runner = server.pid("kling_flows.runner")
    assert runner is not None
    prompts = [f"One of a group, {number}" for number in range(5)]
    os.kill(runner, signal.SIGSTOP)
    try:
        names = [_create(server, prompt) for prompt in prompts]
    finally:
        os.kill(runner, signal.SIGCONT)
    for name in names:
        _reached(server, name, VideoTask.SUBMITTED, VideoTask.PROCESSING)
    runs = {run["id"]: run["name"] for run in (_run(server, name) for name in names)}
    assert any(name.startswith("text-to-videos/") for name in runs.values())
    for run_id in runs:
        server.prefect(f"flow_runs/{run_id}/set_state", **_CANCEL)
    for name in names:
        _cancelled(server, name)
    for run_id in runs:
        _shown(server, run_id, "CANCELLED")
    assert [_charges(provider, prompt) for prompt in prompts] == [1] * 5


def test_a_cancel_while_no_runner_is_there_is_honoured_by_the_next(server: Server, provider: Sandbox) -> None:
    provider.faults({"fault": "throttle", "on": "create"})
    name = _create(server, "Cancelled while the runner is away")
    _reached(server, name, VideoTask.SUBMITTING)
    run = _run(server, name)
    runner = server.pid("kling_flows.runner")
    assert runner is not None
    os.kill(runner, signal.SIGKILL)
    server.prefect(f"flow_runs/{run['id']}/set_state", **_CANCEL)
    provider.faults()
    _cancelled(server, name)
    _shown(server, run["id"], "CANCELLED")
    assert [other["id"] for other in _runs(server, name)] == [run["id"]]
    assert _charges(provider, "Cancelled while the runner is away") == 0


def test_a_retried_run_goes_on_where_it_failed(server: Server, provider: Sandbox) -> None:
    provider.faults(_NO_VIDEO[0])
    names = {forced: _create(server, f"Failed in the archive, {forced}") for forced in (False, True)}
    for name in names.values():
        _reached(server, name, VideoTask.ARCHIVING)
    provider.faults(*_NO_VIDEO)
    runs = {forced: _run(server, name) for forced, name in names.items()}
    for forced, name in names.items():
        _shown(server, runs[forced]["id"], "FAILED")
        assert _get(server, name).state == VideoTask.ARCHIVING
    provider.faults()
    for forced, run in runs.items():
        server.prefect(f"flow_runs/{run['id']}/set_state", **_RETRY, force=forced)
    for forced, name in names.items():
        task = _reached(server, name, VideoTask.SUCCEEDED, VideoTask.FAILED)
        assert task.state == VideoTask.SUCCEEDED
        assert task.flow_run.id == runs[forced]["id"]
        _shown(server, task.flow_run.id, "COMPLETED")
        assert [run["id"] for run in _runs(server, name)] == [task.flow_run.id]
        assert _charges(provider, f"Failed in the archive, {forced}") == 1


def test_a_retry_of_what_has_ended_shows_the_outcome_and_pays_nothing(server: Server, provider: Sandbox) -> None:
    name = _create(server, "[sandbox:reject] a retried refusal")
    task = _reached(server, name, VideoTask.FAILED)
    run = _run(server, name)
    first = _shown(server, run["id"], "FAILED")["state"]
    calls = provider.stats()
    server.prefect(f"flow_runs/{run['id']}/set_state", **_RETRY, force=True)
    until(lambda: _shown(server, run["id"], "FAILED")["state"]["id"] != first["id"], "the retry has ended")
    assert _get(server, name) == task
    assert provider.stats() == calls


def test_a_deleted_run_and_a_deleted_flow_lose_nothing(server: Server, provider: Sandbox) -> None:
    name = _create(server, "Its run is deleted")
    _reached(server, name, VideoTask.SUBMITTED, VideoTask.PROCESSING)
    run = _run(server, name)
    httpx.delete(f"{server.prefect_api}/flow_runs/{run['id']}").raise_for_status()
    httpx.delete(f"{server.prefect_api}/flows/{run['flow_id']}").raise_for_status()
    second = _create(server, "After its flow was deleted")
    assert _reached(server, name, VideoTask.SUCCEEDED, VideoTask.FAILED).state == VideoTask.SUCCEEDED
    assert _reached(server, second, VideoTask.SUCCEEDED, VideoTask.FAILED).state == VideoTask.SUCCEEDED
    assert _charges(provider, "Its run is deleted") == _charges(provider, "After its flow was deleted") == 1
    _shown(server, _run(server, second)["id"], "COMPLETED")
