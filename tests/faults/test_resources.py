"""Disks that are full and a ledger that is locked: the work waits and goes on by itself, and nothing is paid twice."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kling_flows.v1.text_to_video_pb2 import TextToVideo
from kling_flows.v1.video_task_pb2 import VideoTask
from kling_flows.v1.video_task_service_pb2 import CreateVideoTaskRequest, ListVideoTasksRequest
from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceStub
from tests.faults.trial import FRONT, RUNNER, Trial, trial
from tests.front.rig import refused
from tests.stack import clean_environment

pytestmark = pytest.mark.xdist_group("resources")

_PATIENCE = 400.0

#: How long the ledger is locked, in seconds: longer than a write waits.
_LOCKED = 6.0
_LOCKED_FULL = 60.0

#: Tells when it holds the lock, and lets go of it when its input ends.
_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class _Disk:
    """A folder that can be full.

    As root it is a small file system of its own. Others take the right to write from the archive's folder, or from the
    processes that write elsewhere.
    """

    folder: Path
    mounted: bool

    @contextmanager
    def full(self, *pids: int) -> Iterator[None]:
        if self.mounted:
            with self._filled():
                yield
        elif pids:
            with _no_file_grows(pids):
                yield
        else:
            self.folder.chmod(0o500)
            try:
                yield
            finally:
                self.folder.chmod(0o700)

    @contextmanager
    def _filled(self) -> Iterator[None]:
        filler = self.folder / "filler"
        try:
            with open(filler, "wb", buffering=0) as file:
                for size in (1 << 20, 1 << 12):
                    try:
                        while file.write(bytes(size)) == size:
                            continue
                    except OSError:
                        continue
            yield
        finally:
            filler.unlink()


@contextmanager
def _no_file_grows(pids: Sequence[int]) -> Iterator[None]:
    before = {pid: psutil.Process(pid).rlimit(resource.RLIMIT_FSIZE) for pid in pids}
    for pid, (_, hard) in before.items():
        psutil.Process(pid).rlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            psutil.Process(pid).rlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def _disk(folder: Path, megabytes: int) -> Iterator[_Disk]:
    folder.mkdir()
    if os.geteuid() != 0:
        yield _Disk(folder, mounted=False)
        return
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=False)
    mounted = mount.returncode == 0
    try:
        yield _Disk(folder, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def _locked(ledger: Path) -> Iterator[None]:
    command = (sys.executable, "-c", _LOCK, str(ledger))
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment())
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"locked\n"
        yield


@dataclass
class _Stage:
    on: Trial
    channel: grpc.aio.Channel
    pids: tuple[int, ...]

    async def status(self) -> int:
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        return (await stub.Check(health_pb2.HealthCheckRequest(), timeout=30)).status

    async def says(self, status: int) -> None:
        async with asyncio.timeout(self.on.patience):
            while await self.status() != status:
                await asyncio.sleep(0.05)

    async def creates_are_refused(self) -> None:
        """Create until one is refused, and see that it is refused well."""
        stub: Any = VideoTaskServiceStub(self.channel)
        deadline = time.monotonic() + self.on.patience
        while time.monotonic() < deadline:
            prompt = f"order {len(self.on.prompts)} beside a fault"
            request = CreateVideoTaskRequest(video_task=VideoTask(text_to_video=TextToVideo(prompt=prompt)))
            try:
                await stub.CreateVideoTask(request, timeout=60)
            except grpc.aio.AioRpcError:
                refusal = await refused(stub.CreateVideoTask(request, timeout=60))
                assert refusal.code is grpc.StatusCode.UNAVAILABLE
                assert refusal.reason == "LEDGER_UNAVAILABLE"
                assert refusal.retry_seconds
                return
            # There was some room left in the file itself.
            self.on.prompts.append(prompt)
        raise AssertionError("every create was answered")

    async def tasks(self) -> list[VideoTask]:
        return list((await self.on.client.list(ListVideoTasksRequest(page_size=1000))).video_tasks)

    def the_same_processes_run(self) -> bool:
        return self.pids == _pids(self.on)


def _pids(on: Trial) -> tuple[int, ...]:
    return tuple(on.server.pid(role) or 0 for role in (FRONT, RUNNER))


@asynccontextmanager
async def _stage(folder: Path, **settings: str) -> AsyncGenerator[_Stage]:
    async with (
        trial(folder, seconds="1:3", patience=_PATIENCE, settings=settings) as on,
        grpc.aio.insecure_channel(on.server.address) as channel,
    ):
        await on.until(lambda: all(_pids(on)), "front and runner run")
        await on.create(1)
        await on.until(lambda: on.reached(VideoTask.SUCCEEDED), "all is well")
        yield _Stage(on, channel, _pids(on))


async def _archive_is_full(stage: _Stage, archive: _Disk, count: int) -> None:
    on = stage.on
    with archive.full():
        done = on.reached(VideoTask.SUCCEEDED)
        await on.create(count)

        def all_wait() -> bool:
            waiting = [task for task in on.tasks.values() if task.state == VideoTask.ARCHIVING]
            return len(waiting) == count and all("archive" in task.error.message for task in waiting)

        await on.until(all_wait, "all wait for room in the archive")
        assert on.reached(VideoTask.SUCCEEDED) == done
    await on.until(lambda: on.reached(VideoTask.SUCCEEDED) == done + count, "all found room")


async def _nothing_can_be_written(stage: _Stage, seconds: float) -> None:
    """See that the front bears it for so many seconds: it answers, reads, and says what is wrong."""
    began = time.monotonic()
    await stage.creates_are_refused()
    await stage.says(health_pb2.HealthCheckResponse.NOT_SERVING)
    assert {task.name for task in await stage.tasks()} >= {task.name for task in stage.on.created}
    await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
    assert stage.the_same_processes_run()


async def _all_goes_on(stage: _Stage) -> None:
    await stage.says(health_pb2.HealthCheckResponse.SERVING)
    await stage.on.create(2)


async def _play(folder: Path, *, full: float, locked: float, count: int) -> None:
    with _disk(folder / "all", 96) as disk, _disk(folder / "archive", 32) as archive:
        async with _stage(disk.folder, KLING_FLOWS_ARCHIVE=str(archive.folder)) as stage:
            await _archive_is_full(stage, archive, count)
            await stage.on.create(count)
            # The ledger, Prefect's database and every log are on it.
            with disk.full(*stage.pids):
                await _nothing_can_be_written(stage, seconds=full)
            await _all_goes_on(stage)
            await stage.on.create(count)
            with _locked(disk.folder / "state" / "ledger.db"):
                await _nothing_can_be_written(stage, seconds=locked)
            await _all_goes_on(stage)
            audit = await stage.on.finish()
            assert audit.findings == ()
            assert stage.the_same_processes_run()


async def test_full_disks_and_a_locked_ledger(tmp_path: Path) -> None:
    await _play(tmp_path, full=2.0, locked=_LOCKED, count=4)


@pytest.mark.full
@pytest.mark.timeout(1500)
async def test_full_disks_and_a_locked_ledger_with_many_tasks(tmp_path: Path) -> None:
    await _play(tmp_path, full=20.0, locked=_LOCKED_FULL, count=60)
