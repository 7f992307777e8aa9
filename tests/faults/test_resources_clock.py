"""A wall clock that steps by an hour: leases, deadlines and tokens bear it, and nothing is paid twice."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kling_flows.v1.video_task_pb2 import VideoTask
from tests.faults.shifted_runner import CLOCK
from tests.faults.trial import PREFECT, RUNNER, Trial, trial
from tests.stack import ROOT, clean_environment, process

pytestmark = [pytest.mark.xdist_group("clock"), pytest.mark.timeout(900), pytest.mark.full]

_PATIENCE = 400.0

_HOUR = 3600.0


@dataclass
class _Stage:
    """Two runners on one ledger; the clock of the first can be set."""

    on: Trial
    clock: Path
    logs: tuple[Path, Path]

    def shift(self, seconds: float) -> None:
        # Whoever reads it never sees half of it.
        part = self.clock.with_suffix(".part")
        part.write_text(str(seconds))
        part.replace(self.clock)

    def said(self, words: str) -> list[str]:
        return [line for log in self.logs for line in log.read_text().splitlines() if words in line]


@asynccontextmanager
async def _stage(folder: Path, runners: int) -> AsyncGenerator[_Stage]:
    async with trial(folder, "--role", "front", seconds="2:6", patience=_PATIENCE) as on:
        clock, logs = folder / "clock", (folder / "shifted.log", folder / "steady.log")
        stage = _Stage(on, clock, logs[:runners])
        stage.shift(0.0)
        host, _, port = on.settings["KLING_FLOWS_PREFECT_LISTEN"].rpartition(":")
        environment = clean_environment(**on.settings, PREFECT_HOME=str(folder / "state" / "prefect"))
        shifted = {**environment, "PYTHONPATH": str(ROOT), CLOCK: str(clock)}
        python = sys.executable
        with ExitStack() as stack:
            prefect = (python, "-m", PREFECT, host, port)
            stack.enter_context(process(*prefect, environment=environment, log=folder / "prefect.log"))
            runner = (python, "-m", "tests.faults.shifted_runner")
            stack.enter_context(process(*runner, environment=shifted, log=logs[0]))
            if runners > 1:
                stack.enter_context(process(python, "-m", RUNNER, environment=environment, log=logs[1]))
            await on.until(lambda: len(stage.said("carrying video tasks")) == runners, "all runners run")
            yield stage


def _hours_apart(task: VideoTask) -> bool:
    """Whether the runner's clock was far from the front's."""
    return abs(task.upstream.submit_time.seconds - task.create_time.seconds) > _HOUR / 2


@pytest.mark.parametrize("runners", [1, 2])
async def test_a_clock_that_steps_by_an_hour_and_back(tmp_path: Path, runners: int) -> None:
    async with _stage(tmp_path, runners) as stage:
        on = stage.on
        for step in (_HOUR, -_HOUR, 0.0):
            await on.create(10)
            await on.until(lambda: on.reached(VideoTask.SUBMITTED) >= len(on.prompts) - 5, "some are under way")
            stage.shift(step)
            await on.create(10)
        audit = await on.finish()
        assert audit.findings == ()
        assert any(_hours_apart(task) for task in on.tasks.values()), "the clock did step"
        assert not stage.said("took over from a dead runner")
        assert not stage.said("declared this runner dead")
        assert not stage.said("Traceback")
