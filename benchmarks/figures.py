"""The figures of a run, calculated from what was observed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import linear_regression
from typing import Self

from benchmarks.books import READS, Books
from benchmarks.meter import COUNTED, Role, Sample
from benchmarks.plain import PlainObserved
from benchmarks.watching import TaskStory
from kling_flows.v1.video_task_pb2 import VideoTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What was seen of one run.

    Args:
        stories: The video tasks.
        create_latencies: Seconds of each create.
        empty_latencies: Seconds of the same calls to the empty handler.
        create_seconds: From the first create's begin to the last one's end.
        cpu: Seconds of CPU while it was measured, by process.
        measured_seconds: How long it was measured.
        idle_cpu: Seconds of CPU while nothing was to do, by process.
        idle_seconds: How long nothing was to do.
        rss: Bytes of memory before the load, by process.
        samples: Memory under the load.
        before: The sandbox's books before.
        after: The sandbox's books after.
        plain: The plain poller with as many tasks, if it was asked to.
    """

    stories: Collection[TaskStory]
    create_latencies: Sequence[float]
    empty_latencies: Sequence[float]
    create_seconds: float
    cpu: Mapping[Role, float]
    measured_seconds: float
    idle_cpu: Mapping[Role, float]
    idle_seconds: float
    rss: Mapping[Role, int]
    samples: Sequence[Sample]
    before: Books
    after: Books
    plain: PlainObserved | None = None


@dataclass(frozen=True, slots=True)
class Spread:
    """How values spread."""

    count: int
    p50: float
    p95: float
    p99: float
    longest: float

    @classmethod
    def of(cls, values: Iterable[float], scale: float = 1.0) -> Self | None:
        """Of all values, each times ``scale``; None if there are none."""
        ordered = sorted(value * scale for value in values)
        if not ordered:
            return None
        p50, p95, p99 = (percentile(ordered, share) for share in (0.50, 0.95, 0.99))
        return cls(len(ordered), p50, p95, p99, ordered[-1])


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the values that at least that share of them does not exceed; they come in ascending order."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


