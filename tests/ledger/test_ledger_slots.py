from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from kling_flows.ledger import LateVideo, Ledger, State, VideoTask, holds_slot, slot_of
from kling_flows.ledger import slots as module
from kling_flows.ledger.line import read_groups
from kling_flows.ledger.schema import slot_limits, video_tasks
from kling_flows.ledger.slots import RISE_SECONDS, slot_until
from kling_flows.upstream import TextToVideoRequest

from .conftest import OpenLedger
from .make import lease, task, to, upstream

NOW = datetime.now(UTC)
SLOT = slot_of("a", "kling-v3")


@pytest.fixture
async def ledger(ledger: Ledger) -> Ledger:
    for runner in ("r1", "r2"):
        await ledger.open_lease(lease(runner))
    return ledger


async def _create(ledger: Ledger, *names: str, **fields: Any) -> None:
    for name in names:
        await ledger.create(task(name, account="a", **fields))


async def _claim(ledger: Ledger, slots: int | None, limit: int = 100, runner: str = "r1") -> list[str]:
    return [found.id for found in await ledger.claim(runner, limit, account="a", slots=slots)]


async def _start(ledger: Ledger, slots: int | None) -> float | None:
    return await ledger.claimable_from(account="a", slots=slots)


async def _slots(ledger: Ledger) -> dict[str, str]:
    query = select(video_tasks.c.id, video_tasks.c.slot).where(video_tasks.c.slot.is_not(None))
    return await ledger._read(lambda c: {row.id: row.slot for row in c.execute(query)})


async def _at_provider(ledger: Ledger, name: str) -> None:
    sent = upstream(name, account="a", task_id="1", submit_time=datetime.now(UTC))
    for state in (State.SUBMITTING, State.SUBMITTED, State.PROCESSING):
        await ledger.advance(name, to(state, upstream=sent))


async def _end(ledger: Ledger, name: str) -> None:
    def change(before: VideoTask) -> VideoTask:
        assert before.upstream is not None
        ended = before.upstream.model_copy(update={"end_time": datetime.now(UTC), "status": "succeed"})
        return before.model_copy(update={"state": State.ARCHIVING, "upstream": ended})

    await ledger.advance(name, change)


@pytest.mark.parametrize(
    ("fields", "holds"),
    [
        ({"state": State.QUEUED}, True),
        ({"state": State.SUBMITTING, "upstream": upstream("t", outcome_unknown=True)}, True),
        ({"state": State.SUBMITTING, "upstream": upstream("t")}, True),
        ({"state": State.PROCESSING, "upstream": upstream("t", task_id="1")}, True),
        ({"state": State.UNRESOLVED, "upstream": upstream("t", outcome_unknown=True)}, True),
        ({"state": State.ARCHIVING, "upstream": upstream("t", task_id="1", end_time=NOW)}, False),
        ({"state": State.SUCCEEDED, "upstream": upstream("t", task_id="1", end_time=NOW)}, False),
        ({"state": State.FAILED, "upstream": upstream("t", task_id="1", end_time=NOW)}, False),
        ({"state": State.FAILED, "upstream": upstream("t")}, False),
        ({"state": State.FAILED, "upstream": upstream("t", outcome_unknown=True)}, True),
        ({"state": State.CANCELLED}, False),
        ({"state": State.CANCELLED, "upstream": upstream("t")}, False),
        ({"state": State.CANCELLED, "upstream": upstream("t", task_id="1")}, True),
        ({"state": State.EXPIRED, "video_pending": True, "upstream": upstream("t", task_id="1")}, True),
        ({"state": State.EXPIRED, "video_pending": True, "upstream": upstream("t", task_id="1", end_time=NOW)}, False),
    ],
)
def test_a_place_is_held_until_the_end_at_the_provider(fields: dict[str, Any], holds: bool) -> None:
    assert holds_slot(task("t", **fields)) is holds


