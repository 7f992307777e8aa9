from __future__ import annotations

import asyncio
import time

import pytest

from kling_flows.errors import LeaseLost, VideoTaskNotFound
from kling_flows.ledger import FINAL_STATES, Ledger, State

from .conftest import OpenLedger
from .make import lease, task, to


@pytest.fixture
async def ledger(ledger: Ledger) -> Ledger:
    for runner in ("r1", "r2"):
        await ledger.open_lease(lease(runner))
    return ledger


async def _fill(ledger: Ledger, number: int) -> list[str]:
    names = [f"t-{n:03}" for n in range(number)]
    await asyncio.gather(*(ledger.create(task(name)) for name in names))
    return [found.id for _, found in reversed(await ledger.list_tasks(tenant="default"))]


async def test_each_task_is_claimed_by_exactly_one_runner(ledger: Ledger, open_ledger: OpenLedger) -> None:
    names = await _fill(ledger, 200)
    other = await open_ledger()

    async def claim_all(which: Ledger, runner: str) -> list[str]:
        mine: list[str] = []
        while claimed := await which.claim(runner, 3):
            mine.extend(found.id for found in claimed)
        return mine

    shares = await asyncio.gather(*(claim_all(*claimer) for claimer in ((ledger, "r1"), (other, "r2")) * 3))
    claimed = [name for share in shares for name in share]
    assert sorted(claimed) == sorted(names)
    assert await ledger.held_by("r1") == {name for share in shares[::2] for name in share}
    assert await ledger.held_by("r2") == {name for share in shares[1::2] for name in share}


async def test_the_oldest_is_claimed_first(ledger: Ledger) -> None:
    names = await _fill(ledger, 6)
    assert [found.id for found in await ledger.claim("r1", 4)] == names[:4]
    assert [found.id for found in await ledger.claim("r2", 4)] == names[4:]


@pytest.mark.parametrize("state", State)
async def test_only_what_a_runner_can_carry_is_claimed(ledger: Ledger, state: State) -> None:
    await ledger.create(task("t", state=state))
    carried = state not in FINAL_STATES and state is not State.UNRESOLVED
    assert (await ledger.claimable_from() is not None) == carried
    assert bool(await ledger.claim("r1", 10)) == carried


async def test_what_somebody_holds_is_not_claimed(ledger: Ledger) -> None:
    await ledger.create(task("t"), runner_id="r1")
    assert await ledger.claim("r2", 10) == []
    assert await ledger.claimable_from() is None
    with pytest.raises(LeaseLost):
        await ledger.claim_one("t", "r2")
    assert (await ledger.claim_one("t", "r1")).id == "t"


async def test_one_task_can_be_claimed_by_name(ledger: Ledger) -> None:
    await _fill(ledger, 2)
    assert (await ledger.claim_one("t-001", "r2")).id == "t-001"
    assert await ledger.held_by("r2") == {"t-001"}
    with pytest.raises(VideoTaskNotFound):
        await ledger.claim_one("nobody", "r2")


async def test_a_final_task_is_shown_and_not_taken(ledger: Ledger) -> None:
    await ledger.create(task("t", state=State.SUCCEEDED))
    assert (await ledger.claim_one("t", "r1")).state is State.SUCCEEDED
    assert await ledger.held_by("r1") == set()


async def test_a_runner_without_a_lease_takes_nothing(ledger: Ledger) -> None:
    # Stopped for so long that its peers have ended its lease, it could hold a task that nobody would ever free.
    await ledger.create(task("t"))
    await ledger.end_lease("r1")
    assert await ledger.claim("r1", 10) == []
    with pytest.raises(LeaseLost):
        await ledger.claim_one("t", "r1")
    await ledger.create(task("u"), runner_id="r1")
    assert [found.id for found in await ledger.claim("r2", 10)] == ["t", "u"]


@pytest.mark.parametrize("holder", ["r2", None])
async def test_who_does_not_hold_a_task_writes_nothing(ledger: Ledger, holder: str | None) -> None:
    created = await ledger.create(task("t"), runner_id=holder)
    with pytest.raises(LeaseLost):
        await ledger.advance("t", to(State.SUBMITTING), runner_id="r1")
    assert await ledger.get("t") == created
    assert await ledger.head() == 1
    assert await ledger.held_by("r2") == ({"t"} if holder else set())


async def test_the_end_of_a_task_ends_its_holding(ledger: Ledger) -> None:
    await ledger.create(task("t"), runner_id="r1")
    await ledger.advance("t", to(State.CANCELLED))
    assert await ledger.held_by("r1") == set()
    with pytest.raises(LeaseLost):
        await ledger.advance("t", to(State.CANCELLED), runner_id="r1")


async def test_a_lease_that_ends_frees_what_it_holds(ledger: Ledger) -> None:
    names = await _fill(ledger, 3)
    await ledger.claim("r1", 2)
    await ledger.claim("r2", 1)
    assert await ledger.end_lease("r1") == 2
    assert [found.runner_id for found in await ledger.read_leases()] == ["r2"]
    assert [found.id for found in await ledger.claim("r2", 10)] == names[:2]
    assert await ledger.end_lease("r1") == 0


async def test_a_renewed_lease_is_not_ended_by_an_older_look(ledger: Ledger) -> None:
    await ledger.create(task("t"), runner_id="r1")
    assert await ledger.renew_lease("r1")
    assert await ledger.end_lease("r1", beat=0) == 0
    assert await ledger.held_by("r1") == {"t"}
    assert await ledger.end_lease("r1", beat=1) == 1
    assert not await ledger.renew_lease("r1")


async def test_what_was_given_back_waits_its_time(ledger: Ledger) -> None:
    await _fill(ledger, 2)
    await ledger.claim("r1", 10)
    began = time.time()
    await ledger.release_after(["t-000", "t-001"], "r1", 0.4)
    claimable_from = await ledger.claimable_from()
    assert claimable_from is not None
    assert began + 0.4 <= claimable_from <= time.time() + 0.4
    assert await ledger.held_by("r1") == set()
    while not (claimed := await ledger.claim("r2", 10)):
        await asyncio.sleep(0.01)
    assert time.time() >= claimable_from
    assert len(claimed) == 2


async def test_what_was_given_back_can_be_asked_for_by_name_at_once(ledger: Ledger) -> None:
    await ledger.create(task("t"), runner_id="r1")
    await ledger.release_after(["t"], "r1", 3600)
    assert await ledger.claim("r2", 10) == []
    assert (await ledger.claim_one("t", "r2")).id == "t"


async def test_news_of_a_task_end_its_pause(ledger: Ledger) -> None:
    await ledger.create(task("t", state=State.SUBMITTING), runner_id="r1")
    await ledger.release_after(["t"], "r1", 3600)
    await ledger.advance("t", to(State.SUBMITTED))
    assert await ledger.claimable_from() == 0.0
    assert [found.id for found in await ledger.claim("r2", 10)] == ["t"]


async def test_what_another_holds_is_not_given_back(ledger: Ledger) -> None:
    await ledger.create(task("t"), runner_id="r2")
    await ledger.release_after(["t"], "r1", 0)
    assert await ledger.held_by("r2") == {"t"}
