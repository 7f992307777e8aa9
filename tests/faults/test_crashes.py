"""The crash matrix in short: processes die at boundaries between two steps, and a bug there is found out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.audit import Kind
from tests.faults.mortal import BOUNDARIES, Death
from tests.faults.registry import SCENARIOS
from tests.faults.takeovers import dying
from tests.faults.trial import trial

_SECONDS = "1:2"

_PATIENCE = 400.0


@pytest.mark.xdist_group("faults")
async def test_front_and_runner_die_at_boundaries_and_nothing_is_paid_twice_or_lost(tmp_path: Path) -> None:
    # Each at the second passing: others are under way as well.
    deaths = [Death(boundary, 2) for boundary in ("after-create", "during-post", "mid-download")]
    async with trial(tmp_path, seconds=_SECONDS, patience=_PATIENCE, deaths=deaths) as on:
        async with on.ordering(8):
            await on.all_died()
        audit = await on.finish()
        assert audit.findings == ()
        assert on.blows == 3


@pytest.mark.xdist_group("faults")
async def test_a_runner_that_submits_without_an_intent_is_found_out_by_a_crash(tmp_path: Path) -> None:
    deaths = [Death("after-answer", 3)]
    async with trial(tmp_path, seconds=_SECONDS, patience=_PATIENCE, deaths=deaths, bug="writes-no-intent") as on:
        async with on.ordering(6):
            await on.all_died()
        audit = await on.finish()
        assert audit.count(Kind.DOUBLE) >= on.blows == 1


@pytest.mark.xdist_group("takeovers")
async def test_a_dead_runner_s_tasks_are_taken_over_at_once_on_the_same_machine(tmp_path: Path) -> None:
    async with trial(tmp_path, "--role", "front", seconds=_SECONDS, patience=_PATIENCE) as on:
        await dying(1, far=False)(on, 8)
        audit = await on.finish()
        assert audit.findings == ()


def test_every_boundary_has_a_scenario_and_every_scenario_a_name_of_its_own() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    assert len(names) == len(set(names))
    assert set(names) >= BOUNDARIES.keys()
