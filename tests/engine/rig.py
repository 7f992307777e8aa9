"""What tests of the engine share: a sandbox and engines on it, tasks, and waiting for conditions."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from kling_flows.engine.engine import Engine
from kling_flows.engine.intake import new_video_task
from kling_flows.ledger import Event, State, VideoTask
from kling_flows.sandbox import SandboxServer
from kling_flows.sandbox.videos import TINY_CLIP
from kling_flows.settings import Settings
from kling_flows.upstream import Provider, TextToVideoRequest

CLIP = TINY_CLIP.read_bytes()

#: Longest wait for anything, in seconds: a deadline against hanging, never an expectation of speed.
PATIENCE = 60.0

OpenEngine = Callable[..., Awaitable[Engine]]


def settings_for(server: SandboxServer, **settings: Any) -> Settings:
    return Settings(**{"provider": "sandbox", "upstream_url": server.url, "poll_interval": 0.1, **settings})


def new_task(name: str = "t", prompt: str = "a cup on a table") -> VideoTask:
    """A task whose first look is not put off."""
    task = new_video_task(TextToVideoRequest(prompt=prompt), Provider.SANDBOX, tenant="default", task_id=name)
    return task.model_copy(update={"typical_seconds": 0.0})


async def queue(engine: Engine, name: str = "t", prompt: str = "a cup on a table") -> VideoTask:
    """A task that the engine holds."""
    return await engine.ledger.create(new_task(name, prompt), runner_id=engine.runner_id)


async def until(condition: Callable[[], Any]) -> Any:
    """Wait until the condition, which may be asynchronous, gives something true, and return that."""
    async with asyncio.timeout(PATIENCE):
        while True:
            result = condition()
            if isinstance(result, Awaitable):
                result = await result
            if result:
                return result
            await asyncio.sleep(0.01)


async def until_state(engine: Engine, *states: State, name: str = "t") -> VideoTask:
    async def reached() -> VideoTask | None:
        task = await engine.ledger.get(name)
        return task if task.state in states else None

    return await until(reached)


async def history(engine: Engine, name: str = "t") -> list[VideoTask]:
    events: list[Event] = list(await engine.ledger.read_history(name))
    assert [event.task.revision for event in events] == list(range(1, len(events) + 1))
    return [event.task for event in events]


async def states(engine: Engine, name: str = "t") -> list[State]:
    """The states that a task went through, each once."""
    seen = [task.state for task in await history(engine, name)]
    return [state for n, state in enumerate(seen) if n == 0 or state is not seen[n - 1]]


def creates(server: SandboxServer) -> int:
    return server.stats()["calls"]["create"]


def waiting_for_a_slot(engine: Engine) -> int:
    """How many submits wait for another to end."""
    return len(engine.submit_slots._waiters or ())


def assert_archived(task: VideoTask) -> None:
    """The task has succeeded, and its file is the whole video."""
    assert task.state is State.SUCCEEDED, task.error
    assert task.error is None
    _assert_file(task)


def assert_video_kept(task: VideoTask, state: State) -> None:
    """The task has ended without a video for its caller, and yet its file is the whole video."""
    assert (task.state, task.video_pending) == (state, False), task.error
    assert task.error is not None
    _assert_file(task)


def _assert_file(task: VideoTask) -> None:
    (artifact,) = task.artifacts
    stored = Path(unquote(urlsplit(artifact.uri).path)).read_bytes()
    assert stored == CLIP
    assert (artifact.size_bytes, artifact.sha256) == (len(CLIP), hashlib.sha256(CLIP).hexdigest())


def assert_paid_once(server: SandboxServer, task: VideoTask) -> None:
    """One charge, for the upstream task that the video task knows as its own."""
    (charge,) = server.charges()
    assert task.upstream is not None
    assert (charge["task_id"], charge["external_task_id"]) == (task.upstream.task_id, task.upstream.external_task_id)
    assert not task.upstream.outcome_unknown
