"""All scenarios, in the order in which they are played."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from tests.faults.audit import Audit, Finding, Kind
from tests.faults.crashes import CRASHES
from tests.faults.network import NETWORK
from tests.faults.scenarios import KILLS, PROVIDER, Result, run
from tests.faults.takeovers import TAKEOVERS

SCENARIOS: Final = (*PROVIDER, *NETWORK, *CRASHES, *KILLS, *TAKEOVERS)

BY_NAME: Final = {scenario.name: scenario for scenario in SCENARIOS}

_PATIENCE: Final = 300.0


def play(name: str, folder: Path, tasks: int, seed: int) -> Result:
    """Play a scenario to its end, however it ends."""
    try:
        return asyncio.run(run(BY_NAME[name], folder / name, tasks, seed=seed, patience=_PATIENCE))
    except Exception as error:
        # What the others find must not be lost with it.
        broken = Finding(Kind.LOST, f"the trial broke: {type(error).__name__}: {error}")
        return Result(name, tasks, 0, Audit((broken,)), 0.0)
