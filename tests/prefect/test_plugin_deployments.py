"""Deployments, and what automations do when they hear of a video: with a real server, worker and receiver."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect.blocks.webhook import Webhook
from prefect.client.schemas.objects import ConcurrencyLimitStrategy

from kling_flows import TextToVideoRequest, text_to_video
from kling_flows.errors import VideoTaskFailed
from kling_flows.flows.deploy import deploy
from kling_flows.flows.deployments import DEPLOYMENTS, PRIORITIES
from tests.stack import ROOT, Sandbox, clean_environment, cli, process, until

from .rig import Prefect

pytestmark = pytest.mark.xdist_group("prefect-plugin")


def test_the_file_lists_what_the_command_deploys() -> None:
    file = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())
    listed = {(item["entrypoint"], item["name"]): item for item in file["deployments"]}
    assert len(listed) == len(file["deployments"]) == len(DEPLOYMENTS)
    for planned in DEPLOYMENTS:
        item = listed[f"{planned.flow.fn.__module__}.{planned.flow.fn.__name__}", planned.name]
        assert item["description"] == planned.description
        assert item["work_pool"]["work_queue_name"] == planned.queue
        assert item.get("parameters", {}) == planned.parameters
        limit = item.get("concurrency_limit")
        assert (limit and limit["limit"]) == planned.concurrency_limit
        assert limit is None or limit["collision_strategy"] == ConcurrencyLimitStrategy.ENQUEUE
        schedules = [(entry["cron"], entry["active"]) for entry in item.get("schedules", [])]
        assert schedules == ([] if planned.cron is None else [(planned.cron, not planned.paused)])


def test_the_forms_of_the_flows_explain_every_parameter() -> None:
    for planned in DEPLOYMENTS:
        for name, field in planned.flow.parameters.properties.items():
            assert field.get("description"), (planned.flow.name, name)
    form = next(p.flow for p in DEPLOYMENTS if p.flow.name == "text-to-videos").parameters.model_dump()
    assert form["properties"]["most_at_once"]["maximum"] == 1_000
    assert form["definitions"]["Again"]["enum"] == ["nothing", "failed", "ended"]


def test_what_cannot_be_deployed_is_said(prefect: Prefect) -> None:
    environment = clean_environment(PREFECT_HOME=str(prefect.folder))
    refused = cli(
        "deploy", "--prefect", prefect.url, "--only", "text-to-video/never", environment=environment, check=False
    )
    assert refused.returncode == 4
    assert "text-to-video/on-demand" in refused.stderr.replace("\n", " ")


async def test_deployments_go_to_queues_with_priorities_and_keep_what_people_have_changed(connected: Prefect) -> None:
    first = await deploy("priorities", "process")
    assert len(first) == len(DEPLOYMENTS)
    queues = connected.ask("work_pools/priorities/queues/filter")
    assert {q["name"]: q["priority"] for q in queues if q["name"] != "default"} == {
        queue.value: priority for queue, priority in PRIORITIES.items()
    }
    audits = next(item for item in first if item["name"] == "audit/weekly")
    url = f"{connected.url}/deployments/{audits['id']}"
    [schedule] = httpx.get(url).json()["schedules"]
    assert schedule["active"]
    httpx.patch(f"{url}/schedules/{schedule['id']}", json={"active": False}).raise_for_status()
    assert await deploy("priorities", "process") == first
    deployment = httpx.get(url).json()
    assert [item["active"] for item in deployment["schedules"]] == [False]
    assert deployment["work_queue_name"] == "upkeep"
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["tags"] == ["kling-flows"]

    def scheduled() -> list[dict[str, Any]]:
        return connected.runs(work_pools={"name": {"any_": ["priorities"]}}, flows={"name": {"any_": ["retention"]}})

    assert until(scheduled, "the scheduler schedules")[0]["auto_scheduled"]


@pytest.mark.full
def test_a_schedule_fires_and_a_stock_worker_makes_the_video(
    prefect: Prefect, provider: Sandbox, settings: dict[str, str], tmp_path: Path
) -> None:
    prompt = "Made by a schedule"
    environment = clean_environment(
        **settings,
        PREFECT_HOME=str(prefect.folder),
        PREFECT_API_URL=prefect.url,
        PREFECT_LOGGING_TO_API_ENABLED="false",
        PREFECT_WORKER_QUERY_SECONDS="1",
    )
    command = (
        *("--prefect", prefect.url, "--pool", "scheduled", "--type", "process"),
        *("--only", "text-to-video/on-demand", "--json"),
    )
    [made] = json.loads(cli("deploy", *command, environment=environment).stdout)["deployments"]
    deployment = f"{prefect.url}/deployments/{made['id']}"
    body = [
        {
            "schedule": {"interval": 15, "anchor_date": datetime.now(UTC).isoformat()},
            "active": True,
            "parameters": {"request": {"prompt": prompt}},
        }
    ]
    httpx.post(f"{deployment}/schedules", json=body).raise_for_status()
    worker = (sys.executable, "-m", "prefect", "worker", "start", "--pool", "scheduled", "--type", "process")
    with process(*worker, environment=environment, log=tmp_path / "worker.log"):

        def done() -> dict[str, Any] | None:
            runs = prefect.runs(
                flow_runs={
                    "deployment_id": {"any_": [made["id"]]},
                    "state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}},
                }
            )
            return runs[0] if runs else None

        run = until(done, "the scheduled run has ended")
    assert run["state"]["type"] == "COMPLETED", (tmp_path / "worker.log").read_text()
    assert run["auto_scheduled"]
    assert {"model:kling-v3", "mode:std", "tenant:default"} <= set(run["tags"])
    ids = [charge["external_task_id"] for charge in provider.charges()]
    assert len([external for external in ids if external.endswith(f"-vt-{run['id']}")]) == 1


@contextmanager
def _receiver() -> Iterator[tuple[str, list[str]]]:
    """Somebody's web hook."""
    calls: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            calls.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", calls
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def _automations() -> list[dict[str, Any]]:
    """The automations that docs/prefect.md shows, in its order."""
    text = (ROOT / "docs" / "prefect.md").read_text()
    blocks = [block.partition("```")[0] for block in text.split("```json\n")[1:]]
    return [json.loads(block) for block in blocks]


