"""The figures of the scenario ``scale``, calculated from what was observed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import linear_regression
from typing import Final

from benchmarks.books import Books
from benchmarks.figures import Growth, Spread, paid_twice
from benchmarks.scale.cells import Cell
from benchmarks.watching import TaskStory
from kling_flows.v1.video_task_pb2 import VideoTask

#: Ids of one call of the standard dialect (fact sheet 4.4).
_BATCH: Final = 20

#: What may grow with the tasks in flight.
GROWING: Final = ("CPU of all starts", "CPU while all wait", "memory", "upstream calls per tick")


@dataclass(frozen=True, slots=True)
class Moment:
    """What had been used at one moment.

    Args:
        at: Seconds since the epoch.
        cpu: Seconds of CPU since the start, by process.
        rss: Bytes of resident memory of the processes that hold the tasks.
    """

    at: float
    cpu: Mapping[str, float]
    rss: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Look:
    """What changes quickly, at one moment.

    Args:
        at: Seconds since the epoch.
        reads: Calls so far that asked the provider how tasks are.
        rss: Bytes of resident memory of the processes that hold the tasks.
    """

    at: float
    reads: int
    rss: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class StepObserved:
    """One step.

    Args:
        tasks: Created until its end, those of the earlier steps included.
        in_flight: Of these, those that were in flight at its end.
        begun: Before its first create.
        started: When the provider had all of them.
        settled: When all of them were looked at in each tick.
        held: Some ticks later.
    """

    tasks: int
    in_flight: int
    begun: Moment
    started: Moment
    settled: Moment
    held: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class CellObserved:
    """What was seen of one cell.

    Args:
        cell: What ran.
        stories: The video tasks.
        created: How many were created.
        alone: How many of these were created one after the other on the idle system, at the beginning.
        idle: Before some seconds in which nothing happened.
        began: After these, before the first create.
        steps: In their order.
        ended: After the last end.
        looks: From the first create to the last end.
        before: The sandbox's books before.
        after: The sandbox's books after.
    """

    cell: Cell
    stories: Collection[TaskStory]
    created: int
    alone: int
    idle: Moment
    began: Moment
    steps: Sequence[StepObserved]
    ended: Moment
    looks: Sequence[Look]
    before: Books
    after: Books


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """One step; README.md says what each means and how it is measured."""

    tasks: int
    in_flight: int
    starts_per_second: float | None
    start_cpu_ms: Mapping[str, float]
    waiting_cpu_per_second: Mapping[str, float]
    rss_mib: Mapping[str, float]
    rss_kib_per_task: Mapping[str, float]
    calls_per_tick: float | None
    calls_per_tick_and_batch: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFigures:
    """One cell; README.md says what each means and how it is measured.

    ``growth`` has the exponents by what grows; one is None where it did not grow.
    """

    name: str
    tasks: int
    finished: int
    seconds: float
    steps: Sequence[StepFigures]
    starts_per_second: float | None
    idle_start_seconds: Spread | None
    cpu_ms_per_task: Mapping[str, float]
    idle_cpu_per_second: Mapping[str, float]
    rss_before_mib: Mapping[str, float]
    rss_most_mib: Mapping[str, float]
    reads_per_task: float | None
    growth: Mapping[str, float | None]
    paid_twice: int
    lost: int
    gaps: int


@dataclass(frozen=True, slots=True)
class ScaleFigures:
    """All cells."""

    cells: Sequence[CellFigures]


def calculate_cell(seen: CellObserved) -> CellFigures:
    """All figures of a cell."""
    finished = sum(story.archived and story.final for story in seen.stories)
    idle = _rates(seen.idle, seen.began)
    stories = sorted(seen.stories, key=lambda story: story.created)
    firsts = (seen.alone, *(step.tasks for step in seen.steps))
    groups = [stories[first:last] for first, last in pairwise(firsts)]
    steps = [_step(seen, step, group, idle) for step, group in zip(seen.steps, groups, strict=True)]
    return CellFigures(
        name=seen.cell.name,
        tasks=seen.created,
        finished=finished,
        seconds=seen.ended.at - seen.began.at,
        steps=steps,
        starts_per_second=_starts_per_second(groups),
        idle_start_seconds=Spread.of(
            story.reached[VideoTask.SUBMITTING] - story.created
            for story in stories[: seen.alone]
            if VideoTask.SUBMITTING in story.reached
        ),
        cpu_ms_per_task=_scaled(_since(seen.began.cpu, seen.ended.cpu), 1_000 / finished) if finished else {},
        idle_cpu_per_second=idle,
        rss_before_mib=_scaled(seen.began.rss, 1 / 2**20),
        rss_most_mib={label: max(look.rss[label] for look in seen.looks) / 2**20 for label in seen.began.rss},
        reads_per_task=(seen.looks[-1].reads - seen.looks[0].reads) / finished if finished else None,
        growth=_growth(seen, steps, idle),
        paid_twice=paid_twice(seen.before, seen.after, seen.stories),
        lost=seen.created - finished,
        gaps=sum(story.gaps for story in seen.stories),
    )


def _step(
    seen: CellObserved, step: StepObserved, stories: Sequence[TaskStory], idle: Mapping[str, float]
) -> StepFigures:
    calls = _calls_per_tick(seen, step)
    waiting = _rates(step.settled, step.held)
    grown = _since(seen.began.rss, step.held.rss)
    return StepFigures(
        tasks=step.tasks,
        in_flight=step.in_flight,
        starts_per_second=_starts_per_second([stories]),
        start_cpu_ms=_scaled(_since(step.begun.cpu, step.started.cpu), 1_000 / len(stories)) if stories else {},
        waiting_cpu_per_second={label: rate - idle.get(label, 0.0) for label, rate in waiting.items()},
        rss_mib=_scaled(step.held.rss, 1 / 2**20),
        rss_kib_per_task=_scaled(grown, 1 / 1_024 / step.in_flight) if step.in_flight else {},
        calls_per_tick=calls,
        calls_per_tick_and_batch=calls / math.ceil(step.in_flight / _BATCH)
        if calls is not None and step.in_flight
        else None,
    )


def _starts_per_second(groups: Sequence[Sequence[TaskStory]]) -> float | None:
    """Of groups that were created one after the other; None if a task was not accepted, or there are none."""
    seconds = 0.0
    for group in groups:
        times = [story.reached[VideoTask.SUBMITTED] for story in group if VideoTask.SUBMITTED in story.reached]
        if len(times) < len(group):
            return None
        if times:
            seconds += max(times) - min(story.created for story in group)
    return sum(map(len, groups)) / seconds if seconds else None


def _calls_per_tick(seen: CellObserved, step: StepObserved) -> float | None:
    # A line through the counts rather than their difference: how many ticks fall into the time is a matter of luck.
    looks = [look for look in seen.looks if step.settled.at <= look.at <= step.held.at]
    if len(looks) < 2:
        return None
    slope = linear_regression([look.at for look in looks], [look.reads for look in looks]).slope
    return slope * seen.cell.poll_interval


def _growth(seen: CellObserved, steps: Sequence[StepFigures], idle: Mapping[str, float]) -> Mapping[str, float | None]:
    starts = 0.0
    started: list[tuple[int, float]] = []
    for step in seen.steps:
        seconds = step.started.at - step.begun.at
        taken = _since(step.begun.cpu, step.started.cpu)
        starts += sum(cpu - idle.get(label, 0.0) * seconds for label, cpu in taken.items())
        started.append((step.tasks - seen.alone, starts))
    totals = (
        started,
        [(step.in_flight, sum(step.waiting_cpu_per_second.values())) for step in steps],
        [(step.in_flight, sum(_since(seen.began.rss, step.held.rss).values())) for step in seen.steps],
        [(step.in_flight, step.calls_per_tick or 0.0) for step in steps],
    )
    fits = [Growth.of([point for point in points if point[0]]) for points in totals]
    return {what: fit.exponent if fit else None for what, fit in zip(GROWING, fits, strict=True)}


def _since(before: Mapping[str, float], after: Mapping[str, float]) -> Mapping[str, float]:
    return {label: value - before.get(label, 0.0) for label, value in after.items()}


def _rates(before: Moment, after: Moment) -> Mapping[str, float]:
    return _scaled(_since(before.cpu, after.cpu), 1 / (after.at - before.at))


def _scaled(values: Mapping[str, float], scale: float) -> Mapping[str, float]:
    return {label: value * scale for label, value in values.items()}
