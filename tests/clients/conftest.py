from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from kling_flows.ledger import Ledger
from kling_flows.v1.text_to_video_pb2 import TextToVideo
from kling_flows.v1.video_task_pb2 import VideoTask
from kling_flows.v1.video_task_service_pb2 import CreateVideoTaskRequest
from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceStub
from tests.stack import Server, sandbox, serve, serve_settings, until

from .client import Client, Event
from .toolchains import go_client, java_client, node_client

BUILDERS = {"go": go_client, "node": node_client, "java": java_client}


@dataclass
class Stack:
    """A server, with a caller and a reader of its own."""

    server: Server
    stub: Any

    @property
    def address(self) -> str:
        return self.server.address

    @property
    def _ledger(self) -> str:
        return f"{self.server.settings['KLING_FLOWS_STATE_DIR']}/ledger.db"

    def create(self, prompt: str = "A paper boat", **labels: str) -> str:
        task = VideoTask(text_to_video=TextToVideo(prompt=prompt), labels=labels)
        return self.stub.CreateVideoTask(CreateVideoTaskRequest(video_task=task), timeout=60).name

    def histories(self, names: list[str]) -> dict[str, list[Event]]:
        """What the ledger says has happened to tasks."""

        async def read() -> dict[str, list[Event]]:
            async with await Ledger.open(f"sqlite:///{self._ledger}") as ledger:
                found: dict[str, list[Event]] = {}
                for name in names:
                    history = await ledger.read_history(name.removeprefix("videoTasks/"))
                    found[name] = [Event(name, event.task.revision, str(event.task.state)) for event in history]
                return found

        return asyncio.run(read())

    def forget_events(self) -> None:
        """Let every event but the last grow too old to be replayed."""
        connection = sqlite3.connect(self._ledger, timeout=10)
        with connection:
            connection.execute("DELETE FROM events WHERE position < (SELECT max(position) FROM events)")
        connection.close()


@pytest.fixture(scope="session", params=list(BUILDERS))
def client(request: pytest.FixtureRequest) -> Client:
    language: str = request.param
    return Client(language, BUILDERS[language]())


@pytest.fixture(scope="session")
def clients() -> list[Client]:
    return [Client(language, build()) for language, build in BUILDERS.items()]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Sandbox, front and runner, which make a tiny clip in less than a second."""
    with (
        sandbox(
            tmp_path_factory.mktemp("sandbox"), "--seconds", "0.2:0.8", "--concurrency", "0", "--video", "tiny"
        ) as provider,
        _stack(tmp_path_factory.mktemp("serve"), provider.url, KLING_FLOWS_POLL_INTERVAL="0.2") as running,
    ):
        # The front answers before the runner has started.
        name = running.create("The first one")
        until(lambda: running.histories([name])[name][-1].state == "SUCCEEDED", "the first video is made")
        yield running


@pytest.fixture(scope="session")
def small_queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A front without a runner, which lets a single task wait."""
    with _stack(
        tmp_path_factory.mktemp("small"), "http://127.0.0.1:9", "--role", "front", KLING_FLOWS_MAX_QUEUED="1"
    ) as running:
        yield running


@pytest.fixture(scope="session")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A front without a runner: nothing happens but what the test does."""
    with _stack(tmp_path_factory.mktemp("idle"), "http://127.0.0.1:9", "--role", "front") as running:
        yield running


@contextmanager
def _stack(folder: Path, upstream: str, *arguments: str, **settings: str) -> Iterator[Stack]:
    with (
        serve(folder, serve_settings(folder, upstream, **settings), *arguments) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield Stack(server, VideoTaskServiceStub(channel))
