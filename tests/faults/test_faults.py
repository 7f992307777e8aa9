"""Break everything, in short: no order is paid for twice, and none is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kling_flows.v1.video_task_pb2 import VideoTask
from tests.faults.audit import Kind
from tests.faults.scenarios import ACCEPT_THEN_DROP, ERROR_5000, VIDEO
from tests.faults.trial import FRONT, PREFECT, RUNNER, trial

pytestmark = pytest.mark.xdist_group("faults")

_SECONDS = "1:2"

_PATIENCE = 400.0


#: Each strikes a few calls and is over, so that no order meets more than a few.
_EVERY_FAULT = (
    {"fault": "accept_then_drop", "times": 3},
    *({**rule, "rate": 1.0, "times": 2} for rule in ERROR_5000),
    {"fault": "concurrency", "times": 4},
    {"fault": "throttle", "times": 4},
    # Whether a list shows a finished task before it is looked at singly is a matter of timing.
    *({**rule, "rate": 1.0, "times": 1} for rule in VIDEO if rule.get("on") != "list"),
)


@pytest.mark.full
async def test_a_provider_that_fails_in_every_way(tmp_path: Path) -> None:
    async with trial(tmp_path, seconds=_SECONDS, patience=_PATIENCE) as on:
        on.provider.faults(*_EVERY_FAULT)
        await on.create(20)
        audit = await on.finish()
        assert audit.findings == ()
        assert on.hits() == sum(rule["times"] for rule in _EVERY_FAULT)


@pytest.mark.full
async def test_every_process_is_killed_alone_and_all_at_once(tmp_path: Path) -> None:
    async with trial(tmp_path, seconds=_SECONDS, patience=_PATIENCE) as on:
        await on.create(6)
        await on.moment(VideoTask.SUBMITTING, 0.1, 0.5)
        await on.kill(RUNNER)
        killing = asyncio.gather(on.kill(FRONT), on.kill(PREFECT))
        await on.create(6)
        await killing
        await on.moment(VideoTask.SUBMITTED, 0.6, 0.9)
        await on.kill_everything()
        audit = await on.finish()
        assert audit.findings == ()
        assert on.blows == 4


@pytest.mark.full
async def test_a_runner_that_does_not_look_first_is_found_out(tmp_path: Path) -> None:
    async with trial(tmp_path, seconds=_SECONDS, patience=_PATIENCE, bug="does-not-look") as on:
        on.provider.faults(*ACCEPT_THEN_DROP)
        await on.create(12)
        audit = await on.finish()
        hits = on.hits()
        assert hits
        assert audit.count(Kind.DOUBLE) == hits
