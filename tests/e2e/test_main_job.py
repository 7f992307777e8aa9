"""A prompt becomes an archived video, through a real gRPC call, a real Prefect flow run and real HTTP."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import av
import pytest

from tests.stack import Sandbox, Server, until

pytestmark = pytest.mark.xdist_group("e2e")


def _path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def _id(task: dict[str, Any]) -> str:
    return task["name"].removeprefix("videoTasks/")


@pytest.fixture(scope="module")
def finished(server: Server) -> dict[str, Any]:
    done = server.cli("generate", "A red fox in fresh snow", "--json")
    return json.loads(done.stdout)


def test_generate_ends_with_a_playable_video_of_the_requested_shape(finished: dict[str, Any]) -> None:
    assert finished["state"] == "SUCCEEDED"
    with av.open(str(_path(finished["artifacts"][0]["uri"]))) as container:
        video = container.streams.video[0]
        frames = sum(1 for _ in container.decode(video))
        assert (video.width, video.height) == (1280, 720)
        assert video.average_rate is not None
        assert frames / float(video.average_rate) == pytest.approx(5, abs=0.3)


def test_the_archive_holds_the_file_its_checksum_and_a_manifest(server: Server, finished: dict[str, Any]) -> None:
    artifact = finished["artifacts"][0]
    path = _path(artifact["uri"])
    year_month = finished["create_time"][:7].replace("-", "/")
    # Below a folder of the ledger's own, so that two ledgers can share an archive.
    assert path.relative_to(server.archive).parts[1:] == (*year_month.split("/"), f"{_id(finished)}.mp4")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = json.loads(_path(artifact["manifest_uri"]).read_text())
    assert manifest["file"]["sha256"] == digest
    assert manifest["request"]["prompt"] == "A red fox in fresh snow"
    assert int(artifact["size_bytes"]) == path.stat().st_size


def test_prefect_shows_the_flow_run_with_its_three_task_runs_completed(
    server: Server, finished: dict[str, Any]
) -> None:
    run_id = finished["flow_run"]["id"]

    def completed() -> list[str] | None:
        runs = server.prefect("task_runs/filter", flow_runs={"id": {"any_": [run_id]}})
        done = sorted(run["name"] for run in runs if run["state_type"] == "COMPLETED")
        return done if len(done) == 3 else None

    assert until(completed, "Prefect has recorded the task runs") == ["archive", "submit", "wait"]
    [run] = server.prefect("flow_runs/filter", flow_runs={"id": {"any_": [run_id]}})
    assert run["name"] == f"text-to-video/{_id(finished)}"
    until(
        lambda: (
            server.prefect("flow_runs/filter", flow_runs={"id": {"any_": [run_id]}})[0]["state_type"] == "COMPLETED"
        ),
        "the flow run is completed",
    )


def test_it_is_charged_once(provider: Sandbox, finished: dict[str, Any]) -> None:
    external = finished["upstream"]["external_task_id"]
    assert [charge["external_task_id"] for charge in provider.charges()].count(external) == 1


def test_a_burst_shares_flow_runs_and_every_task_is_charged_once(server: Server, provider: Sandbox) -> None:
    names = [
        json.loads(server.cli("generate", f"Wave {n}", "--label", "burst=yes", "--detach", "--json").stdout)["name"]
        for n in range(3)
    ]
    watched = server.cli("watch", *names, "--json")
    last = {task["name"]: task for task in map(json.loads, watched.stdout.splitlines())}
    assert {task["state"] for task in last.values()} == {"SUCCEEDED"}
    charged = [charge["external_task_id"] for charge in provider.charges()]
    assert all(charged.count(task["upstream"]["external_task_id"]) == 1 for task in last.values())
    listed = json.loads(server.cli("list", "--label", "burst=yes", "--json").stdout)["video_tasks"]
    assert sorted(task["name"] for task in listed) == sorted(names)


def test_a_refused_prompt_fails_with_the_providers_reason_and_costs_nothing(server: Server, provider: Sandbox) -> None:
    done = server.cli("generate", "[sandbox:reject] something", "--json", check=False)
    task = json.loads(done.stdout)
    assert done.returncode == 10
    assert task["state"] == "FAILED"
    assert task["error"]["details"][0]["reason"] == "UPSTREAM_POLICY"
    external = task["upstream"]["external_task_id"]
    assert external not in [charge["external_task_id"] for charge in provider.charges()]
