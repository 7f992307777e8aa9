"""The loads that are measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One load.

    Args:
        name: Names the file of its results.
        summary: What happens, for the help and the report.
        tasks: Video tasks that are created.
        rate: Creates per second; None creates as fast as ``calls_in_flight`` allows.
        calls_in_flight: Most creates under way at a time, if there is no rate.
        seconds: Shortest and longest time that a video takes at the provider.
        poll_interval: Seconds between two looks at the provider; None for the product's own default.
    """

    name: str
    summary: str
    tasks: int
    rate: float | None = None
    calls_in_flight: int = 64
    seconds: tuple[float, float]
    poll_interval: float | None = None


#: The times of the videos are shorter than Kling's, so that a run of all scenarios takes a few minutes.
SCENARIOS: Final[Mapping[str, Scenario]] = {
    scenario.name: scenario
    for scenario in (
        Scenario(name="paced", summary="creates at a steady rate", tasks=100, rate=1.0, seconds=(4.0, 8.0)),
        Scenario(name="burst", summary="creates with 64 calls in flight", tasks=1_000, seconds=(10.0, 20.0)),
    )
}
