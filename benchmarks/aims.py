"""What the figures are to reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from benchmarks.figures import Figures
from benchmarks.front.figures import FrontFigures
from kling_flows.engine.polling import RECONCILE_SECONDS

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Aim(Generic[F]):
    """A limit that a figure is not to exceed.

    Args:
        name: What is limited.
        limit: Its largest value.
        unit: Of the limit and the figure.
        figure: Finds the figure; None if it could not be measured, which is a miss.
    """

    name: str
    limit: float
    unit: str
    figure: Callable[[F], float | None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an aim is met."""

    name: str
    limit: float
    unit: str
    figure: float | None
    met: bool


_FOR_ALL: Final[Sequence[Aim[Figures]]] = (
    Aim("paid twice", 0, "charges", lambda figures: figures.paid_twice),
    Aim("lost", 0, "tasks", lambda figures: figures.lost),
    Aim("gaps in the watch", 0, "events", lambda figures: figures.gaps),
)


def _detection_p95(figures: Figures) -> float | None:
    return figures.detection_seconds.p95 if figures.detection_seconds else None


def _detection_longest(figures: Figures) -> float | None:
    return figures.detection_seconds.longest if figures.detection_seconds else None


_READS: Final = Aim("upstream reads per task", 0.5, "reads", lambda figures: figures.reads_per_task)

_POLLED: Final = (Aim("detection lag, p95", 3.5, "s", _detection_p95), _READS)

_AIMS: Final[Mapping[str, Sequence[Aim[Figures]]]] = {
    "paced": (
        Aim("create, p50", 5, "ms", lambda figures: figures.create_ms.p50 if figures.create_ms else None),
        Aim("CPU per task", 150, "ms", lambda figures: figures.cpu_ms_per_task),
    ),
    "legacy": _POLLED,
    "standard": _POLLED,
    "callbacks": (Aim("detection lag, p95", 0.3, "s", _detection_p95), _READS),
    "lost-callbacks": (
        Aim("detection lag, longest", 2 * RECONCILE_SECONDS, "s", _detection_longest),
        _READS,
    ),
    "burst": (
        Aim("last start", 60, "s", lambda figures: figures.last_start_seconds),
        Aim("CPU per task", 30, "ms", lambda figures: figures.cpu_ms_per_task),
    ),
}


_FRONT_AIMS: Final[Sequence[Aim[FrontFigures]]] = (
    # 60 % of the empty handler's.
    Aim("empty handler's creates per ours", 1 / 0.6, "times", lambda figures: 1 / figures.of_empty),
    Aim("creates shed in a burst", 0, "calls", lambda figures: figures.burst_shed),
    Aim("memory of an idle watch", 30, "KiB", lambda figures: figures.kib_per_watch),
    Aim(
        "unary call while all are told, p99",
        100,
        "ms",
        lambda figures: figures.unary_told_ms.p99 if figures.unary_told_ms else None,
    ),
    Aim("watches that ended", 0, "watches", lambda figures: figures.broken_watches),
)


def judge_front(figures: FrontFigures) -> list[Verdict]:
    """Compare the figures of the scenario ``front`` with its aims."""
    return [_verdict(aim, aim.figure(figures)) for aim in _FRONT_AIMS]


def judge(scenario: str, figures: Figures) -> list[Verdict]:
    """Compare the figures of a scenario with its aims."""
    return [_verdict(aim, aim.figure(figures)) for aim in (*_AIMS.get(scenario, ()), *_FOR_ALL)]


def is_dependable(figures: Figures) -> bool:
    """Whether the aims that do not depend on the machine are met."""
    return all(_verdict(aim, aim.figure(figures)).met for aim in _FOR_ALL)


def _verdict(aim: Aim[F], figure: float | None) -> Verdict:
    return Verdict(aim.name, aim.limit, aim.unit, figure, figure is not None and figure <= aim.limit)
