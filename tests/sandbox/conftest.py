"""A sandbox per test, and what tests say to it over real HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from kling_flows.sandbox import SandboxServer, SandboxSettings, VideoSource

from .caller import Api
from .receiver import Receiver, receiving


@pytest.fixture(autouse=True, scope="session")
def direct_connections() -> Iterator[None]:
    """The sandbox is on this machine, whatever proxy its environment names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "*")
        patch.setenv("no_proxy", "*")
        yield


@pytest.fixture(scope="session")
def stopper() -> Iterator[ThreadPoolExecutor]:
    """Stops servers beside the next tests: an orderly stop takes longer than most tests here."""
    with ThreadPoolExecutor() as pool:
        yield pool


@pytest.fixture
def start(stopper: ThreadPoolExecutor) -> Iterator[Callable[..., Api]]:
    """Start a sandbox with some settings; quick tasks and the tiny clip unless they say otherwise."""
    with ExitStack() as stack:

        def start_one(**settings: Any) -> Api:
            wanted = {"seconds": (0.0, 0.0), "video": VideoSource.TINY, "concurrency": 0, **settings}
            server = SandboxServer(SandboxSettings(**wanted)).__enter__()
            stack.callback(stopper.submit, server.__exit__, None, None, None)
            api = Api(server)
            stack.callback(api.http.close)
            return api

        yield start_one


@pytest.fixture
def api(start: Callable[..., Api]) -> Api:
    """A caller of a sandbox whose tasks succeed at once."""
    return start()


@pytest.fixture(scope="module")
def shared() -> Iterator[Api]:
    """A caller of one sandbox for tests that change nothing that others see."""
    with SandboxServer(SandboxSettings(seconds=(0.0, 0.0), video=VideoSource.TINY, concurrency=0)) as server:
        api = Api(server)
        yield api
        api.http.close()


@pytest.fixture
def surface_of() -> Iterator[Callable[..., Api]]:
    """Make another caller of a running sandbox: with another prefix or key."""
    with ExitStack() as stack:

        def another(api: Api, **arguments: Any) -> Api:
            made = Api(api.server, **arguments)
            stack.callback(made.http.close)
            return made

        yield another


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of callbacks."""
    with receiving() as running:
        yield running
