"""A sandbox and engines per test, with the product's waiting times cut short."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kling_flows.archive import download
from kling_flows.engine import engine as engine_module
from kling_flows.engine import lookup, retries, submit
from kling_flows.engine.engine import Engine
from kling_flows.sandbox import SandboxServer, SandboxSettings, VideoSource
from kling_flows.upstream import UpstreamClient

from .rig import OpenEngine, settings_for

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="session")
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nobody's settings, no proxy, and no certificates, which take longer to read than most tests last."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.upper().startswith(("KLING_", "COMETAPI_")):
                patch.delenv(name)
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("no-settings")))
        patch.setenv("SSL_CERT_DIR", str(tmp_path_factory.mktemp("no-certificates")))
        patch.setenv("NO_PROXY", "*")
        yield


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers of tries, closer to each other."""
    monkeypatch.setattr(retries, "RETRY_DELAYS", (0.05,) * len(retries.RETRY_DELAYS))
    for module in (submit, lookup):
        monkeypatch.setattr(module, "LOOKUP_DELAYS", (0.0, 0.05, 0.1))
    monkeypatch.setattr(download, "_RESUME_SECONDS", 0.01)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines whose creates are given up soon."""
    monkeypatch.setattr(engine_module, "UpstreamClient", partial(UpstreamClient, create_deadline=0.4))


@pytest.fixture(scope="session")
def stopper() -> Iterator[ThreadPoolExecutor]:
    """Stops servers beside the next tests: an orderly stop takes longer than most tests here."""
    with ThreadPoolExecutor() as pool:
        yield pool


@pytest.fixture
def start_sandbox(stopper: ThreadPoolExecutor) -> Iterator[Callable[..., SandboxServer]]:
    """Start a sandbox with some settings; quick tasks and the tiny clip unless they say otherwise."""
    with ExitStack() as stack:

        def start(**settings: Any) -> SandboxServer:
            wanted = {"seconds": (0.0, 0.0), "video": VideoSource.TINY, "concurrency": 0, **settings}
            server = SandboxServer(SandboxSettings(**wanted)).__enter__()
            stack.callback(stopper.submit, server.__exit__, None, None, None)
            return server

        yield start


@pytest.fixture
def sandbox(start_sandbox: Callable[..., SandboxServer]) -> SandboxServer:
    """A sandbox whose tasks succeed at once."""
    return start_sandbox()


@pytest.fixture
async def open_engine_on(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Open an engine on a sandbox; all of a test's engines share one ledger and one archive."""
    async with AsyncExitStack() as stack:

        async def open_one(server: SandboxServer, **settings: Any) -> Engine:
            wanted = {"state_dir": tmp_path / "state", **settings}
            return await stack.enter_async_context(Engine.open(settings_for(server, **wanted)))

        yield open_one


@pytest.fixture
def open_engine(open_engine_on: Callable[..., Any], sandbox: SandboxServer) -> OpenEngine:
    return partial(open_engine_on, sandbox)


@pytest.fixture
async def engine(open_engine: OpenEngine) -> Engine:
    return await open_engine()


class Children:
    """Processes with an engine of their own, which can be killed and stopped."""

    def __init__(self) -> None:
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.engine.child"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # What is stopped in there must not look like a stopped job of ours.
            start_new_session=True,
        )
        self._living: set[int] = set()

    def start(self, server: SandboxServer, state_dir: Path, name: str, point: str) -> int:
        """Carry a task in a process of its own until the point; returns the process's id."""
        pid = self._ask({"url": server.url, "state_dir": str(state_dir), "name": name, "point": point})
        self._living.add(pid)
        return pid

    def wait(self, pid: int) -> int:
        """Wait for the end of a process; returns its exit code, negative if it was a signal."""
        code = self._ask({"wait": pid})
        self._living.discard(pid)
        return code

    def close(self) -> None:
        for pid in self._living:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._nursery.communicate(timeout=60)

    def _ask(self, order: dict[str, Any]) -> int:
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write(json.dumps(order) + "\n")
        self._nursery.stdin.flush()
        return int(self._nursery.stdout.readline())


@pytest.fixture(scope="session")
def nursery() -> Iterator[Children]:
    children = Children()
    yield children
    children.close()


@pytest.fixture
def children(nursery: Children) -> Children:
    return nursery