@dataclass(frozen=True, slots=True)
class Growth:
    """How a total grows with the number of tasks: ``factor * tasks ** exponent``; 1 is linear.

    Args:
        exponent: The slope on logarithmic scales.
        factor: At one task.
    """

    exponent: float
    factor: float

    @classmethod
    def of(cls, points: Sequence[tuple[int, float]]) -> Self | None:
        """The line of least squares through the logarithms of (tasks, total); None if two sizes are not known."""
        known = [(math.log(tasks), math.log(total)) for tasks, total in points if total > 0]
        if len({x for x, _ in known}) < 2:
            return None
        slope, offset = linear_regression([x for x, _ in known], [y for _, y in known])
        return cls(slope, math.exp(offset))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFigures:
    """One process.

    Args:
        cpu_seconds: CPU while it was measured.
        cpu_ms_per_task: The same per finished video task.
        idle_cpu_per_second: Seconds of CPU per second while nothing was to do; not subtracted from the others.
        rss_before_mib: Memory before the load.
        rss_peak_mib: Memory when the most tasks were in flight.
        rss_kib_per_task: Growth from one to the other per task in flight.
    """

    cpu_seconds: float
    cpu_ms_per_task: float | None
    idle_cpu_per_second: float
    rss_before_mib: float
    rss_peak_mib: float
    rss_kib_per_task: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainFigures:
    """The plain poller.

    Args:
        finished: Tasks that it saw end.
        detection_seconds: From the end of a video to the moment at which it knew.
        reads_per_task: Queries per finished task.
        cpu_ms_per_task: CPU per finished task.
    """

    finished: int
    detection_seconds: Spread | None
    reads_per_task: float | None
    cpu_ms_per_task: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All of one run; README.md says what each means and how it is measured."""

    tasks: int
    finished: int
    creates_per_second: float
    create_ms: Spread | None
    empty_ms: Spread | None
    create_to_empty: float | None
    start_seconds: Spread | None
    last_start_seconds: float | None
    last_accept_seconds: float | None
    detection_seconds: Spread | None
    measured_seconds: float
    cpu_ms_per_task: float | None
    most_in_flight: int
    processes: Mapping[Role, ProcessFigures]
    calls_per_task: Mapping[str, float]
    reads_per_task: float | None
    flow_runs: int
    paid_twice: int
    lost: int
    gaps: int
    plain: PlainFigures | None


def calculate(seen: Observed) -> Figures:
    """All figures."""
    finished = [story for story in seen.stories if story.archived and story.final]
    peak = _peak(seen.samples)
    processes = {role: _process(seen, role, len(finished), peak) for role in Role}
    create = Spread.of(seen.create_latencies, 1_000)
    empty = Spread.of(seen.empty_latencies, 1_000)
    first_create = min((story.created for story in seen.stories), default=0.0)
    return Figures(
        tasks=len(seen.create_latencies),
        finished=len(finished),
        creates_per_second=len(seen.create_latencies) / seen.create_seconds,
        create_ms=create,
        empty_ms=empty,
        create_to_empty=create.p50 / empty.p50 if create and empty else None,
        start_seconds=Spread.of(
            story.reached[VideoTask.SUBMITTING] - story.created
            for story in seen.stories
            if VideoTask.SUBMITTING in story.reached
        ),
        last_start_seconds=_last(seen, VideoTask.SUBMITTING, first_create),
        last_accept_seconds=_last(seen, VideoTask.SUBMITTED, first_create),
        detection_seconds=Spread.of(
            story.reached[VideoTask.ARCHIVING] - seen.after.finished[story.external_task_id]
            for story in seen.stories
            if VideoTask.ARCHIVING in story.reached and story.external_task_id in seen.after.finished
        ),
        measured_seconds=seen.measured_seconds,
        cpu_ms_per_task=_per(sum(seen.cpu[role] for role in COUNTED) * 1_000, len(finished)),
        most_in_flight=peak.in_flight,
        processes=processes,
        calls_per_task=_calls_per_task(seen, len(finished)),
        reads_per_task=_reads_per_task(seen.before, seen.after, len(finished)),
        flow_runs=len({run for story in seen.stories for run in story.flow_runs}),
        paid_twice=paid_twice(seen.before, seen.after, seen.stories),
        lost=len(seen.create_latencies) - len(finished),
        gaps=sum(story.gaps for story in seen.stories),
        plain=_plain(seen.plain) if seen.plain else None,
    )


def _plain(seen: PlainObserved) -> PlainFigures:
    finished = len(seen.ended)
    return PlainFigures(
        finished=finished,
        detection_seconds=Spread.of(at - seen.after.finished[external] for external, at in seen.ended.items()),
        reads_per_task=_reads_per_task(seen.before, seen.after, finished),
        cpu_ms_per_task=_per(seen.cpu * 1_000, finished),
    )


def _reads_per_task(before: Books, after: Books, finished: int) -> float | None:
    reads = sum(after.calls.get(kind, 0) - before.calls.get(kind, 0) for kind in READS)
    return _per(reads, finished)


def _peak(samples: Sequence[Sample]) -> Sample:
    # The last one of several: what was started last has then settled.
    return max(reversed(samples), key=lambda sample: sample.in_flight)


def _process(seen: Observed, role: Role, finished: int, peak: Sample) -> ProcessFigures:
    grown = peak.rss[role] - seen.rss[role]
    return ProcessFigures(
        cpu_seconds=seen.cpu[role],
        cpu_ms_per_task=_per(seen.cpu[role] * 1_000, finished),
        idle_cpu_per_second=seen.idle_cpu[role] / seen.idle_seconds,
        rss_before_mib=seen.rss[role] / 2**20,
        rss_peak_mib=peak.rss[role] / 2**20,
        rss_kib_per_task=_per(grown / 1_024, peak.in_flight),
    )


def _last(seen: Observed, state: VideoTask.State.ValueType, begin: float) -> float | None:
    """Seconds until the last task was in that state; None if not all were."""
    times = [story.reached[state] for story in seen.stories if state in story.reached]
    return max(times) - begin if times and len(times) == len(seen.create_latencies) else None


def _calls_per_task(seen: Observed, finished: int) -> Mapping[str, float]:
    calls = {kind: count - seen.before.calls.get(kind, 0) for kind, count in seen.after.calls.items()}
    return {kind: count / finished for kind, count in calls.items()} if finished else {}


def paid_twice(before: Books, after: Books, stories: Iterable[TaskStory]) -> int:
    """Charges between the two moments beyond one for each of these tasks."""
    charged = after.charged[len(before.charged) :]
    ours = {story.external_task_id for story in stories}
    return len(charged) - len(ours.intersection(charged))


def _per(value: float, count: int) -> float | None:
    return value / count if count else None
