"""Creates that come at the same time share their statements; nobody notices."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kling_flows.errors import BudgetExceeded, LedgerUnavailable, RequestIdReused, VideoTaskExists
from kling_flows.ledger import Creation, Ledger, QuoteRecord, VideoTask
from kling_flows.ledger import gathering as gathering_module
from kling_flows.ledger.batch import Created
from kling_flows.ledger.gathering import MOST_TOGETHER, Gathering
from kling_flows.settings import Budget

from .make import lease, task

QUOTE = QuoteRecord(units="0.6", usd="0.084")


async def test_each_gets_what_it_would_have_got_alone(ledger: Ledger) -> None:
    await ledger.create(task("taken"))
    await ledger.open_lease(lease("r1"))
    outcomes = await asyncio.gather(
        ledger.create(task("a", labels={"k": "v", "l": "w"}), request_id="r", request_digest="one"),
        ledger.create(task("taken")),
        ledger.create(task("b"), request_id="r", request_digest="one"),
        ledger.create(task("c"), request_id="r", request_digest="two"),
        ledger.create(task("d", tenant="other"), request_id="r", request_digest="two"),
        ledger.create(task("a")),
        ledger.create(task("e"), runner_id="r1"),
        ledger.create(task("f", quote=QUOTE), budgets=(Budget(units=Decimal("0.5")),)),
        ledger.create(task("g", quote=QUOTE)),
        ledger.create(task("h", quote=QUOTE)),
        return_exceptions=True,
    )

    assert [outcome.id if isinstance(outcome, VideoTask) else type(outcome) for outcome in outcomes] == [
        "a",
        VideoTaskExists,
        "a",
        RequestIdReused,
        "d",
        VideoTaskExists,
        "e",
        BudgetExceeded,
        "g",
        "h",
    ]
    events = await ledger.read_events(0, 100)
    assert [event.position for event in events] == list(range(1, 7))
    assert sorted(event.task.id for event in events) == ["a", "d", "e", "g", "h", "taken"]
    assert [found.id for _, found in await ledger.list_tasks(tenant="default", label_values=[("l", "w")])] == ["a"]
    assert await ledger.held_by("r1") == {"e"}
    (use,) = await ledger.read_budgets((Budget(units=Decimal(9)),))
    assert use.reserved_units == Decimal("1.2")


async def test_more_than_one_operation_takes_are_all_created(ledger: Ledger) -> None:
    names = [f"t-{number}" for number in range(2 * MOST_TOGETHER + 3)]
    made = await asyncio.gather(*(ledger.create(task(name)) for name in names))

    assert [each.id for each in made] == names
    assert await ledger.head() == len(names)


async def test_one_who_goes_takes_nobody_along(ledger: Ledger) -> None:
    creates = [asyncio.ensure_future(ledger.create(task(f"t-{number}"))) for number in range(3)]
    await asyncio.sleep(0)
    creates[0].cancel()
    creates[2].cancel()

    assert (await creates[1]).id == "t-1"
    # A create that was cancelled while it waited is not undone.
    assert [(await ledger.get(f"t-{number}")).id for number in range(3)] == ["t-0", "t-1", "t-2"]


async def test_a_failed_write_is_told_to_all_and_the_next_ones_are_tried() -> None:
    failing = True

    def write(_operation: object) -> asyncio.Future[Any]:
        written: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if failing:
            written.set_exception(LedgerUnavailable("locked"))
        else:
            written.set_result(Created([task("t")], ()))
        return written

    gathering = Gathering(write, lambda _created: None)
    outcomes = await asyncio.gather(*(gathering.create(Creation(task(name))) for name in "ab"), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LedgerUnavailable] * 2

    failing = False
    assert (await gathering.create(Creation(task("t")))).id == "t"


class _Database:
    """Takes operations and finishes one when told to."""

    def __init__(self) -> None:
        self.begun: list[asyncio.Future[Created]] = []

    def write(self, _operation: object) -> asyncio.Future[Created]:
        self.begun.append(asyncio.get_running_loop().create_future())
        return self.begun[-1]


async def _create(gathering: Gathering, database: _Database, count: int) -> None:
    tasks = [task(f"t-{number}") for number in range(count)]
    creates = [asyncio.ensure_future(gathering.create(Creation(each))) for each in tasks]
    await asyncio.sleep(0)
    gathering.hurry()
    database.begun[-1].set_result(Created([*tasks], ()))
    assert await asyncio.gather(*creates) == tasks


async def test_one_that_comes_alone_does_not_wait_and_one_after_many_waits_for_company(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # However slow this machine is.
    monkeypatch.setattr(gathering_module, "_CROWD_SECONDS", 1e9)
    database = _Database()
    gathering = Gathering(database.write, lambda _created: None)
    for _ in range(2):
        alone = asyncio.ensure_future(gathering.create(Creation(task("alone"))))
        await asyncio.sleep(0)
        database.begun.pop().set_result(Created([task("alone")], ()))
        await alone

    await _create(gathering, database, 20)
    first, second = (asyncio.ensure_future(gathering.create(Creation(task(name)))) for name in "ab")
    await asyncio.sleep(0)
    assert len(database.begun) == 1
    # Nobody else comes.
    async with asyncio.timeout(30):
        while len(database.begun) == 1:
            await asyncio.sleep(0.001)
    database.begun[-1].set_result(Created([task("a"), task("b")], ()))
    assert [(await first).id, (await second).id] == ["a", "b"]


async def test_a_crowd_that_is_over_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering_module, "_CROWD_SECONDS", 0.0)
    database = _Database()
    gathering = Gathering(database.write, lambda _created: None)
    await _create(gathering, database, 20)
    alone = asyncio.ensure_future(gathering.create(Creation(task("alone"))))
    await asyncio.sleep(0)
    assert len(database.begun) == 2
    database.begun[-1].set_result(Created([task("alone")], ()))
    await alone


async def test_those_who_wait_for_company_are_told_when_nothing_can_be_written() -> None:
    database = _Database()
    closed = False

    def write(operation: object) -> asyncio.Future[Created]:
        if closed:
            raise LedgerUnavailable("closed")
        return database.write(operation)

    gathering = Gathering(write, lambda _created: None)
    await _create(gathering, database, 20)
    closed = True
    outcomes = await asyncio.gather(*(gathering.create(Creation(task(name))) for name in "ab"), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LedgerUnavailable] * 2


async def test_closing_finishes_those_who_wait_for_company(tmp_path: Path) -> None:
    ledger = await Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    await asyncio.gather(*(ledger.create(task(f"a-{number}")) for number in range(40)))
    creates = [asyncio.ensure_future(ledger.create(task(f"b-{number}"))) for number in range(20)]
    await asyncio.sleep(0)
    await ledger.close()

    assert [(await create).id for create in creates] == [f"b-{number}" for number in range(20)]
