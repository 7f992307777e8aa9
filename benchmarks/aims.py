"""What the figures are to reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, Protocol, TypeVar

from benchmarks.figures import Figures
from benchmarks.front.figures import FrontFigures
from benchmarks.scale.cells import Dispatch, LedgerKind, cell_name
from benchmarks.scale.figures import GROWING, CellFigures, ScaleFigures
from kling_flows.engine.polling import RECONCILE_SECONDS

F = TypeVar("F", contravariant=True)


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


class Counted(Protocol):
    """Figures of what must never happen."""

    @property
    def paid_twice(self) -> int:
        """Charges beyond one per task."""
        ...

    @property
    def lost(self) -> int:
        """Tasks without a video in the archive."""
        ...

    @property
    def gaps(self) -> int:
        """Events that a watch skipped or told twice."""
        ...


_FOR_ALL: Final[Sequence[Aim[Counted]]] = (
    Aim("paid twice", 0, "charges", lambda figures: figures.paid_twice),
    Aim("lost", 0, "tasks", lambda figures: figures.lost),
    Aim("gaps in the watch", 0, "events", lambda figures: figures.gaps),
)


def _detection_p95(figures: Figures) -> float | None:
    return figures.detection_seconds.p95 if figures.detection_seconds else None


def _detection_longest(figures: Figures) -> float | None:
    return figures.detection_seconds.longest if figures.detection_seconds else None


_READS: Final[Aim[Figures]] = Aim("upstream reads per task", 0.5, "reads", lambda figures: figures.reads_per_task)

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


#: An exponent above this is no linear growth any more.
_LINEAR: Final = 1.1


def _growth_of(what: str) -> Callable[[CellFigures], float | None]:
    return lambda cell: cell.growth[what]


def _most_calls(cell: CellFigures) -> float | None:
    known = [step.calls_per_tick_and_batch for step in cell.steps if step.calls_per_tick_and_batch is not None]
    return max(known) if len(known) == len(cell.steps) else None


_SCALE_AIMS: Final[Sequence[Aim[CellFigures]]] = (
    Aim("not in flight with the others", 0, "tasks", lambda cell: cell.tasks - cell.steps[-1].in_flight),
    Aim(
        "start on an idle system, p50",
        1,
        "s",
        lambda cell: cell.idle_start_seconds.p50 if cell.idle_start_seconds else None,
    ),
    Aim("calls per tick per 20 tasks, at most", 1.1, "calls", _most_calls),
    *(Aim(f"growth of {what}", _LINEAR, "exponent", _growth_of(what)) for what in GROWING),
)


def _rss_of_runner(cell: CellFigures) -> float:
    return cell.rss_most_mib["runner"]


def _ms_per_start(cell: CellFigures) -> float | None:
    return 1_000 / cell.starts_per_second if cell.starts_per_second else None


_RUNNER_MEMORY: Final = Aim("RSS of the runner", 400, "MiB", _rss_of_runner)

#: What is aimed at in some cells only.
_CELL_AIMS: Final[Mapping[str, Sequence[Aim[CellFigures]]]] = {
    cell_name(LedgerKind.SQLITE, Dispatch.IN_PROCESS): (_RUNNER_MEMORY,),
    cell_name(LedgerKind.POSTGRESQL, Dispatch.IN_PROCESS): (
        _RUNNER_MEMORY,
        # 15 starts a second.
        Aim("time per start", 1_000 / 15, "ms", _ms_per_start),
    ),
}


def judge_scale(figures: ScaleFigures) -> list[Verdict]:
    """Compare the figures of the scenario ``scale`` with its aims, cell by cell."""
    return [
        replace(_verdict(aim, aim.figure(cell)), name=f"{cell.name}: {aim.name}")
        for cell in figures.cells
        for aim in (*_SCALE_AIMS, *_CELL_AIMS.get(cell.name, ()), *_FOR_ALL)
    ]


def judge_front(figures: FrontFigures) -> list[Verdict]:
    """Compare the figures of the scenario ``front`` with its aims."""
    return [_verdict(aim, aim.figure(figures)) for aim in _FRONT_AIMS]


def judge(scenario: str, figures: Figures) -> list[Verdict]:
    """Compare the figures of a scenario with its aims."""
    return [_verdict(aim, aim.figure(figures)) for aim in (*_AIMS.get(scenario, ()), *_FOR_ALL)]


def is_dependable(figures: Counted) -> bool:
    """Whether the aims that do not depend on the machine are met."""
    return all(_verdict(aim, aim.figure(figures)).met for aim in _FOR_ALL)


def _verdict(aim: Aim[F], figure: float | None) -> Verdict:
    return Verdict(aim.name, aim.limit, aim.unit, figure, figure is not None and figure <= aim.limit)
