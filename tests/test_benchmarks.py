"""What the benchmarks calculate; nothing is started."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from benchmarks.aims import is_dependable, judge, judge_scale
from benchmarks.books import Books
from benchmarks.figures import Figures, Observed, Spread, calculate, percentile
from benchmarks.meter import Role, Sample
from benchmarks.plain import PlainObserved
from benchmarks.scale.cells import CELLS
from benchmarks.scale.figures import CellObserved, Look, Moment, ScaleFigures, StepObserved, calculate_cell
from benchmarks.scale.report import show, show_steps
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


def _moment(at: float, cpu: float, rss: int = 100) -> Moment:
    return Moment(BEGAN + at, {"runner": cpu, "postgres": cpu / 4}, {"runner": rss * MIB})


def _accepted(number: int, at: float, after: float) -> TaskStory:
    story = TaskStory(created=BEGAN + at)
    for revision, (state, seconds) in enumerate(
        ((VideoTask.QUEUED, 0.0), (VideoTask.SUBMITTING, after / 2), (VideoTask.SUBMITTED, after)), start=1
    ):
        story.tell(_event(number, revision, state, story.created + seconds))
    story.tell(_event(number, 4, VideoTask.SUCCEEDED, BEGAN + 90, artifacts=[Artifact(uri="file:///v.mp4")]))
    return story


def _scale_observed(**changed: Any) -> CellObserved:
    """Two tasks alone, 38 more, then 40 more; looks at all of them every 3 s; idle takes 0.01 s of CPU a second."""
    alone = [_accepted(number, 4.0 * number, 2.0) for number in range(2)]
    first = [*alone, *(_accepted(number, 10.0 + number % 4, 4.0) for number in range(2, 40))]
    second = [_accepted(number, 30.0 + number % 4, 4.0) for number in range(40, 80)]
    looks = [Look(BEGAN + 20 + at / 2, 2 * (at // 6), {"runner": 110 * MIB}) for at in range(24)]
    looks += [Look(BEGAN + 50 + at / 2, 8 + 4 * (at // 6), {"runner": 130 * MIB}) for at in range(24)]
    externals = [story.external_task_id for story in (*first, *second)]
    observed = CellObserved(
        cell=replace(CELLS[0], steps=(40, 80), poll_interval=3.0),
        stories=[*second, *first],
        created=80,
        alone=2,
        idle=_moment(-5, 0.96),
        began=_moment(0, 1.0),
        steps=[
            StepObserved(40, 40, _moment(10, 1.08), _moment(18, 3.08), _moment(20, 3.1), _moment(32, 4.1, 110)),
            StepObserved(80, 80, _moment(33, 4.2), _moment(41, 6.2), _moment(50, 6.3), _moment(62, 8.2, 120)),
        ],
        ended=_moment(100, 9.0),
        looks=looks,
        before=Books(calls={}, charged=["warm-up"], finished={}),
        after=Books(calls={}, charged=["warm-up", *externals], finished={}),
    )
    return replace(observed, **changed)


def test_a_step_starts_after_those_before_it_and_without_those_that_were_alone() -> None:
    cell = calculate_cell(_scale_observed())
    assert cell.idle_start_seconds == Spread(2, 1.0, 1.0, 1.0, 1.0)
    assert [step.starts_per_second for step in cell.steps] == [38 / 7, 40 / 7]
    assert cell.starts_per_second == 78 / 14
    assert cell.steps[1].start_cpu_ms == {"runner": pytest.approx(50.0), "postgres": pytest.approx(12.5)}


def test_a_task_that_the_provider_never_had_makes_starts_unknown() -> None:
    waiting = TaskStory(created=BEGAN + 35)
    waiting.tell(_event(999, 1, VideoTask.QUEUED, waiting.created))
    seen = _scale_observed()
    cell = calculate_cell(replace(seen, stories=[*list(seen.stories)[1:], waiting]))
    assert (cell.finished, cell.lost, cell.starts_per_second) == (79, 1, None)


def test_what_waiting_costs_is_without_what_idling_costs() -> None:
    cell = calculate_cell(_scale_observed())
    assert cell.idle_cpu_per_second["runner"] == pytest.approx(0.008)
    assert cell.steps[0].waiting_cpu_per_second["runner"] == pytest.approx(1.0 / 12 - 0.008)
    assert cell.cpu_ms_per_task == {"runner": pytest.approx(100.0), "postgres": pytest.approx(25.0)}


def test_memory_is_that_of_the_step_and_at_most_that_of_any_look() -> None:
    cell = calculate_cell(_scale_observed())
    assert [step.rss_kib_per_task["runner"] for step in cell.steps] == [256.0, 256.0]
    assert (cell.rss_before_mib["runner"], cell.rss_most_mib["runner"]) == (100.0, 130.0)
    assert cell.growth["memory"] == pytest.approx(1.0)


def test_calls_per_tick_are_flat_if_twenty_tasks_share_each() -> None:
    cell = calculate_cell(_scale_observed())
    assert [step.calls_per_tick_and_batch for step in cell.steps] == pytest.approx([1.0, 1.0], rel=0.1)
    assert cell.growth["upstream calls per tick"] == pytest.approx(1.0)
    assert cell.reads_per_task == pytest.approx(20 / 80)


def test_a_step_from_which_tasks_are_missing_says_so() -> None:
    seen = _scale_observed()
    first, second = seen.steps
    cell = calculate_cell(replace(seen, steps=[first, replace(second, in_flight=79)]))
    console = Console(file=StringIO(), width=200)
    show_steps(console, cell)
    show(console, [cell, replace(cell, name="another", growth={}, idle_start_seconds=None)])
    assert isinstance(console.file, StringIO)
    assert "79 of 80" in console.file.getvalue()


def test_the_load_of_a_cell_shrinks_step_by_step_and_never_grows() -> None:
    [cell, *_] = CELLS
    assert cell.steps == (500, 1_000, 2_000, 5_000)
    assert cell.changed(tasks=50).steps == (5, 10, 20, 50)
    assert cell.changed(tasks=3).steps == (1, 3)
    assert cell.changed(tasks=10_000, poll_interval=1.0) == replace(cell, poll_interval=1.0)


def test_each_cell_of_scale_is_judged_by_itself() -> None:
    cell = calculate_cell(_scale_observed())
    growth = {**cell.growth, "memory": 1.2, "CPU of all starts": None}
    postgres = replace(cell, name="PostgreSQL, in-process", starts_per_second=14.9, growth=growth, gaps=1)
    slow = replace(cell, name="SQLite, work-pool", idle_start_seconds=Spread(1, 1.1, 1.1, 1.1, 1.1), tasks=81)
    verdicts = judge_scale(ScaleFigures([cell, postgres, slow]))
    assert {verdict.name for verdict in verdicts if not verdict.met} == {
        "PostgreSQL, in-process: growth of memory",
        "PostgreSQL, in-process: growth of CPU of all starts",
        "PostgreSQL, in-process: time per start",
        "PostgreSQL, in-process: gaps in the watch",
        "SQLite, work-pool: not in flight with the others",
        "SQLite, work-pool: start on an idle system, p50",
    }
    assert [is_dependable(one) for one in (cell, postgres, slow)] == [True, False, True]
