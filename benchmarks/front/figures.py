"""The figures of the scenario ``front``, calculated from what was observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import linear_regression, median

from benchmarks.figures import Spread


@dataclass(frozen=True, slots=True)
class Round:
    """Creates of all clients together.

    Args:
        seconds: From the first call's begin to the last one's end.
        cpu: Seconds of CPU of the server meanwhile.
        latencies: Seconds of each call that was answered.
        refused: Calls that were not, by status.
    """

    seconds: float
    cpu: float
    latencies: Sequence[float]
    refused: dict[str, int]

    @property
    def rate(self) -> float:
        """Creates per second."""
        return len(self.latencies) / self.seconds


@dataclass(slots=True)
class FrontObserved:
    """What was seen of one run; seconds and bytes.

    Args:
        creates: Rounds with 256 calls in flight.
        empty: The same of the empty handler, each beside one of ours.
        burst: All calls at once.
        told: From the begin of an event's write to its last delivery, by number of watches.
        bare_told: From the call that tells to the last delivery of a server that does nothing else.
        rss: Memory without watches and with them, and how many they are.
        idle: Moments, from the first on, and memory while nothing happens but heartbeats.
        unary: A call each while nothing happens.
        unary_told: The same while all watches are told of one event after the other.
        broken: Watches that ended by themselves.
    """

    creates: list[Round] = field(default_factory=lambda: list[Round]())
    empty: list[Round] = field(default_factory=lambda: list[Round]())
    burst: Round | None = None
    told: dict[int, list[float]] = field(default_factory=lambda: dict[int, list[float]]())
    bare_told: dict[int, list[float]] = field(default_factory=lambda: dict[int, list[float]]())
    rss: tuple[int, int, int] = (0, 0, 0)
    idle: list[tuple[float, int]] = field(default_factory=lambda: list[tuple[float, int]]())
    unary: list[float] = field(default_factory=lambda: list[float]())
    unary_told: list[float] = field(default_factory=lambda: list[float]())
    broken: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOut:
    """One event for so many watches: milliseconds to the last delivery, the median of some events."""

    watches: int
    told_ms: float
    bare_ms: float

    @property
    def to_bare(self) -> float:
        """How many times as long as the bare fan-out."""
        return self.told_ms / self.bare_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontFigures:
    """All of one run; README.md says what each means and how it is measured."""

    creates_per_second: float
    empty_per_second: float
    of_empty: float
    create_cpu_ms: float
    empty_cpu_ms: float
    create_ms: Spread | None
    empty_ms: Spread | None
    burst: int
    burst_shed: int
    burst_seconds: float
    fan_outs: Sequence[FanOut]
    kib_per_watch: float
    idle_kib_per_minute: float
    unary_ms: Spread | None
    unary_told_ms: Spread | None
    broken_watches: int


def calculate_front(seen: FrontObserved) -> FrontFigures:
    """All figures."""
    assert seen.burst is not None
    before, after, watches = seen.rss
    ours, empty = median(each.rate for each in seen.creates), median(each.rate for each in seen.empty)
    slope = linear_regression([moment for moment, _ in seen.idle], [rss for _, rss in seen.idle]).slope
    return FrontFigures(
        creates_per_second=ours,
        empty_per_second=empty,
        of_empty=median(a.rate / b.rate for a, b in zip(seen.creates, seen.empty, strict=True)),
        create_cpu_ms=_cpu_ms(seen.creates),
        empty_cpu_ms=_cpu_ms(seen.empty),
        create_ms=Spread.of((value for each in seen.creates for value in each.latencies), 1_000),
        empty_ms=Spread.of((value for each in seen.empty for value in each.latencies), 1_000),
        burst=len(seen.burst.latencies) + sum(seen.burst.refused.values()),
        burst_shed=sum(seen.burst.refused.values()),
        burst_seconds=seen.burst.seconds,
        fan_outs=[
            FanOut(watches=count, told_ms=median(times) * 1_000, bare_ms=median(seen.bare_told[count]) * 1_000)
            for count, times in seen.told.items()
        ],
        kib_per_watch=(after - before) / watches / 1_024,
        idle_kib_per_minute=slope * 60 / 1_024,
        unary_ms=Spread.of(seen.unary, 1_000),
        unary_told_ms=Spread.of(seen.unary_told, 1_000),
        broken_watches=seen.broken,
    )


def _cpu_ms(rounds: Sequence[Round]) -> float:
    return sum(each.cpu for each in rounds) * 1_000 / sum(len(each.latencies) for each in rounds)
