"""What happens to every peer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Moment(StrEnum):
    """When the process that calls the provider is killed."""

    CREATING = "while creates are sent"
    POLLING = "while all wait for their videos"
    DOWNLOADING = "while videos are downloaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerScenario:
    """One load.

    Args:
        name: Of its results.
        title: What happens, for people.
        tasks: Jobs.
        rate: Jobs per second; None for all at once.
        seconds: Shortest and longest time that a video takes at the provider.
        poll_seconds: Interval of every poll loop that has none of its own.
        faults: Fault rules of the sandbox.
        kill: When the process that calls the provider is killed.
        big: Whether the video has a GiB and its first download is cut at 90 %.
        disconnects: How often every watch is cut.
        measured: Whether its CPU, memory and times count; if not, several peers run at the same time.
        repeated: Whether it is run again for a median and a spread.
    """

    name: str
    title: str
    tasks: int
    rate: float | None = None
    seconds: tuple[float, float] = (20.0, 40.0)
    poll_seconds: float = 5.0
    faults: Sequence[Mapping[str, object]] = ()
    kill: Moment | None = None
    big: bool = False
    disconnects: int = 0
    measured: bool = True
    repeated: bool = False

    @property
    def breaks(self) -> bool:
        """Whether something goes wrong by which a peer may pay twice or lose."""
        return self.kill is not None or bool(self.faults)


#: Faults do not depend on how long a video takes, so these are short.
_SHORT: Final = (5.0, 8.0)


def is_of(name: str, families: Collection[str]) -> bool:
    """Whether a scenario is one of these, or of one of these families: ``kill`` stands for ``kill-creating`` too."""
    return any(name == family or name.startswith(f"{family}-") for family in families)


SCENARIOS: Final[Mapping[str, PeerScenario]] = {
    scenario.name: scenario
    for scenario in (
        PeerScenario(name="paced", title="1,000 jobs, ten a second", tasks=1_000, rate=10.0),
        PeerScenario(name="burst", title="1,000 jobs at once", tasks=1_000, repeated=True),
        PeerScenario(name="burst-100", title="100 jobs at once", tasks=100),
        # All are in flight at once where fewer than so many seconds pass between the first and the last create.
        PeerScenario(
            name="in-flight-5000", title="5,000 jobs at once, all in flight", tasks=5_000, seconds=(50.0, 65.0)
        ),
        PeerScenario(
            name="in-flight-10000", title="10,000 jobs at once, all in flight", tasks=10_000, seconds=(90.0, 110.0)
        ),
        PeerScenario(
            name="accept-then-drop",
            title="100 jobs; a fifth of the creates is accepted, then the connection is cut without an answer",
            tasks=100,
            seconds=_SHORT,
            poll_seconds=1.0,
            faults=({"fault": "accept_then_drop", "rate": 0.2},),
            measured=False,
        ),
        PeerScenario(
            name="kill-creating",
            title="60 jobs; kill -9 while creates are sent",
            tasks=60,
            seconds=_SHORT,
            poll_seconds=1.0,
            # Kling itself does not answer at once either; else there is hardly a create to be met under way.
            faults=({"on": "create", "fault": "slow", "seconds": 0.5},),
            kill=Moment.CREATING,
            measured=False,
        ),
        PeerScenario(
            name="kill-polling",
            title="60 jobs; kill -9 while all wait for their videos",
            tasks=60,
            seconds=(12.0, 15.0),
            poll_seconds=1.0,
            kill=Moment.POLLING,
            measured=False,
        ),
        PeerScenario(
            name="kill-downloading",
            title="60 jobs; kill -9 while videos are downloaded",
            tasks=60,
            seconds=_SHORT,
            poll_seconds=1.0,
            faults=({"on": "download", "fault": "slow", "seconds": 2.0},),
            kill=Moment.DOWNLOADING,
            measured=False,
        ),
        PeerScenario(
            name="download",
            title="One video of 1 GiB; the connection is cut at 90 %",
            tasks=1,
            seconds=(2.0, 2.0),
            poll_seconds=1.0,
            big=True,
            measured=False,
        ),
        PeerScenario(
            name="watch",
            title="200 jobs, four a second; every watch is cut 100 times",
            tasks=200,
            rate=4.0,
            seconds=_SHORT,
            poll_seconds=1.0,
            disconnects=100,
            measured=False,
        ),
    )
}
