"""The one harness for tests that need the real thing: sandbox, front, runner and Prefect as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]

#: Longest wait for anything, in seconds: a deadline against hanging, never an expectation of speed.
PATIENCE = 240.0


def until(condition: Callable[[], T], what: str, patience: float = PATIENCE) -> T:
    """Wait until ``condition`` gives something true, and return that."""
    deadline = time.monotonic() + patience
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience:.0f} s in vain: {what}")
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without anything that would leak a user's settings into a test."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("KLING_", "COMETAPI_", "PREFECT_"))
    }
    return {**kept, "DO_NOT_TRACK": "1", **variables}


@contextmanager
def process(
    *command: str, environment: Mapping[str, str], log: Path, stop: int = signal.SIGTERM
) -> Iterator[subprocess.Popen[bytes]]:
    """A child that is ended with the block, by signal and by force if it does not listen."""
    with open(log, "ab") as output:
        child = subprocess.Popen(
            command, env=dict(environment), stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=log.parent
        )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(stop)
            try:
                child.wait(40)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@dataclass
class Sandbox:
    url: str

    def charges(self) -> list[dict[str, Any]]:
        return httpx.get(f"{self.url}/sandbox/charges").json()["charges"]

    def faults(self, *rules: Mapping[str, Any]) -> None:
        httpx.put(f"{self.url}/sandbox/faults", json=list(rules)).raise_for_status()

    def stats(self) -> dict[str, Any]:
        return httpx.get(f"{self.url}/sandbox/stats").json()


@contextmanager
def sandbox(folder: Path, *arguments: str) -> Iterator[Sandbox]:
    port_file = folder / "sandbox.port"
    command = (sys.executable, "-m", "kling_flows.sandbox", "--port", "0", "--port-file", str(port_file), *arguments)
    with process(*command, environment=clean_environment(), log=folder / "sandbox.log"):
        port = until(lambda: port_file.exists() and port_file.read_text().strip(), "the sandbox starts")
        yield Sandbox(f"http://127.0.0.1:{port}")


@dataclass
class Server:
    """A running ``kling-flows serve``."""

    folder: Path
    settings: dict[str, str]
    child: subprocess.Popen[bytes] = field(repr=False)
    address: str

    @property
    def prefect_api(self) -> str:
        return f"http://{self.settings['KLING_FLOWS_PREFECT_LISTEN']}/api"

    @property
    def archive(self) -> Path:
        return Path(self.settings["KLING_FLOWS_STATE_DIR"]) / "archive"

    def pid(self, role: str) -> int | None:
        """The process id of a role (``grpc_server``, ``kling_flows.runner``, …), if it runs."""
        for child in psutil.Process(self.child.pid).children():
            # One that was just killed is there and has no command line.
            with suppress(psutil.Error):
                if role in child.cmdline():
                    return child.pid
        return None

    def prefect_is_up(self) -> bool:
        try:
            return httpx.get(f"{self.prefect_api}/health", timeout=5).text == "true"
        except httpx.TransportError:
            return False

    def prefect(self, path: str, **body: Any) -> Any:
        return httpx.post(f"{self.prefect_api}/{path}", json=body, timeout=20).raise_for_status().json()

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return cli("--server", self.address, *arguments, environment=clean_environment(), check=check)

    def get(self, name: str) -> dict[str, Any]:
        return json.loads(self.cli("get", name, "--json").stdout)

    def log(self) -> str:
        return (self.folder / "serve.log").read_text()


def cli(*arguments: str, environment: Mapping[str, str], check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run ``kling-flows`` to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "kling_flows.cli", *arguments],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"kling-flows {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
    return done


def serve_settings(folder: Path, upstream: str, **more: str) -> dict[str, str]:
    return {
        "KLING_FLOWS_PROVIDER": "sandbox",
        "KLING_FLOWS_UPSTREAM_URL": upstream,
        "KLING_FLOWS_STATE_DIR": str(folder / "state"),
        "KLING_FLOWS_LISTEN": "127.0.0.1:0",
        "KLING_FLOWS_PREFECT_LISTEN": f"127.0.0.1:{free_port()}",
        "KLING_FLOWS_POLL_INTERVAL": "0.5",
        **more,
    }


@contextmanager
def serve(folder: Path, settings: dict[str, str], *arguments: str, through: tuple[str, ...] = ()) -> Iterator[Server]:
    ready = folder / "front.ready"
    ready.unlink(missing_ok=True)
    environment = clean_environment(**settings, KLING_FLOWS_READY_FILE=str(ready))
    command = (sys.executable, "-m", *through, "kling_flows.cli", "serve", *arguments)
    with process(*command, environment=environment, log=folder / "serve.log") as child:

        def address() -> str:
            if child.poll() is not None:
                raise AssertionError(f"serve ended with {child.returncode}:\n{(folder / 'serve.log').read_text()}")
            return ready.read_text().strip() if ready.exists() else ""

        yield Server(folder, settings, child, until(address, "the front serves"))
