from __future__ import annotations

import json

import pytest
from sqlalchemy import update

from kling_flows.errors import VideoTaskFinal, VideoTaskNotFound
from kling_flows.ledger import ACTIVE_STATES, FINAL_STATES, TRANSITIONS, Ledger, State
from kling_flows.ledger.schema import video_tasks

from .make import lease, task, to, upstream

ALLOWED = [(before, after) for before in State for after in sorted(TRANSITIONS[before])]
FORBIDDEN = [
    (before, after)
    for before in State
    for after in State
    if after is not before and after not in TRANSITIONS[before] and not before.final
]
FROM_FINAL = [(before, after) for before in sorted(FINAL_STATES) for after in State if after is not before]


def test_every_state_has_its_transitions_and_only_the_final_ones_have_none() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {state for state, following in TRANSITIONS.items() if not following} == FINAL_STATES
    assert set(State) - FINAL_STATES - {State.UNRESOLVED} == ACTIVE_STATES


def test_every_state_can_be_reached_and_every_open_one_can_fail_be_cancelled_or_expire() -> None:
    reached = {State.QUEUED}.union(*TRANSITIONS.values())
    assert reached == set(State)
    for state in set(State) - FINAL_STATES:
        assert TRANSITIONS[state] >= {State.FAILED, State.CANCELLED, State.EXPIRED}


async def test_every_allowed_transition_is_the_next_event(ledger: Ledger) -> None:
    for before, after in ALLOWED:
        name = f"{before}-{after}".lower()
        await ledger.create(task(name, state=before))
        advanced = await ledger.advance(name, to(after))
        assert (advanced.state, advanced.revision) == (after, 2)
        assert advanced == await ledger.get(name)
        assert (advanced.end_time is not None) == after.final


async def test_no_forbidden_transition_leaves_a_trace(ledger: Ledger) -> None:
    for before, after in FORBIDDEN:
        name = f"{before}-{after}".lower()
        created = await ledger.create(task(name, state=before))
        head = await ledger.head()
        with pytest.raises(ValueError, match="cannot be followed by"):
            await ledger.advance(name, to(after))
        assert await ledger.get(name) == created
        assert await ledger.head() == head


async def test_final_states_never_change(ledger: Ledger) -> None:
    for before, after in FROM_FINAL:
        name = f"{before}-{after}".lower()
        created = await ledger.create(task(name, state=before))
        with pytest.raises(VideoTaskFinal) as caught:
            await ledger.advance(name, to(after))
        assert caught.value.metadata == {"video_task": name, "state": before.value}
        assert await ledger.get(name) == created


@pytest.mark.parametrize("state", State)
async def test_facts_can_be_added_in_every_state(ledger: Ledger, state: State) -> None:
    created = await ledger.create(task("t", state=state))
    known = await ledger.advance("t", to(state, upstream=upstream("t", task_id="850")))
    assert (known.state, known.revision) == (state, 2)
    assert known.upstream is not None
    assert known.end_time == created.end_time


async def test_a_change_that_changes_nothing_is_no_event(ledger: Ledger) -> None:
    created = await ledger.create(task("t"))
    assert await ledger.advance("t", lambda before: before) == created
    assert await ledger.head() == 1


async def test_revision_grows_by_one_and_each_event_carries_the_whole_task(ledger: Ledger) -> None:
    path = [State.SUBMITTING, State.SUBMITTED, State.PROCESSING, State.ARCHIVING, State.SUCCEEDED]
    seen = [await ledger.create(task("t", labels={"team": "film"}))]
    seen += [await ledger.advance("t", to(state, upstream=upstream("t", status=state.value))) for state in path]
    history = await ledger.read_history("t")
    assert [event.task for event in history] == seen
    assert [event.task.revision for event in history] == [1, 2, 3, 4, 5, 6]
    assert [event.task.labels for event in history] == [{"team": "film"}] * 6
    assert history == await ledger.read_events(0, 100)


async def test_a_changed_task_is_held_until_it_ends(ledger: Ledger) -> None:
    await ledger.open_lease(lease("r1"))
    await ledger.create(task("t"), runner_id="r1")
    await ledger.advance("t", to(State.SUBMITTING), runner_id="r1")
    assert await ledger.held_by("r1") == {"t"}
    await ledger.advance("t", to(State.UNRESOLVED), runner_id="r1")
    assert await ledger.held_by("r1") == set()


async def test_an_unknown_task_cannot_be_advanced(ledger: Ledger) -> None:
    with pytest.raises(VideoTaskNotFound):
        await ledger.advance("nobody", to(State.FAILED))


async def test_fields_of_a_later_release_are_passed_over(ledger: Ledger) -> None:
    created = await ledger.create(task("t"))
    later = {**json.loads(created.model_dump_json(exclude_defaults=True)), "later": 1}
    await ledger._write(lambda c: c.execute(update(video_tasks).values(document=json.dumps(later))).rowcount)
    assert await ledger.get("t") == created
