"""The loads that are measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Callbacks(StrEnum):
    """Whether the provider calls back."""

    OFF = "off"
    ON = "on"
    #: It is asked to, and every call is lost.
    LOST = "lost"


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
        dialect: The provider's API generation.
        callbacks: Whether the provider calls back.
        plain_poller: Whether the plain poller makes as many videos afterwards, to compare.
    """

    name: str
    summary: str
    tasks: int
    rate: float | None = None
    calls_in_flight: int = 64
    seconds: tuple[float, float]
    poll_interval: float | None = None
    dialect: str = "legacy"
    callbacks: Callbacks = Callbacks.OFF
    plain_poller: bool = False


#: The times of the videos are shorter than Kling's, so that a run of all scenarios takes a few minutes.
SCENARIOS: Final[Mapping[str, Scenario]] = {
    scenario.name: scenario
    for scenario in (
        Scenario(name="paced", summary="creates at a steady rate", tasks=100, rate=1.0, seconds=(4.0, 8.0)),
        Scenario(name="burst", summary="creates with 64 calls in flight", tasks=1_000, seconds=(10.0, 20.0)),
        Scenario(
            name="legacy",
            summary="all in flight at once, legacy dialect",
            tasks=1_000,
            seconds=(20.0, 40.0),
            plain_poller=True,
        ),
        Scenario(
            name="standard",
            summary="all in flight at once, standard dialect",
            tasks=1_000,
            seconds=(20.0, 40.0),
            dialect="standard",
            plain_poller=True,
        ),
        Scenario(
            name="callbacks",
            summary="all in flight at once, the provider calls back",
            tasks=1_000,
            seconds=(20.0, 40.0),
            dialect="standard",
            callbacks=Callbacks.ON,
        ),
        Scenario(
            name="lost-callbacks",
            summary="all in flight at once, every callback is lost",
            tasks=1_000,
            seconds=(20.0, 40.0),
            dialect="standard",
            callbacks=Callbacks.LOST,
        ),
    )
}
