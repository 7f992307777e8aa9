from __future__ import annotations

import asyncio
import time

import pytest

from kling_flows.errors import CallbackDeliveryNotFound
from kling_flows.ledger import ArtifactRecord, DeliveryState, Ledger, State, VideoTask, token_digest
from kling_flows.upstream import TextToVideoRequest

from .conftest import OpenLedger
from .make import lease, task, upstream

DIGEST = token_digest("a token")


def _called(name: str, **fields: object) -> VideoTask:
    request = TextToVideoRequest(prompt="a cup", callback_url="https://caller.example/hook?secret=1")
    return task(name, request=request, **fields)


async def _hold(ledger: Ledger, name: str = "t") -> VideoTask:
    await ledger.open_lease(lease("run-1"))
    created = await ledger.create(task(name), runner_id="run-1")
    return await ledger.advance_and_expect(
        created.id,
        lambda t: t.model_copy(update={"state": State.SUBMITTING, "upstream": upstream(name)}),
        runner_id="run-1",
        callback_digest=DIGEST,
    )


async def _move(ledger: Ledger, name: str, state: State, **fields: object) -> VideoTask:
    return await ledger.advance(name, lambda t: t.model_copy(update={"state": state, **fields}))


async def test_a_hint_is_known_from_the_intent_on(ledger: Ledger) -> None:
    assert not await ledger.is_expected(DIGEST)
    assert not await ledger.note_hint(DIGEST, "w-1", urgent=True)
    await _hold(ledger)
    assert await ledger.is_expected(DIGEST)
    assert not await ledger.is_hinted("t")
    assert await ledger.note_hint(DIGEST, "w-1", urgent=True)
    assert await ledger.is_hinted("t")


async def test_a_hint_that_does_not_speak_of_the_end_is_none_of_the_end(ledger: Ledger) -> None:
    await _hold(ledger)
    assert await ledger.note_hint(DIGEST, "w-1", urgent=False)
    assert not await ledger.is_hinted("t")


async def test_a_repeated_callback_is_kept_once(ledger: Ledger) -> None:
    await _hold(ledger)
    for _ in range(3):
        assert await ledger.note_hint(DIGEST, "w-1", urgent=True)
    position, hints = await ledger.read_hints(0, "run-1")
    assert [(hint.task.id, hint.urgent) for hint in hints] == [("t", True)]
    assert await ledger.read_hints(position, "run-1") == (position, [])


async def test_a_runner_reads_the_hints_of_its_own_tasks_only(open_ledger: OpenLedger) -> None:
    mine, other = await open_ledger(), await open_ledger()
    await _hold(mine)
    changes = mine.changes_by_others()
    assert await other.note_hint(DIGEST, "w-1", urgent=True)
    assert await changes.wait(10)
    position, hints = await mine.read_hints(0, "run-2")
    assert (position, hints) == (await mine.last_hint(), [])


async def test_old_hints_are_forgotten(ledger: Ledger) -> None:
    await _hold(ledger)
    await ledger.note_hint(DIGEST, "w-1", urgent=True)
    assert await ledger.prune_hints(time.time() - 60) == 0
    assert await ledger.prune_hints(time.time() + 60) == 1
    assert not await ledger.is_hinted("t")


async def test_the_token_itself_is_nowhere_in_the_ledger(ledger: Ledger) -> None:
    await _hold(ledger)
    assert "a token" not in str(await ledger.read_history("t"))


async def test_each_state_of_a_task_that_names_an_address_is_delivered_in_order(ledger: Ledger) -> None:
    await ledger.create(_called("t"))
    await _move(ledger, "t", State.SUBMITTING)
    # Not a new state.
    await _move(ledger, "t", State.SUBMITTING, typical_seconds=9.0)
    await _move(ledger, "t", State.FAILED)
    told: list[State] = []
    while await ledger.next_delivery_time() is not None:
        (delivery,) = await ledger.claim_deliveries(10, 60)
        told.append(delivery.task.state)
        # It is taken, and the later ones wait for it.
        assert await ledger.claim_deliveries(10, 60) == []
        assert await ledger.settle_delivery(delivery, DeliveryState.DELIVERED)
    assert told == [State.QUEUED, State.SUBMITTING, State.FAILED]


async def test_a_video_that_comes_after_the_end_is_delivered_too(ledger: Ledger) -> None:
    await ledger.create(_called("t"))
    await _move(ledger, "t", State.EXPIRED)
    file = ArtifactRecord(
        kind="VIDEO", uri="file:///v", manifest_uri="file:///m", size_bytes=1, sha256="00", media_type="video/mp4"
    )
    await _move(ledger, "t", State.EXPIRED, artifacts=(file,))
    assert len(await ledger.list_deliveries("default", limit=10)) == 3