def test_what_nobody_follows_holds_its_place_for_an_estimated_time() -> None:
    sent = upstream("t", task_id="1", submit_time=NOW)
    assert slot_until(task("t", state=State.PROCESSING, upstream=sent)) is None
    assert slot_until(task("t", state=State.CANCELLED, upstream=sent, video_pending=True)) is None
    discarded = task("t", state=State.CANCELLED, upstream=sent, typical_seconds=90.0)
    assert slot_until(discarded) == NOW.timestamp() + 180


async def test_no_more_are_claimed_than_there_are_places(ledger: Ledger) -> None:
    await _create(ledger, "t-1", "t-2", "t-3")
    assert await _claim(ledger, 2) == ["t-1", "t-2"]
    assert await _slots(ledger) == {"t-1": SLOT, "t-2": SLOT}
    assert await _claim(ledger, 2, runner="r2") == []
    assert (await ledger.get("t-3")).state is State.QUEUED


async def test_each_model_has_places_of_its_own(ledger: Ledger) -> None:
    await _create(ledger, "t-1", "t-2")
    await _create(ledger, "u-1", "u-2", request=TextToVideoRequest(prompt="a", model_name="kling-v2-6"))
    assert await _claim(ledger, 1) == ["t-1", "u-1"]
    assert await _start(ledger, 1) == math.inf


async def test_what_waits_for_a_place_cannot_be_claimed_yet(ledger: Ledger) -> None:
    assert await _start(ledger, 1) is None
    await _create(ledger, "t-1", "t-2")
    assert await _start(ledger, 1) == 0.0
    await _claim(ledger, 1)
    assert await _start(ledger, 1) == math.inf
    assert await _start(ledger, 2) == 0.0
    assert await _start(ledger, None) == 0.0


async def test_the_end_at_the_provider_frees_the_place_and_moves_the_line(ledger: Ledger) -> None:
    await _create(ledger, "t-1", "t-2")
    await _claim(ledger, 1)
    await _at_provider(ledger, "t-1")
    line = ledger.line_moves()
    await ledger.advance("t-1", lambda before: before.model_copy(update={"typical_seconds": 5.0}))
    assert await _claim(ledger, 1) == []
    assert not await line.wait(0)
    await _end(ledger, "t-1")
    assert await line.wait(20)
    assert await _slots(ledger) == {}
    assert await _start(ledger, 1) == 0.0
    assert await _claim(ledger, 1) == ["t-2"]


async def test_a_task_that_ends_unsent_gives_its_place_back(ledger: Ledger) -> None:
    await _create(ledger, "t-1", "t-2")
    await _claim(ledger, 1)
    await ledger.advance("t-1", to(State.CANCELLED))
    assert await _claim(ledger, 1) == ["t-2"]


async def test_an_unresolved_task_keeps_its_place(ledger: Ledger) -> None:
    await _create(ledger, "t-1", "t-2")
    await _claim(ledger, 1)
    await ledger.advance("t-1", to(State.SUBMITTING, upstream=upstream("t-1", account="a", outcome_unknown=True)))
    await ledger.advance("t-1", to(State.UNRESOLVED))
    assert await _claim(ledger, 1) == []


async def test_a_discarded_task_occupies_its_place_for_an_estimated_time(ledger: Ledger) -> None:
    await _create(ledger, "t-1", "t-2", "t-3")
    await _claim(ledger, 1)
    await _at_provider(ledger, "t-1")
    await ledger.advance("t-1", to(State.CANCELLED, typical_seconds=60.0))
    assert await _claim(ledger, 1) == []
    # Wanted after all: then its end will be seen.
    await ledger.advance("t-1", lambda before: before.model_copy(update={"video_pending": True}))
    overdue = select(video_tasks.c.slot_until).where(video_tasks.c.id == "t-1")
    assert await ledger._read(lambda c: c.execute(overdue).scalar_one()) is None
    await ledger.advance("t-1", lambda before: before.model_copy(update={"video_pending": False}))
    long_ago = update(video_tasks).where(video_tasks.c.id == "t-1").values(slot_until=time.time() - 1)
    await ledger._write(lambda c: c.execute(long_ago).rowcount)
    assert await _claim(ledger, 1) == ["t-2"]
    assert await _slots(ledger) == {"t-2": SLOT}


