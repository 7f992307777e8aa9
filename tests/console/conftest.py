"""Consoles over the fronts of tests/front, and callers of them over HTTP."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from kling_flows.ledger import ArtifactRecord, State, VideoTask
from tests.front.conftest import access_file, rig  # noqa: F401 - fixtures
from tests.front.rig import Rig, Served, new_record

ARCHIVE = "archive"


@dataclass
class Event:
    """One server-sent event."""

    name: str = ""
    id: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def sights(self) -> list[tuple[str, str]]:
        return [(task["name"].removeprefix("videoTasks/"), task["state"]) for task in self.data["video_tasks"]]


@dataclass
class Console:
    """A front with a console, and its HTTP side as a browser's page calls it."""

    served: Served
    http: httpx.AsyncClient
    folder: Path

    @property
    def origin(self) -> str:
        return f"http://{self.served.front.http_address}"

    async def get(self, path: str, **rest: Any) -> httpx.Response:
        return await self.http.get(f"/console{path}", **rest)

    async def post(self, path: str, body: Any, *, headers: dict[str, str] | None = None) -> httpx.Response:
        return await self.http.post(f"/console{path}", json=body, headers={"origin": self.origin, **(headers or {})})

    async def sign_in(self, token: str) -> None:
        answer = await self.post("/api/session", {"token": token})
        assert answer.status_code == 204, answer.text

    @asynccontextmanager
    async def events(self, *, last: str = "", **query: str) -> AsyncGenerator[AsyncGenerator[Event]]:
        headers = {"last-event-id": last} if last else {}
        async with self.http.stream("GET", "/console/api/events", params=query, headers=headers) as response:
            assert response.status_code == 200, await response.aread()
            assert response.headers["content-type"] == "text/event-stream"
            yield _read(response)

    async def archived(self, task_id: str, content: bytes, *, tenant: str = "default", **facts: Any) -> VideoTask:
        """A task that has SUCCEEDED, with its file."""
        file = self.folder / ARCHIVE / "2026" / f"{task_id}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        artifact = ArtifactRecord(
            kind="VIDEO",
            uri=file.as_uri(),
            manifest_uri=file.with_suffix(".json").as_uri(),
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            media_type="video/mp4",
        )
        task = new_record(task_id, tenant=tenant)
        changes = {"state": State.SUCCEEDED, "artifacts": (artifact.model_copy(update=facts),)}
        return await self.served.ledger.create(task.model_copy(update=changes))


async def _read(response: httpx.Response) -> AsyncGenerator[Event]:
    event = Event()
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            event.name = value
        elif name == "id":
            event.id = value
        elif name == "data":
            event.data = json.loads(value)
        elif not line:
            if event.name:
                yield event
            event = Event()


@asynccontextmanager
async def consoled(rig: Rig, folder: Path, **settings: Any) -> AsyncGenerator[Console]:  # noqa: F811
    (folder / ARCHIVE).mkdir(exist_ok=True)
    served = await rig.serve(http_listen="127.0.0.1:0", archive=str(folder / ARCHIVE), **settings)
    async with httpx.AsyncClient(base_url=f"http://{served.front.http_address}", timeout=60, trust_env=False) as http:
        yield Console(served, http, folder)


@pytest.fixture
async def console(rig: Rig, tmp_path: Path) -> AsyncGenerator[Console]:  # noqa: F811
    """Open to everybody on this machine."""
    async with consoled(rig, tmp_path) as running:
        yield running


@pytest.fixture
async def guarded(rig: Rig, tmp_path: Path, access_file: Path) -> AsyncGenerator[Console]:  # noqa: F811
    """For those of the access file."""
    async with consoled(rig, tmp_path, access_file=access_file) as running:
        yield running
