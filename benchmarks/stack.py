"""The processes of a run: the sandbox, ``kling-flows serve`` with all that it starts, and the empty handler."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.scenarios import Callbacks, Scenario
from kling_flows.cli.children import Child
from kling_flows.processes import READY_VARIABLE

#: Seconds that a process gets to start.
READY_SECONDS: Final = 90.0

#: What a user has set for real work must not reach a benchmark.
_USERS_OWN: Final = ("KLING_", "COMETAPI_", "PREFECT_")


@dataclass(frozen=True, slots=True)
class Stack:
    """Everything that runs.

    Args:
        front: Address of the front, which answers already; the runner and Prefect may still be starting.
        empty: Address of the empty handler.
        sandbox: URL of the sandbox.
        children: What was started.
        environment: What they were started with, settings of the product apart.
    """

    front: str
    empty: str
    sandbox: str
    children: tuple[Child, ...]
    environment: Mapping[str, str]

    def check(self) -> None:
        """Make sure that all of it runs.

        Raises:
            ChildFailed: a child has ended.
        """
        for child in self.children:
            child.check()


@contextmanager
def running(scenario: Scenario, folder: Path) -> Generator[Stack]:
    """Start everything, with data and logs in ``folder``; afterwards end all of it.

    Raises:
        ChildFailed: a child did not get ready.
    """
    environment = clean_environment(folder)
    with ExitStack() as stack:
        port_file = folder / "sandbox.port"
        sandbox = stack.enter_context(
            Child(
                "sandbox",
                "kling_flows.sandbox",
                _sandbox_arguments(scenario, port_file),
                environment=environment,
                log=folder / "sandbox.log",
            )
        )
        url = f"http://127.0.0.1:{sandbox.wait_for(port_file, READY_SECONDS)}"
        empty_ready = folder / "empty.address"
        empty = stack.enter_context(
            Child(
                "empty handler",
                "benchmarks.empty_server",
                (str(empty_ready),),
                environment=environment,
                log=folder / "empty.log",
            )
        )
        front_ready = folder / "front.address"
        serve = stack.enter_context(
            Child(
                "serve",
                "kling_flows.cli",
                ("serve",),
                environment={**environment, **_settings(scenario, folder, url), READY_VARIABLE: str(front_ready)},
                log=folder / "serve.log",
            )
        )
        yield Stack(
            front=serve.wait_for(front_ready, READY_SECONDS),
            empty=empty.wait_for(empty_ready, READY_SECONDS),
            sandbox=url,
            children=(sandbox, empty, serve),
            environment=environment,
        )


def _sandbox_arguments(scenario: Scenario, port_file: Path) -> tuple[str, ...]:
    shortest, longest = scenario.seconds
    return (
        *("--port", "0", "--port-file", str(port_file)),
        *("--video", "tiny", "--concurrency", "0", "--seconds", f"{shortest}:{longest}"),
    )


def _settings(scenario: Scenario, folder: Path, sandbox: str) -> Mapping[str, str]:
    settings = {
        "KLING_FLOWS_PROVIDER": "sandbox",
        "KLING_FLOWS_UPSTREAM_URL": sandbox,
        "KLING_FLOWS_STATE_DIR": str(folder / "state"),
        "KLING_FLOWS_LISTEN": "127.0.0.1:0",
        "KLING_FLOWS_PREFECT_LISTEN": "127.0.0.1:0",
        "KLING_FLOWS_DIALECT": scenario.dialect,
    }
    if scenario.callbacks is not Callbacks.OFF:
        address = f"127.0.0.1:{_free_port()}"
        settings |= {"KLING_FLOWS_HTTP_LISTEN": address, "KLING_FLOWS_CALLBACK_BASE_URL": f"http://{address}"}
    if scenario.poll_interval is not None:
        settings["KLING_FLOWS_POLL_INTERVAL"] = str(scenario.poll_interval)
    return settings


def _free_port() -> int:
    # The address that the provider is told has to be known before the front is there to choose one.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def clean_environment(folder: Path) -> Mapping[str, str]:
    """This process's environment without a user's own settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_USERS_OWN)}
    # An empty file in place of the user's own.
    config = folder / "config.toml"
    config.touch()
    environment |= {"KLING_FLOWS_CONFIG": str(config), "DO_NOT_TRACK": "1"}
    for name in ("NO_PROXY", "no_proxy"):
        environment[name] = ",".join(filter(None, (environment.get(name), "127.0.0.1")))
    return environment
