"""Prefect is allowed to fail: locked, frozen or killed for as long as it likes, no order is lost or paid twice.

``KLING_FLOWS_FULL_FAULTS=1`` makes it fail for over two minutes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kling_flows.runner.prefect_health import AWAY_SECONDS, LATE_START_SECONDS
from kling_flows.v1.video_task_pb2 import VideoTask
from kling_flows.v1.video_task_service_pb2 import ListVideoTasksRequest
from tests.faults.trial import RUNNER, Trial, trial

_FULL = os.environ.get("KLING_FLOWS_FULL_FAULTS") == "1"

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.timeout(1500), pytest.mark.full]

_PATIENCE = 400.0

#: How long Prefect is gone and how long its database is locked, in seconds.
_GONE = 130.0 if _FULL else AWAY_SECONDS + 3
_LOCKED = 30.0 if _FULL else LATE_START_SECONDS + 3

#: How long videos take, so that some end before, some during and some after an absence.
_SECONDS = "1:60" if _FULL else "1:10"

_AWAY = "Prefect is away"
_BACK = "Prefect is back"


@dataclass
class _Stage:
    """A runner and a Prefect server that can be taken away and come back, which a supervisor would not allow."""

    on: Trial
    prefect: subprocess.Popen[bytes]
    said: dict[str, int] = field(default_factory=dict)

    @property
    def database(self) -> Path:
        return self.on.folder / "state" / "prefect" / "prefect.db"

    async def start_prefect(self) -> None:
        self.prefect = await self.on.start_prefect()

    async def says(self, words: str) -> None:
        """Wait until the runner has logged this once more than when it was last asked."""
        seen = self.said.get(words, 0)
        await self.on.until(lambda: self._count(words) > seen, f"the runner says {words!r}")
        self.said[words] = self._count(words)

    def _count(self, words: str) -> int:
        return self.on.log(RUNNER).read_text().count(words)

    async def all_submitted(self) -> None:
        def submitted() -> bool:
            known = [task for task in self.on.tasks.values() if task.state >= VideoTask.SUBMITTED]
            return len(known) == len(self.on.prompts)

        await self.on.until(submitted, "all are submitted")

    async def tasks(self) -> list[VideoTask]:
        page = await self.on.client.list(ListVideoTasksRequest(page_size=1000))
        return list(page.video_tasks)


@asynccontextmanager
async def _stage(folder: Path) -> AsyncGenerator[_Stage]:
    async with trial(folder, "--role", "front", seconds=_SECONDS, patience=_PATIENCE) as on:
        on.start(RUNNER, stop=signal.SIGKILL)
        yield _Stage(on, await on.start_prefect())


@contextmanager
def _locked(database: Path) -> Iterator[None]:
    with closing(sqlite3.connect(database, timeout=60, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


@contextmanager
def _frozen(process: subprocess.Popen[bytes]) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


async def _rest(began: float, seconds: float) -> None:
    await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))


async def test_prefect_is_locked_and_killed_while_tasks_are_in_every_phase(tmp_path: Path) -> None:
    async with _stage(tmp_path) as stage:
        on = stage.on
        await on.create(4)
        await stage.all_submitted()
        assert all(task.flow_run.name for task in await stage.tasks())

        with _locked(stage.database):
            began = time.monotonic()
            await on.create(4)
            await stage.says(_AWAY)
            await stage.all_submitted()
            await _rest(began, _LOCKED)
        await stage.says(_BACK)

        await on.create(6)
        await on.until(lambda: any(task.state == VideoTask.SUCCEEDED for task in on.tasks.values()), "one is archived")
        stage.prefect.kill()
        began = time.monotonic()
        await on.create(6)
        await stage.says(_AWAY)
        await stage.all_submitted()
        await _rest(began, _GONE)
        await stage.start_prefect()
        await stage.says(_BACK)

        if _FULL:
            with _frozen(stage.prefect):
                began = time.monotonic()
                await on.create(6)
                await stage.says(_AWAY)
                await stage.all_submitted()
                await _rest(began, _GONE)
            await stage.says(_BACK)

        await on.create(1)
        audit = await on.finish()
        assert audit.findings == ()
        [last] = [task for task in await stage.tasks() if task.text_to_video.prompt == on.prompts[-1]]
        assert last.flow_run.name, "a flow run carries it again"
        if _FULL:
            await on.until(lambda: not _open_runs(stage), "what was left open in Prefect is closed")


def _open_runs(stage: _Stage) -> list[str]:
    states = {"type": {"any_": ["RUNNING", "PENDING", "SCHEDULED", "CANCELLING"]}}
    return [run["id"] for run in stage.on.server.prefect("flow_runs/filter", flow_runs={"state": states})]


async def test_an_empty_prefect_database_costs_nothing(tmp_path: Path) -> None:
    async with _stage(tmp_path) as stage:
        on = stage.on
        await on.create(2)
        await stage.all_submitted()
        stage.prefect.kill()
        for file in stage.database.parent.glob("prefect.db*"):
            file.unlink()
        await stage.start_prefect()
        await on.create(2)
        audit = await on.finish()
        assert audit.findings == ()
