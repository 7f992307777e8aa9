"""What every client of ``examples/`` does, whatever its language."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from pathlib import Path
from uuid import uuid4

import grpc
import pytest

from kling_flows.v1.video_task_service_pb2 import CancelVideoTaskRequest
from tests.stack import until

from .client import Client, Event
from .conftest import Stack
from .proxy import Fate, Proxy

pytestmark = [pytest.mark.xdist_group("clients"), pytest.mark.timeout(1_200)]


def test_a_client_makes_a_video_watches_lists_and_downloads_it(stack: Stack, client: Client, tmp_path: Path) -> None:
    run, file = uuid4().hex, tmp_path / "video.mp4"
    create = ("create", "--label", f"run={run}", "--request-id", run, "A paper boat")
    [name] = client.run(stack.address, *create).lines
    again = client.run(stack.address, *create).lines
    watched = client.run(stack.address, "watch", name)
    listed = client.run(stack.address, "list", "--label", f"run={run}")
    downloaded = client.run(stack.address, "download", name, str(file))
    artifact = stack.server.get(name)["artifacts"][0]

    assert again == [name]
    history = stack.histories([name])[name]
    assert watched.events == history[-len(watched.events) :]
    assert watched.events[-1].state == "SUCCEEDED"
    assert listed.events == history[-1:]
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()
    assert downloaded.lines == [f"{checksum}  {file}"]
    assert file.stat().st_size == int(artifact["size_bytes"])
    assert list(tmp_path.glob("*.part")) == []


def test_a_download_goes_on_where_it_was_interrupted_and_a_wrong_one_is_not_kept(
    stack: Stack, client: Client, tmp_path: Path
) -> None:
    name, whole, file = stack.create(), tmp_path / "whole.mp4", tmp_path / "video.mp4"
    client.run(stack.address, "watch", name)
    client.run(stack.address, "download", name, str(whole))
    video = whole.read_bytes()
    part = tmp_path / "video.mp4.part"

    async def through_disconnects() -> str:
        # The file is a few kilobytes: the answers end within it.
        fates = [Fate(answers=300), Fate(answers=len(video) // 2, end="half-close of the answers")]
        async with Proxy(stack.address, fates) as proxy, client.start(proxy.address, "download", name, str(file)) as it:
            outcome = await it.end()
            assert outcome.code == 0, outcome.complaints
            assert proxy.cuts == 2
            return outcome.complaints

    assert "trying again" in asyncio.run(through_disconnects())
    assert file.read_bytes() == video

    part.write_bytes(video[: len(video) // 2])
    client.run(stack.address, "download", name, str(file))
    assert file.read_bytes() == video

    part.write_bytes(b"x" * 10)
    wrong = client.run(stack.address, "download", name, str(tmp_path / "video.mp4"), check=False)
    assert wrong.code == 1
    assert "checksum" in wrong.complaints
    assert not part.exists()


def test_a_list_has_every_task_once_over_many_pages(idle: Stack, client: Client) -> None:
    run = uuid4().hex
    names = [idle.create(f"Number {number}", run=run) for number in range(7)]
    listed = client.run(idle.address, "list", "--page-size", "2", "--label", f"run={run}")

    assert listed.events == [Event(name, 1, "QUEUED") for name in reversed(names)]


@pytest.mark.parametrize("prompt", ["  ", "x" * 2_501], ids=["blank", "long"])
def test_a_client_shows_which_field_was_refused_and_why(stack: Stack, client: Client, prompt: str) -> None:
    outcome = client.run(stack.address, "create", prompt, check=False)
    status, *violations = outcome.complaints.splitlines()

    assert (outcome.code, outcome.lines) == (1, [])
    assert status.startswith("INVALID_ARGUMENT (INVALID_REQUEST): ")
    assert [violation.split(": ")[0] for violation in violations] == ["  video_task.text_to_video.prompt"]


def test_a_client_shows_why_a_video_failed(stack: Stack, client: Client) -> None:
    name = stack.create("[sandbox:reject] as every client sees it")
    outcome = client.run(stack.address, "watch", name)

    assert outcome.events[-1].state == "FAILED"
    assert "content check" in outcome.lines[-1]


def test_a_client_waits_as_long_as_a_full_server_asks_for(small_queue: Stack, client: Client) -> None:
    waiting = until(lambda: admitted(small_queue), "the queue is empty")

    async def create_meanwhile() -> tuple[str, list[str], float]:
        async with client.start(small_queue.address, "create", "--attempts", "5", "The next one") as create:
            loop = asyncio.get_running_loop()
            await create.until(lambda: bool(create.complaints))
            told = loop.time()
            await asyncio.to_thread(small_queue.stub.CancelVideoTask, CancelVideoTaskRequest(name=waiting), timeout=60)
            outcome = await create.end()
            assert outcome.code == 0, outcome.complaints
            [name] = outcome.lines
            return name, create.complaints, loop.time() - told

    created, complaints, seconds = asyncio.run(create_meanwhile())
    told = re.match(r"trying again in ([\d.]+) s after RESOURCE_EXHAUSTED \(QUEUE_FULL\)", complaints[0])
    assert told, complaints
    asked = float(told[1])
    assert asked >= 1
    assert seconds >= asked - 0.1

    refused = client.run(small_queue.address, "create", "--attempts", "1", "Too many", check=False)
    assert refused.code == 1
    assert refused.complaints.startswith("RESOURCE_EXHAUSTED (QUEUE_FULL): ")
    small_queue.stub.CancelVideoTask(CancelVideoTaskRequest(name=created), timeout=60)


def admitted(stack: Stack) -> str | None:
    """The name of a task that now waits; nothing if there is no room for it yet."""
    try:
        return stack.create("The one that may wait")
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return None


def test_a_create_that_is_cut_off_within_the_answer_is_made_once(idle: Stack, client: Client) -> None:
    prompt = f"Asked for twice {uuid4()}"

    async def cut_off() -> list[str]:
        async with (
            Proxy(idle.address, [Fate(answers=300)]) as proxy,
            client.start(proxy.address, "create", prompt) as create,
        ):
            outcome = await create.end()
            assert outcome.code == 0, outcome.complaints
            assert "trying again" in outcome.complaints
            return outcome.lines

    names = asyncio.run(cut_off())
    tasks = json.loads(idle.server.cli("list", "--json").stdout)["video_tasks"]
    assert [task["name"] for task in tasks if task["text_to_video"]["prompt"] == prompt] == names


def test_a_watch_whose_token_has_expired_starts_over_and_says_what_it_missed(idle: Stack, client: Client) -> None:
    run = uuid4().hex
    name = idle.create(run=run)

    async def away_for_too_long() -> tuple[list[str], str]:
        arguments = ("watch", "--label", f"run={run}", "--tasks", "1")
        async with Proxy(idle.address) as proxy, client.start(proxy.address, *arguments) as watch:
            await watch.until(lambda: bool(watch.lines))
            proxy.closed = True
            proxy.cut()
            await watch.until(lambda: bool(watch.complaints))
            await asyncio.to_thread(idle.create, run=run)
            await asyncio.to_thread(idle.stub.CancelVideoTask, CancelVideoTaskRequest(name=name), timeout=60)
            idle.create()
            idle.forget_events()
            proxy.closed = False
            outcome = await watch.end()
            assert outcome.code == 0, outcome.complaints
            return outcome.lines, outcome.complaints

    lines, complaints = asyncio.run(away_for_too_long())
    assert "starting over with a snapshot after OUT_OF_RANGE (RESUME_TOKEN_EXPIRED)" in complaints
    assert sum(line.startswith(f"{name} 1 ") for line in lines) == 1
    assert any(line.startswith(f"{name} 2 CANCELLED") for line in lines)


def test_a_wrong_command_line_ends_with_2(client: Client) -> None:
    outcome = client.run("127.0.0.1:9", "paint", check=False)
    assert outcome.code == 2
    assert "create" in outcome.complaints
