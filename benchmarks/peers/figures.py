"""The figures of a run, calculated from what was observed; and of several runs together."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.figures import Spread
from benchmarks.peers.books import Charge
from benchmarks.peers.run import PeerObserved
from benchmarks.peers.scenarios import is_of

#: A figure that was not, or could not be, measured is None.
Figures = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Figure:
    """What a figure means.

    Args:
        title: For people, with its unit.
        higher: Whether more is better.
        digits: Behind the point.
        scenarios: What it is shown for; a family's name stands for all of it.
    """

    title: str
    higher: bool = False
    digits: int = 2
    scenarios: Collection[str] = ("paced", "burst", "in-flight")

    def is_for(self, scenario: str) -> bool:
        """Whether it is shown for that scenario."""
        return is_of(scenario, self.scenarios)


_FAULTS: Final = ("accept-then-drop", "kill")

FIGURES: Final[Mapping[str, Figure]] = {
    "reads_per_task": Figure("upstream reads per finished task"),
    "lag_p50": Figure("detection lag p50, s"),
    "lag_p95": Figure("detection lag p95, s"),
    "lag_p99": Figure("detection lag p99, s"),
    "cpu_per_1000": Figure("CPU s per 1,000 tasks, all processes", digits=1),
    "memory_per_task": Figure("memory per task in flight, KiB", digits=0),
    "accepted_per_second": Figure("jobs accepted per second", higher=True, digits=0, scenarios=("burst", "in-flight")),
    "acceptance_p99": Figure("acceptance p99, s", digits=3, scenarios=("paced",)),
    "starts_per_second": Figure(
        "creates at the provider per second", higher=True, digits=0, scenarios=("burst", "in-flight")
    ),
    "doubles": Figure("paid twice", digits=0, scenarios=("paced", "burst", "in-flight", *_FAULTS)),
    "lost": Figure("lost", digits=0, scenarios=("paced", "burst", "in-flight", "download", *_FAULTS)),
    "refetched_mib": Figure("MiB fetched again", digits=1, scenarios=("download",)),
    "missed": Figure("changes that the watch missed", digits=0, scenarios=("watch",)),
}


def calculate(seen: PeerObserved) -> dict[str, float | None]:
    """All figures of a run; ``finished``, ``seconds``, ``most_in_flight`` and ``cuts`` too, which nobody is best at."""
    good = {job: result for job, result in seen.results.items() if result.ok}
    lags = (_lag(result.at, seen.charges.get(job, ())) for job, result in good.items())
    lag = Spread.of(seconds for seconds in lags if seconds is not None)
    waits = Spread.of(at - seen.fed[job] for job, at in seen.accepted.items() if job in seen.fed)
    peak = max(reversed(seen.samples), key=lambda sample: sample.in_flight, default=None)
    memory = (peak.memory - seen.memory_before) / 1_024 if peak else 0.0
    starts = sorted(charge.at for charges in seen.charges.values() for charge in charges)
    return {
        "finished": float(len(good)),
        "seconds": seen.seconds,
        "most_in_flight": float(peak.in_flight) if peak else None,
        "reads_per_task": _per(seen.after.reads - seen.before.reads, len(good)),
        "lag_p50": lag.p50 if lag else None,
        "lag_p95": lag.p95 if lag else None,
        "lag_p99": lag.p99 if lag else None,
        "cpu_per_1000": _per(sum(seen.cpu.values()) * 1_000, len(good)),
        "memory_per_task": _per(memory, peak.in_flight) if peak else None,
        "accepted_per_second": _rate(sorted([*seen.accepted.values(), min(seen.fed.values(), default=0.0)])),
        "acceptance_p99": waits.p99 if waits else None,
        "starts_per_second": _rate(starts),
        "doubles": float(sum(len(charges) - 1 for charges in seen.charges.values())),
        "lost": float(len(seen.jobs) - len(good)),
        "refetched_mib": None if seen.fetched is None else max(seen.fetched - seen.size * len(seen.jobs), 0) / 2**20,
        "missed": None if seen.watched is None else float(seen.watched.missed),
        "cuts": None if seen.watched is None else float(seen.watched.cuts),
    }


def cpu_per_process(seen: PeerObserved) -> dict[str, float]:
    """Seconds of CPU per 1,000 finished tasks, by process; nothing if none has finished."""
    good = sum(result.ok for result in seen.results.values())
    return {label: seconds * 1_000 / good for label, seconds in seen.cpu.items()} if good else {}


@dataclass(frozen=True, slots=True)
class Several:
    """A figure of several runs.

    Args:
        median: Of those that have it.
        least: Smallest.
        most: Largest.
        runs: How many have it.
    """

    median: float
    least: float
    most: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Several | None:
        """Of all that are known; None if there are none."""
        known = [value for value in values if value is not None]
        return cls(statistics.median(known), min(known), max(known), len(known)) if known else None


def _lag(at: float, charges: Sequence[Charge]) -> float | None:
    """Seconds from the end of the video to ``at``; of several of one job it is the last that was there by then."""
    ends = [charge.finished for charge in charges if charge.finished is not None and charge.finished <= at]
    return at - max(ends) if ends else None


def _per(value: float, count: int) -> float | None:
    return value / count if count else None


def _rate(times: Sequence[float]) -> float | None:
    """Per second, from the first to the last of these times; None if they are all the same."""
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else None
