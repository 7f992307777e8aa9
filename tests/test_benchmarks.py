"""What the benchmarks calculate; nothing is started."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from benchmarks.aims import is_dependable, judge
from benchmarks.books import Books
from benchmarks.figures import Figures, Observed, Spread, calculate, percentile
from benchmarks.meter import Role, Sample
from benchmarks.plain import PlainObserved
from benchmarks.watching import TaskStory
from kling_flows.v1.video_task_pb2 import Artifact, FlowRun, Upstream, VideoTask

BEGAN = 1_000.0
MIB = 2**20


def _event(number: int, revision: int, state: VideoTask.State.ValueType, at: float, **more: Any) -> VideoTask:
    return VideoTask(
        name=f"videoTasks/t{number}",
        state=state,
        revision=revision,
        create_time=Timestamp(seconds=int(BEGAN)),
        update_time=Timestamp(seconds=int(at)),
        upstream=Upstream(external_task_id=f"x{number}") if revision > 1 else None,
        flow_run=FlowRun(id="run") if revision > 1 else None,
        **more,
    )


def _story(number: int, *, start: float) -> TaskStory:
    story = TaskStory(created=BEGAN)
    for revision, (state, at) in enumerate(
        (
            (VideoTask.QUEUED, BEGAN),
            (VideoTask.SUBMITTING, BEGAN + start),
            (VideoTask.SUBMITTED, BEGAN + start + 1),
            (VideoTask.ARCHIVING, BEGAN + 20),
        ),
        start=1,
    ):
        story.tell(_event(number, revision, state, at))
    story.tell(_event(number, 5, VideoTask.SUCCEEDED, BEGAN + 21, artifacts=[Artifact(uri="file:///v.mp4")]))
    return story


def _by_role(value: float) -> dict[Role, float]:
    return dict.fromkeys(Role, value)


def _observed(**changed: Any) -> Observed:
    observed = Observed(
        stories=[_story(1, start=2), _story(2, start=4)],
        create_latencies=[0.004, 0.006],
        empty_latencies=[0.001, 0.002],
        create_seconds=0.5,
        cpu=_by_role(0.1),
        measured_seconds=24,
        idle_cpu=_by_role(0.05),
        idle_seconds=5,
        rss=dict.fromkeys(Role, 100 * MIB),
        samples=[
            Sample(0, dict.fromkeys(Role, 100 * MIB)),
            Sample(2, dict.fromkeys(Role, 101 * MIB)),
            Sample(2, dict.fromkeys(Role, 102 * MIB)),
            Sample(1, dict.fromkeys(Role, 103 * MIB)),
        ],
        before=Books(calls={"create": 4, "list": 3}, charged=["warm-up"], finished={}),
        after=Books(
            calls={"create": 6, "list": 4},
            charged=["warm-up", "x1", "x2"],
            finished={"x1": BEGAN + 18, "x2": BEGAN + 19},
        ),
    )
    return replace(observed, **changed)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([7.0], 0.5, 7.0), ([1.0, 2.0], 0.5, 1.0), ([1.0, 2.0, 3.0, 4.0], 0.95, 4.0), (list(range(1, 101)), 0.99, 99)],
)
def test_a_percentile_is_one_of_the_values(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_a_spread_scales_and_knows_when_there_is_nothing() -> None:
    assert Spread.of([0.003, 0.001, 0.002], 1_000) == Spread(3, 2.0, 3.0, 3.0, 3.0)
    assert Spread.of([]) is None


def test_times_are_those_of_the_events() -> None:
    figures = calculate(_observed())
    assert figures.start_seconds == Spread(2, 2.0, 4.0, 4.0, 4.0)
    assert (figures.last_start_seconds, figures.last_accept_seconds) == (4.0, 5.0)
    assert figures.detection_seconds == Spread(2, 1.0, 2.0, 2.0, 2.0)
    assert figures.creates_per_second == 4.0
    assert figures.create_to_empty == 4.0


def test_cost_is_that_of_the_products_processes_per_finished_task() -> None:
    figures = calculate(_observed())
    assert figures.cpu_ms_per_task == pytest.approx(200.0)
    runner = figures.processes[Role.RUNNER]
    assert runner.cpu_ms_per_task == pytest.approx(50.0)
    assert runner.idle_cpu_per_second == pytest.approx(0.01)


def test_memory_is_read_at_the_last_moment_with_most_tasks_in_flight() -> None:
    figures = calculate(_observed())
    assert figures.most_in_flight == 2
    assert figures.processes[Role.RUNNER].rss_kib_per_task == 1_024.0


def test_the_warm_up_counts_neither_as_calls_nor_as_charges() -> None:
    figures = calculate(_observed())
    assert figures.calls_per_task == {"create": 1.0, "list": 0.5}
    assert figures.reads_per_task == 0.5
    assert figures.flow_runs == 1
    assert (figures.paid_twice, figures.lost, figures.gaps) == (0, 0, 0)


def test_the_plain_poller_is_counted_from_where_the_product_ended() -> None:
    observed = _observed()
    assert calculate(observed).plain is None
    calls = {"create": 8, "list": 4, "get": 9}
    after = replace(observed.after, calls=calls, finished={"plain-0": BEGAN + 40, "plain-1": BEGAN + 41})
    ended = {"plain-0": BEGAN + 41, "plain-1": BEGAN + 44}
    plain = calculate(
        replace(observed, plain=PlainObserved(ended=ended, cpu=0.1, before=observed.after, after=after))
    ).plain
    assert plain is not None
    assert plain.detection_seconds == Spread(2, 1.0, 3.0, 3.0, 3.0)
    assert (plain.finished, plain.reads_per_task, plain.cpu_ms_per_task) == (2, 4.5, 50.0)


@pytest.mark.parametrize("charge", ["x1", "of no task"])
def test_a_charge_too_many_is_seen(charge: str) -> None:
    after = replace(_observed().after, charged=["warm-up", "x1", "x2", charge])
    assert calculate(_observed(after=after)).paid_twice == 1


def test_an_unfinished_task_is_lost_and_makes_the_last_start_unknown() -> None:
    waiting = TaskStory(created=BEGAN)
    waiting.tell(_event(2, 1, VideoTask.QUEUED, BEGAN))
    figures = calculate(_observed(stories=[_story(1, start=2), waiting]))
    assert (figures.finished, figures.lost) == (1, 1)
    assert figures.last_start_seconds is None
    assert not is_dependable(figures)


def test_a_skipped_or_repeated_event_is_a_gap() -> None:
    story = TaskStory(created=BEGAN)
    for revision in (1, 3, 3):
        story.tell(_event(1, revision, VideoTask.SUBMITTING, BEGAN))
    assert story.gaps == 2


def _met(scenario: str, figures: Figures) -> dict[str, bool]:
    return {verdict.name: verdict.met for verdict in judge(scenario, figures)}


def test_aims_are_met_up_to_their_limits_and_missed_without_a_figure() -> None:
    figures = calculate(_observed())
    paced = replace(figures, create_ms=Spread(1, 5.0, 5.0, 5.0, 5.0), cpu_ms_per_task=150.1)
    assert _met("paced", paced) == {
        "create, p50": True,
        "CPU per task": False,
        "paid twice": True,
        "lost": True,
        "gaps in the watch": True,
    }
    burst = replace(figures, last_start_seconds=None, cpu_ms_per_task=30.0)
    assert (_met("burst", burst)["last start"], _met("burst", burst)["CPU per task"]) == (False, True)
