"""The filter grammar, and that its two uses agree."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from grpc_server.filtering import TaskFilter, parse_filter
from kling_flows.errors import Violation
from kling_flows.ledger import TRANSITIONS, State, TimeBound

from .rig import Rig, new_record

NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC).timestamp()

GOOD: dict[str, TaskFilter] = {
    "": TaskFilter(),
    "  \n": TaskFilter(),
    "state = SUCCEEDED": TaskFilter(State.SUCCEEDED),
    "state=SUCCEEDED": TaskFilter(State.SUCCEEDED),
    'state = "QUEUED"': TaskFilter(State.QUEUED),
    " state = QUEUED  AND  state = QUEUED ": TaskFilter(State.QUEUED),
    'labels.team = "ads"': TaskFilter(labels=(("team", "ads"),)),
    "labels.team = ads": TaskFilter(labels=(("team", "ads"),)),
    'labels.a.b-c_d = ""': TaskFilter(labels=(("a.b-c_d", ""),)),
    r'labels.a = "say \"hi\" \\ AND x = y"': TaskFilter(labels=(("a", 'say "hi" \\ AND x = y'),)),
    'labels.a = "猫\n"': TaskFilter(labels=(("a", "猫\n"),)),
    "labels.a = 1 AND state = FAILED AND labels.b = 2": TaskFilter(State.FAILED, (("a", "1"), ("b", "2"))),
    "labels.a = 1 AND labels.a = 1": TaskFilter(labels=(("a", "1"),)),
    "tenant = default AND state = QUEUED": TaskFilter(State.QUEUED),
    "labels.state = x": TaskFilter(labels=(("state", "x"),)),
    'model_name = "kling-v3"': TaskFilter(model_name="kling-v3"),
    "model_name=kling-v2-6 AND model_name=kling-v2-6": TaskFilter(model_name="kling-v2-6"),
    'create_time >= "2026-11-01T00:00:00Z"': TaskFilter(times=(TimeBound("create_time", ">=", NOVEMBER),)),
    "create_time<2026-11-01T01:00:00+01:00": TaskFilter(times=(TimeBound("create_time", "<", NOVEMBER),)),
    'end_time > "2026-11-01T00:00:00.25Z" AND end_time <= "2026-11-01T00:00:00Z"': TaskFilter(
        times=(TimeBound("end_time", ">", NOVEMBER + 0.25), TimeBound("end_time", "<=", NOVEMBER))
    ),
    'labels.end_time = "2026" AND model_name = x AND state = FAILED AND create_time < 2026-11-01T00:00:00Z': TaskFilter(
        State.FAILED, (("end_time", "2026"),), "x", (TimeBound("create_time", "<", NOVEMBER),)
    ),
}


@pytest.mark.parametrize(("text", "expected"), GOOD.items(), ids=[repr(text) for text in GOOD])
def test_conditions_are_read(text: str, expected: TaskFilter) -> None:
    assert parse_filter(text, "default") == expected


@pytest.mark.parametrize(
    "text",
    [
        "state = QUEUED AND state = FAILED",
        "labels.a = 1 AND labels.a = 2",
        "model_name = a AND model_name = b",
        "tenant = default AND tenant = b",
        "tenant = b",
    ],
)
def test_conditions_that_contradict_each_other_or_name_another_tenant_match_nothing(text: str) -> None:
    selected = parse_filter(text, "default")

    assert isinstance(selected, TaskFilter)
    assert selected.nothing
    assert not any(
        selected.matches(new_record("v", labels={"a": value}).model_copy(update={"state": state}))
        for value, state in itertools.product("12", State)
    )


BAD = [
    "state",
    "state =",
    "state = QUEUED AND",
    "state = QUEUED OR state = FAILED",
    "state = QUEUED, state = FAILED",
    "state = QUEUED and labels.a = 1",
    "state = QUEUEDAND labels.a = 1",
    "AND state = QUEUED",
    "state != QUEUED",
    "state > QUEUED",
    "state: QUEUED",
    "NOT state = QUEUED",
    "(state = QUEUED)",
    "state = queued",
    "state = RUNNING",
    "labels = x",
    "labels. = x",
    "labels.Team = x",
    f"labels.{'k' * 64} = x",
    'labels.a = "x',
    "labels.a = 'x'",
    'labels.a = "x" "y"',
    "name = v-1",
    "model_name > a",
    "model_name",
    "model = x",
    'create_time = "2026-11-01T00:00:00Z"',
    'create_time == "2026-11-01T00:00:00Z"',
    'create_time >= "2026-11-01"',
    'create_time >= "2026-11-01T00:00:00"',
    'create_time >= "yesterday"',
    "create_time > 5",
    'update_time > "2026-11-01T00:00:00Z"',
    'end_time => "2026-11-01T00:00:00Z"',
    'end_time > "2026-13-01T00:00:00Z"',
    'end_time > "99999-01-01T00:00:00Z"',
    "x" * 100_000,
    'labels.a = "' + "\\" * 100_001,
    " AND ".join(f"labels.k{number} = x" for number in range(41)),
]


@pytest.mark.parametrize("text", BAD, ids=[text[:30] for text in BAD])
def test_anything_else_is_refused_with_what_can_be_said(text: str) -> None:
    violation = parse_filter(text, "default")

    assert isinstance(violation, Violation)
    assert violation.field == "filter"
    assert any(help_ in violation.message for help_ in ("for example", "SUCCEEDED", "40"))
    assert len(violation.message) < 300


async def test_the_ledger_and_memory_select_the_same_tasks(rig: Rig) -> None:
    ledger = await rig.open_ledger()
    tasks = [
        new_record(f"v-{state.value.lower()}-{len(labels)}", labels=labels).model_copy(update={"state": state})
        for state in State
        for labels in ({}, {"a": "1"}, {"a": "1", "b": "2"})
    ]
    for number, task in enumerate(tasks):
        when = task.create_time + timedelta(microseconds=number)
        ended = when + timedelta(seconds=number) if task.state.final else None
        request = task.request.model_copy(update={"model_name": f"model-{number % 3}"})
        tasks[number] = task.model_copy(update={"create_time": when, "end_time": ended, "request": request})
        await ledger.create(tasks[number])
    texts = ["labels.a = 1", "labels.a = 1 AND state = QUEUED", "labels.b = 2", "labels.a = 2", "model_name = model-1"]
    ended_at = next(task.end_time for task in tasks if task.end_time)
    for comparison in ("<", "<=", ">", ">="):
        texts.append(f'create_time {comparison} "{tasks[7].create_time.isoformat()}"')
        texts.append(f'end_time {comparison} "{ended_at.isoformat()}" AND model_name = model-1')
        texts.append(f'end_time {comparison} "{ended_at.isoformat()}" AND state = FAILED')
    for text in (*GOOD, *texts):
        selected = parse_filter(text, "default")
        assert isinstance(selected, TaskFilter)
        rows = await ledger.list_tasks(tenant="default", **selected.query)
        assert {task.id for _, task in rows} == {task.id for task in tasks if selected.matches(task)}


def test_a_task_may_have_left_a_state_exactly_if_the_next_can_follow_it() -> None:
    for before, after in itertools.product(State, State):
        task = new_record("v").model_copy(update={"state": after})
        assert TaskFilter(before).may_have_left(task) is (after in TRANSITIONS[before])
    assert not TaskFilter().may_have_left(new_record("v"))
    ended = TaskFilter(State.QUEUED, times=(TimeBound("end_time", ">", 0.0),))
    assert not ended.may_have_left(
        new_record("v").model_copy(update={"state": State.FAILED, "end_time": datetime.now(UTC)})
    )
    assert not TaskFilter(State.QUEUED, (("a", "1"),)).may_have_left(
        new_record("v").model_copy(update={"state": State.SUBMITTING})
    )
