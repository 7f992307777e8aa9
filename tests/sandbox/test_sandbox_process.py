"""``python -m kling_flows.sandbox``."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kling_flows.errors import ConfigurationError
from kling_flows.sandbox import SandboxSettings, parse_seconds
from kling_flows.upstream.constants import SANDBOX_API_KEY

from .caller import eventually, fetch
from .receiver import Receiver

HEADERS = {"authorization": f"Bearer {SANDBOX_API_KEY}"}
COMMAND = [sys.executable, "-m", "kling_flows.sandbox"]


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a sandbox process; it is ended after the test."""
    started: list[subprocess.Popen[str]] = []

    def spawn_one(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        started.append(process)
        return process

    yield spawn_one
    for process in started:
        process.kill()
        process.communicate()


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("sandbox listening on http://127.0.0.1:"), line
    return line.split()[-1]


def test_it_says_where_it_is_and_writes_its_port(spawn: Any, tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    process = spawn("--port", "0", "--port-file", str(port_file), "--seconds", "0", "--video", "tiny")
    url = url_of(process)
    assert url == f"http://127.0.0.1:{port_file.read_text()}"
    assert [entry.name for entry in tmp_path.iterdir()] == ["port"]
    answer = fetch(
        f"{url}/v1/videos/text2video", "POST", json={"model_name": "kling-v3", "prompt": "x"}, headers=HEADERS
    )
    assert answer.json()["code"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_at_once_and_clean(spawn: Any, tmp_path: Path, number: signal.Signals) -> None:
    process = spawn("--port", "0", TMPDIR=str(tmp_path))
    url = url_of(process)
    fetch(f"{url}/sandbox/faults", "PUT", json=[{"fault": "hang", "on": "get"}])
    fetch(
        f"{url}/v1/videos/text2video",
        "POST",
        # Its rendering takes longer than the test.
        json={"model_name": "kling-v3", "prompt": "x", "mode": "4k", "duration": "15"},
        headers=HEADERS,
    )
    hanging = threading.Thread(target=lambda: ignore_errors(f"{url}/v1/videos/text2video/1"))
    hanging.start()
    eventually(lambda: fetch(f"{url}/sandbox/stats").json()["calls"]["get"])
    began = time.monotonic()
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    hanging.join()
    # Far less than the rendering takes, on however busy a machine.
    assert time.monotonic() - began < 15
    assert (process.returncode, output, errors) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def ignore_errors(url: str) -> None:
    with contextlib.suppress(httpx.HTTPError):
        fetch(url, headers=HEADERS, timeout=30)


def test_flags_reach_the_settings(spawn: Any) -> None:
    url = url_of(spawn("--port", "0", "--seconds", "50:60", "--concurrency", "1", "--video", "tiny", "--seed", "3"))
    path = f"{url}/v1/videos/text2video"
    order = {"model_name": "kling-v3", "prompt": "x"}
    codes = [fetch(path, "POST", json=order, headers=HEADERS).json()["code"] for _ in range(2)]
    assert codes == [0, 1303]


def test_callback_and_account_flags_reach_the_settings(spawn: Any, receiver: Receiver) -> None:
    secrets = [f"whsec_{key}" for key in ("b2xkIHNlY3JldA==", "bmV3IHNlY3JldA==")]
    flags = ["--callback-states", "succeed", "failed", "--callback-retry-seconds", "0", "--units", "3"]
    environment = {"KLING_FLOWS_SANDBOX_CALLBACK_SECRETS": " ".join(secrets)}
    url = url_of(spawn("--port", "0", "--seconds", "0", "--video", "tiny", *flags, **environment))
    order = {"prompt": "x", "options": {"callback_url": receiver.url}}
    codes = [fetch(f"{url}/text-to-video/kling-3.0", "POST", json=order, headers=HEADERS).json()["code"] for _ in "ab"]
    assert codes == [0, 1102]
    (event,) = receiver.wait_for(1)
    assert event.word == "succeeded"
    assert len(event.headers["webhook-signature"].split(" ")) == 2


def test_port_in_use_is_a_configuration_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = subprocess.run([*COMMAND, "--port", port], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == ConfigurationError.exit_code
    assert result.stderr.startswith(f"port: cannot listen on 127.0.0.1:{port}:")


def test_nonsense_is_a_usage_error() -> None:
    result = subprocess.run([*COMMAND, "--seconds", "soon"], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert "--seconds" in result.stderr


@pytest.mark.parametrize(("text", "seconds"), [("4:8", (4.0, 8.0)), ("0.5:1.5", (0.5, 1.5)), ("3", (3.0, 3.0))])
def test_seconds_are_read(text: str, seconds: tuple[float, float]) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    "settings", [{"seconds": (8.0, 4.0)}, {"seconds": (-1.0, 1.0)}, {"concurrency": -1}, {"render_workers": 0}]
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        SandboxSettings(**settings)