async def test_what_was_begun_is_taken_over_whatever_is_free(ledger: Ledger) -> None:
    await _create(ledger, "t-1", "t-2", "t-3")
    await _claim(ledger, 2)
    await _at_provider(ledger, "t-1")
    await ledger.end_lease("r1")
    # The one that was never sent waits again, and for a place like all.
    assert await _slots(ledger) == {"t-1": SLOT}
    assert await _claim(ledger, 1, runner="r2") == ["t-1"]
    assert await _claim(ledger, 2, runner="r2") == ["t-2"]


async def test_what_is_given_back_unsent_gives_its_place_back(ledger: Ledger) -> None:
    await _create(ledger, "t-1", "t-2")
    await _claim(ledger, 1)
    await ledger.release_after(["t-1"], "r1", 3600)
    assert await _claim(ledger, 1) == ["t-2"]


async def test_who_asks_by_name_gets_a_place_beyond_the_limit(ledger: Ledger) -> None:
    await _create(ledger, "t-1", "t-2", "t-3")
    await _claim(ledger, 1)
    await ledger.claim_one("t-3", "r2", account="a")
    await ledger.create(task("t-4", account="a"), runner_id="r2")
    assert await _slots(ledger) == dict.fromkeys(("t-1", "t-3", "t-4"), SLOT)
    assert await _claim(ledger, 3) == []
    assert await _claim(ledger, 4) == ["t-2"]


@pytest.mark.parametrize("slots", [None, 100])
async def test_higher_priorities_go_first_then_the_oldest(ledger: Ledger, slots: int | None) -> None:
    for name, priority in (("t-1", 0), ("t-2", 9), ("t-3", 5), ("t-4", 9), ("t-5", 0)):
        await _create(ledger, name, priority=priority)
    assert await _claim(ledger, slots, limit=4) == ["t-2", "t-4", "t-3", "t-1"]
    assert await _claim(ledger, slots) == ["t-5"]


async def test_tenants_share_the_places(ledger: Ledger) -> None:
    await _create(ledger, *(f"a-{n}" for n in range(10)), tenant="a")
    await _create(ledger, *(f"b-{n}" for n in range(3)), tenant="b")
    await _create(ledger, "c-0", tenant="c")
    assert await _claim(ledger, 6) == ["a-0", "b-0", "c-0", "a-1", "b-1", "a-2"]
    # Whoever holds less is served first.
    for name in ("b-0", "b-1"):
        await ledger.advance(name, to(State.CANCELLED))
    assert await _claim(ledger, 6, limit=1) == ["b-2"]


async def test_a_large_claim_shares_out_more_than_the_first_of_each_tenant(ledger: Ledger) -> None:
    for tenant in "abc":
        await _create(ledger, *(f"{tenant}-{n:02}" for n in range(40)), tenant=tenant)
    claimed = await _claim(ledger, 90, limit=90)
    assert Counter(name[0] for name in claimed) == {"a": 30, "b": 30, "c": 30}
    assert [name for name in claimed if name[0] == "a"] == [f"a-{n:02}" for n in range(30)]


async def test_all_groups_are_found(ledger: Ledger) -> None:
    expected: set[tuple[int, str, str]] = set()
    for number in range(24):
        request = TextToVideoRequest(prompt="a", model_name=("kling-v3", "kling-v2-6")[number % 2])
        fields = {"tenant": f"t{number % 3}", "priority": number % 4}
        await _create(ledger, f"t-{number}", request=request, **fields)
        expected.add((fields["priority"], fields["tenant"], request.model_name))
    groups = await ledger._read(lambda c: read_groups(c))
    assert len(groups) == len(expected)
    assert {tuple(group) for group in groups} == expected
    assert [group.priority for group in groups] == sorted((group.priority for group in groups), reverse=True)