async def test_the_documented_automations_tell_of_a_failure_and_start_a_deployment_when_a_video_lands(
    connected: Prefect,
) -> None:
    notify, publish = _automations()
    made = {item["name"]: item["id"] for item in await deploy("automated", "process")}
    with _receiver() as (url, calls):
        hook = Webhook(url=url, method="POST")
        document = await hook.asave("kling-flows-failures", overwrite=True)
        notify["actions"][0]["block_document_id"] = str(document)
        publish["actions"][0]["deployment_id"] = made["audit/weekly"]
        # The flow of the documentation is somebody's own: here its parameters are those of one of ours.
        publish["actions"][0]["parameters"] = {"days": 3}
        publish["trigger"]["match"] = {"prefect.resource.id": "kling-flows.video-task.landed"}
        ids = [connected.ask("automations/", **automation)["id"] for automation in (notify, publish)]
        try:
            with pytest.raises(VideoTaskFailed):
                await text_to_video(TextToVideoRequest(prompt="[sandbox:fail] told"), task_id="told-of")
            await text_to_video(TextToVideoRequest(prompt="It lands"), task_id="landed")
            [call] = until(lambda: list(calls), "the web hook is called")
            assert "told-of" in call
            assert "failed" in call

            def started() -> list[dict[str, Any]]:
                return connected.runs(
                    flow_runs={
                        "deployment_id": {"any_": [made["audit/weekly"]]},
                        "tags": {"all_": ["kling-flows"]},
                        "state": {"name": {"any_": ["Scheduled", "Pending", "Late"]}},
                    }
                )

            runs = until(lambda: [run for run in started() if not run["auto_scheduled"]], "the deployment is started")
            assert runs[0]["parameters"]["days"] == 3
        finally:
            for automation in ids:
                httpx.delete(f"{connected.url}/automations/{automation}").raise_for_status()
