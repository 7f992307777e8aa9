"""``python -m grpc_server`` as a process: how it starts, says so, and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from grpc_server.process import serve
from kling_flows.errors import ConfigurationError
from kling_flows.settings import Settings
from kling_flows.v1.video_task_service_pb2 import WatchVideoTasksRequest
from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceStub

from .rig import PATIENCE, Refusal, create_request


def _environment(folder: Path, **variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KLING", "COMETAPI"))}
    return kept | _variables(folder, **variables)


def _variables(folder: Path, **variables: str) -> dict[str, str]:
    return {
        "XDG_CONFIG_HOME": str(folder),
        "KLING_FLOWS_STATE_DIR": str(folder / "state"),
        "KLING_FLOWS_LISTEN": "127.0.0.1:0",
        "KLING_FLOWS_PROVIDER": "sandbox",
        "KLING_FLOWS_READY_FILE": str(folder / "ready"),
        **variables,
    }


@contextmanager
def _front(folder: Path, *, pass_fds: tuple[int, ...] = (), **variables: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "grpc_server"],
        env=_environment(folder, **variables),
        pass_fds=pass_fds,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _ready(folder: Path, process: subprocess.Popen[str]) -> str:
    file = folder / "ready"
    for _ in range(int(PATIENCE / 0.02)):
        if file.exists():
            return file.read_text()
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(process.communicate()[1])
    raise AssertionError("the front did not become ready")


def _end(process: subprocess.Popen[str]) -> tuple[int, str]:
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert stdout == ""
    return process.returncode, stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_front_says_where_it_listens_serves_and_drains_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    with _front(tmp_path) as process:
        address = _ready(tmp_path, process)
        with grpc.insecure_channel(address) as channel:
            stub: Any = VideoTaskServiceStub(channel)
            task = stub.CreateVideoTask(create_request(), timeout=PATIENCE)
            watch = stub.WatchVideoTasks(WatchVideoTasksRequest())
            assert next(watch).video_tasks[0] == task
            assert next(watch).synced
            process.send_signal(number)
            with pytest.raises(grpc.RpcError) as caught:
                next(watch)
            refusal = Refusal.of(caught.value)
        code, log = _end(process)

    assert refusal.reason == "SERVER_UNAVAILABLE"
    assert refusal.info.metadata["resume_token"]
    assert code == 0
    assert [line for line in log.splitlines() if "front serves" in line and address in line]
    assert "drained" in log
    assert "Traceback" not in log


def test_a_front_drains_when_its_parent_is_gone(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with _front(tmp_path, pass_fds=(reading,), KLING_FLOWS_PARENT_FD=str(reading)) as process:
        os.close(reading)
        _ready(tmp_path, process)
        os.write(writing, b"still here")
        assert process.poll() is None
        os.close(writing)
        code, log = _end(process)

    assert code == 0
    assert "drained" in log


def test_a_taken_port_ends_the_process_with_one_line_and_its_exit_code(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with _front(tmp_path, KLING_FLOWS_LISTEN=address) as process:
            code, log = _end(process)

    assert code == 4
    assert log.startswith(f"error: KLING_FLOWS_LISTEN: {address} cannot be opened")
    assert log.count("\n") == 1


def test_a_missing_key_ends_the_process_with_one_line_and_its_exit_code(tmp_path: Path) -> None:
    with _front(tmp_path, KLING_FLOWS_PROVIDER="") as process:
        code, log = _end(process)

    assert code == 4
    assert log.startswith("error: KLING_FLOWS_PROVIDER: no provider is named")
    assert log.count("\n") == 1


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("KLING_FLOWS_LISTEN", "50051", "is not host:port"),
        ("KLING_FLOWS_PARENT_FD", "x", "is not the reading end of a pipe"),
        ("KLING_FLOWS_PARENT_FD", "999", "is not the reading end of a pipe"),
        ("KLING_FLOWS_READY_FILE", "/nowhere/ready", "cannot be written"),
        ("KLING_FLOWS_MAX_QUEUED", "0", "greater than or equal to 1"),
        ("KLING_FLOWS_LEDGER_URL", "mysql://x", "only sqlite:///<file> and postgresql://"),
        ("KLING_FLOWS_PROVIDER", "", "no provider is named"),
    ],
)
async def test_a_wrong_setting_is_named_before_anything_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    for name in os.environ:
        if name.startswith(("KLING", "COMETAPI")):
            monkeypatch.delenv(name)
    for name, text in _variables(tmp_path, **{variable: value}).items():
        monkeypatch.setenv(name, text)
    with pytest.raises(ConfigurationError) as caught:
        await serve(Settings.load())

    assert caught.value.setting == variable
    assert message in caught.value.message


def test_the_front_never_loads_prefect() -> None:
    code = "import grpc_server.__main__, sys; print([name for name in sys.modules if name.startswith('prefect')])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "[]"
