"""The same load, by the plain poller, at the same sandbox."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.books import Books, read_books
from benchmarks.scenarios import Scenario
from benchmarks.stack import Stack
from kling_flows.cli.children import Child
from kling_flows.settings import Settings

_POLL_INTERVAL: Final[float] = Settings.model_fields["poll_interval"].default

_LOOK_SECONDS: Final = 0.25

#: Seconds beyond the longest video until it must have ended: it creates its tasks one connection of many at a time.
_PATIENCE: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainObserved:
    """What was seen of the plain poller.

    Args:
        ended: When it saw each task end, in seconds since the epoch, by external id.
        cpu: Seconds of CPU that it took.
        before: The sandbox's books before.
        after: The sandbox's books after.
    """

    ended: Mapping[str, float]
    cpu: float
    before: Books
    after: Books


async def run_plain(scenario: Scenario, stack: Stack, folder: Path) -> PlainObserved:
    """Let it make as many videos as the scenario has.

    Raises:
        ChildFailed: it ended without a result, or not in time.
    """
    output = folder / "plain.json"
    arguments = (
        *(stack.sandbox, "--tasks", str(scenario.tasks), "--dialect", scenario.dialect),
        *("--interval", str(scenario.poll_interval or _POLL_INTERVAL), "--output", str(output)),
    )
    before = await read_books(stack.sandbox)
    child = Child(
        "plain poller", "benchmarks.plain_poller", arguments, environment=stack.environment, log=folder / "plain.log"
    )
    with child:
        # Its own end is not a failure: what it writes comes just before it.
        async with asyncio.timeout(scenario.seconds[1] + _PATIENCE):
            while not output.exists():
                child.check()
                await asyncio.sleep(_LOOK_SECONDS)
    result = json.loads(output.read_text())
    return PlainObserved(ended=result["ended"], cpu=result["cpu"], before=before, after=await read_books(stack.sandbox))
