"""The network matrix, in short: every fault between us and the provider strikes a few calls, in both dialects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.network import (
    CALLBACKS,
    CALLED_AND_CHECKED,
    DOWNLOADS,
    PERMANENT,
    READS,
    SIGNED,
    STANDARD,
    UNKNOWN,
    UNREADABLE,
    refusals,
    so_often,
)
from tests.faults.trial import Trial, trial

_PATIENCE = 400.0

_REFUSALS = refusals(1)

#: Lists that fail one after the other make looks rare, which takes the time that a short form does not have.
_READS = tuple(rule for rule in READS if rule["on"] == "get" or rule["fault"] in ("reset_mid_body", "truncated_json"))

#: Every one of them is met, because every order makes such a call.
_MET = (*_REFUSALS, *so_often((*UNREADABLE, *UNKNOWN), 1))


def _not_met(on: Trial, rules: tuple[Mapping[str, Any], ...]) -> list[dict[str, Any]]:
    board = httpx.get(f"{on.provider.url}/sandbox/faults").json()["faults"]
    return [rule for rule in board[: len(rules)] if not rule["fired"]]


async def _play(on: Trial, count: int, rules: tuple[Mapping[str, Any], ...]) -> None:
    on.provider.faults(*rules)
    await on.create(count, refused=len(PERMANENT))
    audit = await on.finish(refused=True)
    assert audit.findings == ()
    assert _not_met(on, _MET) == []


@pytest.mark.full
@pytest.mark.xdist_group("network")
async def test_a_legacy_provider_behind_a_bad_network(tmp_path: Path) -> None:
    async with trial(tmp_path, seconds="1:2", patience=_PATIENCE) as on:
        await _play(on, 30, (*_MET, *so_often(_READS, 1), *so_often(DOWNLOADS, 1)))


@pytest.mark.xdist_group("network-standard")
async def test_a_standard_provider_that_calls_back_behind_a_bad_network(tmp_path: Path) -> None:
    # A lost end of a task is found by the reconciliation only, which takes half a minute: that is for the full form.
    callbacks = tuple({**rule, "state": "processing"} if rule["fault"] == "lost" else rule for rule in CALLBACKS)
    async with trial(
        tmp_path,
        seconds="1:2",
        patience=_PATIENCE,
        settings={**STANDARD, **CALLED_AND_CHECKED},
        sandbox_arguments=SIGNED,
    ) as on:
        await _play(on, 30, (*_MET, *so_often(_READS, 1), *so_often(DOWNLOADS, 1), *so_often(callbacks, 2)))
