from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from kling_flows.cli import demo
from kling_flows.cli.children import Child, ChildFailed, tail

from .command import finish, start


def child(tmp_path: Path, code: str) -> Child:
    (tmp_path / "acted.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    return Child("actor", "acted", ("x",), environment=environment, log=tmp_path / "actor.log")


READY = "import pathlib, time\npathlib.Path('{file}').write_text('here')\ntime.sleep(60)\n"


def test_a_child_is_ready_and_ended(tmp_path: Path) -> None:
    file = tmp_path / "ready"
    with child(tmp_path, READY.format(file=file)) as process:
        assert process.wait_for(file, 20) == "here"
        process.check()
        [running] = [item for item in psutil.Process().children() if "acted" in item.cmdline()]
    assert not running.is_running()


def test_a_child_that_ends_is_an_error_with_its_log(tmp_path: Path) -> None:
    code = "import sys\nfor number in range(100): print('line', number)\nsys.exit(4)\n"
    with child(tmp_path, code) as process, pytest.raises(ChildFailed, match="actor ended with exit code 4") as caught:
        process.wait_for(tmp_path / "never", 20)
    assert tail(caught.value.log).splitlines() == [f"line {number}" for number in range(75, 100)]


def test_a_child_that_is_not_ready_in_time_is_an_error(tmp_path: Path) -> None:
    with child(tmp_path, "import time\ntime.sleep(60)\n") as process, pytest.raises(ChildFailed, match="not ready"):
        process.wait_for(tmp_path / "never", 0.3)


def test_a_child_that_does_not_want_to_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kling_flows.cli.children._TERMINATE_SECONDS", 0.3)
    file = tmp_path / "ready"
    code = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY.format(file=file)
    with child(tmp_path, code) as process:
        process.wait_for(file, 20)
        [running] = [item for item in psutil.Process().children() if "acted" in item.cmdline()]
    assert not running.is_running()


def test_the_demo_sees_nothing_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KLING_ACCESS_KEY", "COMETAPI_KEY", "PREFECT_API_KEY", "KLING_FLOWS_LEDGER_URL"):
        monkeypatch.setenv(name, "mine")
    monkeypatch.setenv("NO_PROXY", "example.com")
    environment = demo._environment(tmp_path)
    assert "mine" not in environment.values()
    assert Path(environment["KLING_FLOWS_CONFIG"]).read_text() == ""
    assert environment["NO_PROXY"] == "example.com,127.0.0.1,localhost"


async def test_the_demo_makes_a_video_and_leaves_nothing_else(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = await start(
        "demo",
        "a fox wakes",
        "--output",
        str(tmp_path / "videos"),
        env={"TMPDIR": str(temporary), "KLING_ACCESS_KEY": "mine", "KLING_FLOWS_LEDGER_URL": "sqlite:////nowhere/x.db"},
    )
    async with asyncio.timeout(150):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    [video] = (tmp_path / "videos").iterdir()
    assert video.read_bytes()[4:8] == b"ftyp"
    assert str(video) in out.decode()
    assert f"sha256      {hashlib.sha256(video.read_bytes()).hexdigest()} (verified)" in out.decode()
    assert "/runs/flow-run/" in out.decode()
    assert [line.split()[0] for line in err.decode().splitlines()[:3]] == ["sandbox", "server", "prefect"]
    assert list(temporary.iterdir()) == []


@contextmanager
def _ignored(numbers: Collection[signal.Signals]) -> Generator[None]:
    """What is started meanwhile ignores these too."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_what_nohup_ignores_stays_ignored() -> None:
    with _ignored([signal.SIGHUP, signal.SIGINT]):
        with demo._interrupted_by_signals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) == demo._like_ctrl_c
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


@pytest.mark.parametrize(
    ("number", "ignored"),
    [
        (signal.SIGTERM, ()),
        (signal.SIGHUP, ()),
        (signal.SIGKILL, ()),
        pytest.param(signal.SIGTERM, (signal.SIGINT,), id="SIGTERM-in-a-script's-background"),
    ],
)
async def test_the_servers_end_with_the_demo(
    tmp_path: Path, number: signal.Signals, ignored: Collection[signal.Signals]
) -> None:
    arguments = ("demo", "a fox", "--state-dir", str(tmp_path / "state"), "--output", str(tmp_path / "videos"))
    with _ignored(ignored):
        process = await start(*arguments)
    assert process.stderr is not None
    async with asyncio.timeout(180):
        while not (await process.stderr.readline()).startswith(b"server"):
            pass
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 3
    process.send_signal(number)
    result = await finish(process)
    assert result.code == (-9 if number == signal.SIGKILL else 130)
    _, alive = await asyncio.to_thread(psutil.wait_procs, started, 40)
    assert alive == []


async def test_a_folder_that_cannot_be_used_is_named() -> None:
    result = await finish(await start("demo", "--output", "/proc/nowhere"))
    assert result.code == 4
    assert "--output: /proc/nowhere cannot be used" in result.err


async def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    # The servers find no room for their ledger.
    (state / "ledger.db").mkdir()
    process = await start("demo", "--state-dir", str(state), "--output", str(tmp_path))
    result = await finish(process)
    assert result.code != 0
    assert "error: serve ended with exit code" in result.err
    assert str(state / "serve.log") in result.err
    assert len(result.err.splitlines()) > 3