async def test_a_refusal_teaches_how_many_places_there_are(ledger: Ledger) -> None:
    await _create(ledger, *(f"t-{n}" for n in range(6)))
    assert len(await _claim(ledger, None, limit=4)) == 4
    assert await ledger.learn_refusal(SLOT) == 3
    assert await _claim(ledger, None) == []
    start = await _start(ledger, None)
    assert start is not None
    # Two more places than were learned: so many are held already, and one more is wanted.
    assert start == pytest.approx(time.time() + 2 * RISE_SECONDS, abs=20)
    # Another account's places and another model's are not concerned.
    assert len(await ledger.claim("r1", 1, account="b")) == 1


async def test_a_learned_limit_rises_with_time_and_is_forgotten(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _create(ledger, *(f"t-{n}" for n in range(6)))
    await _claim(ledger, None, limit=2)
    assert await ledger.learn_refusal(SLOT) == 1
    past = update(slot_limits).values(change_time=slot_limits.c.change_time - 2 * RISE_SECONDS)
    await ledger._write(lambda c: c.execute(past).rowcount)
    assert await _claim(ledger, None) == ["t-2"]
    assert await _claim(ledger, 2) == []
    monkeypatch.setattr(module, "FORGOTTEN_PLACES", 3)
    assert len(await _claim(ledger, None)) == 3


async def test_what_is_taken_in_as_begun_holds_a_place(ledger: Ledger) -> None:
    await _create(ledger, "t-1", state=State.PROCESSING, upstream=upstream("t-1", account="a", task_id="1"))
    await _create(ledger, "t-2")
    assert await _claim(ledger, 1) == ["t-1"]
    assert await _slots(ledger) == {"t-1": SLOT}


async def test_at_least_one_place_is_left(ledger: Ledger) -> None:
    await _create(ledger, "t-1", "t-2")
    assert await ledger.learn_refusal(SLOT) == 1
    assert await _claim(ledger, None) == ["t-1"]


async def test_two_runners_together_keep_to_the_limit(ledger: Ledger, open_ledger: OpenLedger) -> None:
    await _create(ledger, *(f"t-{n}" for n in range(20)))
    other = await open_ledger()
    shares = await asyncio.gather(
        *(_claim(which, 7, limit=2, runner=runner) for which, runner in ((ledger, "r1"), (other, "r2")) * 5)
    )
    assert sum(map(len, shares)) == 7


async def test_what_is_put_off_does_not_hold_the_others_up(ledger: Ledger) -> None:
    await _create(ledger, "t-1", "t-2")
    await ledger.claim_one("t-1", "r1", account="a")
    await ledger.release_after(["t-1"], "r1", 3600)
    assert await _start(ledger, 5) == 0.0
    assert await _claim(ledger, 5) == ["t-2"]
    start = await _start(ledger, 5)
    assert start == pytest.approx(time.time() + 3600, abs=60)


async def test_a_late_deadline_changes_nothing_for_the_place(ledger: Ledger) -> None:
    await _create(ledger, "t-1", deadline=datetime.now(UTC) + timedelta(hours=1), on_deadline=LateVideo.KEEP_VIDEO)
    await _claim(ledger, 1)
    await _at_provider(ledger, "t-1")
    await ledger.advance("t-1", to(State.EXPIRED, video_pending=True))
    assert await _slots(ledger) == {"t-1": SLOT}
    ended = upstream("t-1", account="a", task_id="1", submit_time=NOW, end_time=NOW)
    await ledger.advance("t-1", lambda before: before.model_copy(update={"upstream": ended}))
    assert await _slots(ledger) == {}