async def test_nothing_is_delivered_for_a_task_without_an_address(ledger: Ledger) -> None:
    await ledger.create(task("t"))
    assert await ledger.next_delivery_time() is None


async def test_a_dead_delivery_lets_the_next_one_go(ledger: Ledger) -> None:
    await ledger.create(_called("t"))
    await _move(ledger, "t", State.CANCELLED)
    (first,) = await ledger.claim_deliveries(10, 60)
    await ledger.settle_delivery(first, DeliveryState.DEAD, last_error="410")
    (second,) = await ledger.claim_deliveries(10, 60)
    assert second.task.state is State.CANCELLED


async def test_a_delivery_whose_runner_died_is_taken_again_and_its_late_outcome_ignored(ledger: Ledger) -> None:
    await ledger.create(_called("t"))
    (lost,) = await ledger.claim_deliveries(10, 0)
    (again,) = await ledger.claim_deliveries(10, 60)
    assert (lost.id, lost.attempts, again.attempts) == (again.id, 1, 2)
    assert not await ledger.settle_delivery(lost, DeliveryState.DEAD)
    assert await ledger.settle_delivery(again, DeliveryState.DELIVERED)


async def test_what_was_never_tried_goes_before_what_failed(ledger: Ledger) -> None:
    await ledger.create(_called("bad"))
    (bad,) = await ledger.claim_deliveries(10, 60)
    await ledger.settle_delivery(bad, DeliveryState.PENDING, next_time=time.time() - 100)
    await ledger.create(_called("good"))
    (first,) = await ledger.claim_deliveries(1, 60)
    assert first.task.id == "good"


async def test_two_runners_never_take_the_same_delivery(open_ledger: OpenLedger) -> None:
    one, two = await open_ledger(), await open_ledger()
    for number in range(20):
        await one.create(_called(f"t{number}"))
    taken = await asyncio.gather(*(ledger.claim_deliveries(20, 60) for ledger in (one, two)))
    ids = [delivery.id for part in taken for delivery in part]
    assert len(ids) == len(set(ids)) == 20


async def test_deliveries_are_listed_newest_first_and_to_their_own_tenant(ledger: Ledger) -> None:
    await ledger.create(_called("a"))
    await ledger.create(_called("b"))
    await ledger.create(_called("c", tenant="other"))
    listed = await ledger.list_deliveries("default", limit=10)
    assert [delivery.task.id for delivery in listed] == ["b", "a"]
    assert [d.task.id for d in await ledger.list_deliveries("default", before_id=listed[0].id, limit=10)] == ["a"]
    assert [d.task.id for d in await ledger.list_deliveries("default", task_id="a", limit=10)] == ["a"]
    assert await ledger.list_deliveries("default", state=DeliveryState.DEAD, limit=10) == []


async def test_a_dead_delivery_can_begin_anew(ledger: Ledger) -> None:
    await ledger.create(_called("t"))
    (delivery,) = await ledger.claim_deliveries(10, 60)
    await ledger.settle_delivery(delivery, DeliveryState.DEAD, last_error="the answer was 410")
    again = await ledger.retry_delivery("default", delivery.id)
    assert (again.state, again.attempts) == (DeliveryState.PENDING, 0)
    # Any other one is answered as it is.
    assert await ledger.retry_delivery("default", delivery.id) == again
    for tenant, number in (("other", delivery.id), ("default", 99)):
        with pytest.raises(CallbackDeliveryNotFound):
            await ledger.retry_delivery(tenant, number)


async def test_about_the_shortest_duration_is_learned_and_forgotten_slowly(ledger: Ledger) -> None:
    assert await ledger.read_shortest("k") is None

    async def learn(seconds: float) -> None:
        await ledger.advance_and_learn("t", lambda t: t, runner_id="run-1", key="k", seconds=seconds)

    await _hold(ledger)
    for seconds in (30.0, 10.0, 40.0):
        await learn(seconds)
    shortest = await ledger.read_shortest("k")
    assert shortest is not None
    assert shortest[0] == pytest.approx(10.0, abs=0.2)
    assert shortest[1] == 3
    for _ in range(300):
        await learn(40.0)
    shortest = await ledger.read_shortest("k")
    assert shortest is not None
    assert 20 < shortest[0] < 40
