from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from kling_flows.errors import BudgetExceeded, RequestIdReused, VideoTaskExists, VideoTaskFinal
from kling_flows.ledger import (
    TRANSITIONS,
    Charge,
    Creation,
    ErrorRecord,
    Ledger,
    QuoteRecord,
    State,
    VideoTask,
    charge,
)
from kling_flows.ledger.schema import spending
from kling_flows.settings import Budget

from .conftest import OpenLedger
from .make import task, to, upstream, url_of

QUOTE = QuoteRecord(units="0.6", usd="0.084")
RESERVED = Charge(reserved_milliunits=600, reserved_microusd=84_000)
SETTLED = Charge(settled_milliunits=600, settled_microusd=84_000)
NOW = datetime.now(UTC)


def quoted(name: str, **fields: Any) -> VideoTask:
    return task(name, **{"quote": QUOTE, "account": "a-1", **fields})


async def _table(ledger: Ledger) -> dict[tuple[str, str, str], Charge]:
    def read(connection: Any) -> dict[tuple[str, str, str], Charge]:
        return {(row[0], row[1], row[2]): Charge(*row[3:]) for row in connection.execute(select(spending))}

    return await ledger._read(read)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"state": State.QUEUED}, RESERVED),
        ({"state": State.SUBMITTING, "upstream": upstream("t", outcome_unknown=True)}, RESERVED),
        ({"state": State.UNRESOLVED, "upstream": upstream("t", outcome_unknown=True)}, RESERVED),
        ({"state": State.PROCESSING, "upstream": upstream("t", task_id="1")}, RESERVED),
        ({"state": State.ARCHIVING, "upstream": upstream("t", task_id="1", end_time=NOW, status="succeed")}, SETTLED),
        ({"state": State.LOST, "upstream": upstream("t", task_id="1", end_time=NOW, status="succeed")}, SETTLED),
        (
            {"state": State.SUCCEEDED, "upstream": upstream("t", task_id="1", end_time=NOW, settled_units="1.2")},
            Charge(settled_milliunits=1_200, settled_microusd=168_000),
        ),
        ({"state": State.FAILED}, Charge()),
        ({"state": State.FAILED, "upstream": upstream("t")}, Charge()),
        ({"state": State.FAILED, "upstream": upstream("t", task_id="1", end_time=NOW, status="failed")}, Charge()),
        (
            {"state": State.FAILED, "upstream": upstream("t", task_id="1", end_time=NOW, settled_units="0.6")},
            SETTLED,
        ),
        # Abandoned by a person: it may still be billed.
        ({"state": State.FAILED, "upstream": upstream("t", outcome_unknown=True)}, RESERVED),
        ({"state": State.CANCELLED}, Charge()),
        ({"state": State.EXPIRED, "upstream": upstream("t")}, Charge()),
        ({"state": State.CANCELLED, "upstream": upstream("t", outcome_unknown=True)}, RESERVED),
        ({"state": State.EXPIRED, "upstream": upstream("t", task_id="1")}, RESERVED),
        ({"state": State.EXPIRED, "upstream": upstream("t", task_id="1", end_time=NOW, status="succeeded")}, SETTLED),
        ({"state": State.CANCELLED, "upstream": upstream("t", task_id="1", end_time=NOW, status="failed")}, Charge()),
        # A figure that is none is as good as no figure.
        ({"state": State.SUCCEEDED, "upstream": upstream("t", task_id="1", settled_units="NaN")}, SETTLED),
        ({"state": State.SUCCEEDED, "upstream": upstream("t", task_id="1", settled_units="1e99")}, SETTLED),
        ({"state": State.SUCCEEDED, "upstream": upstream("t", task_id="1", settled_units="?")}, SETTLED),
        ({"state": State.QUEUED, "quote": None}, Charge()),
    ],
)
def test_what_a_task_costs_follows_from_its_record(fields: dict[str, Any], expected: Charge) -> None:
    assert charge(quoted("t", **fields)) == expected


ENDS = st.sampled_from(["", "succeed", "failed"])


@st.composite
def _changes(draw: st.DrawFn) -> tuple[int, dict[str, Any]]:
    fields: dict[str, Any] = {"state": draw(st.sampled_from(State))}
    if draw(st.booleans()):
        end = draw(ENDS)
        fields["upstream"] = upstream(
            "placeholder",
            account=draw(st.sampled_from(["a-1", "a-2"])),
            task_id=draw(st.sampled_from(["", "812"])),
            outcome_unknown=draw(st.booleans()),
            status=end,
            end_time=NOW if end else None,
            settled_units=draw(st.sampled_from(["", "0", "1.25", "0.6"])),
        )
    return draw(st.integers(0, 2)), fields


@settings(max_examples=40, deadline=None, database=None)
@given(st.lists(_changes(), max_size=12), st.lists(st.sampled_from(["", "0.6", "2.4"]), min_size=3, max_size=3))
def test_the_table_is_the_sum_over_the_tasks(changes: list[tuple[int, dict[str, Any]]], quotes: list[str]) -> None:
    async def run() -> None:
        with TemporaryDirectory() as folder:
            async with await Ledger.open(url_of(Path(folder) / "ledger.db")) as ledger:
                for number, units in enumerate(quotes):
                    quote = QuoteRecord(units=units, usd=str(Decimal(units) * Decimal("0.14"))) if units else None
                    born = NOW - timedelta(days=number)
                    name = f"t-{number}"
                    await ledger.create(
                        quoted(name, tenant="ab"[number % 2], quote=quote, create_time=born, account=""),
                    )
                for number, fields in changes:
                    name = f"t-{number}"
                    known = await ledger.get(name)
                    if fields["state"] is not known.state and fields["state"] not in TRANSITIONS[known.state]:
                        fields = {**fields, "state": known.state}
                    if "upstream" in fields:
                        named = fields["upstream"].model_copy(update={"external_task_id": f"kf-{name}"})
                        fields = {**fields, "upstream": named}
                    await ledger.advance(name, lambda before, fields=fields: before.model_copy(update=fields))
                sums: dict[tuple[str, str, str], Counter[str]] = {}
                for number in range(3):
                    found = await ledger.get(f"t-{number}")
                    account = found.upstream.account if found.upstream else found.account
                    place = (found.tenant, account, found.create_time.date().isoformat())
                    sums.setdefault(place, Counter()).update(charge(found)._asdict())
                booked = {place: amounts for place, amounts in (await _table(ledger)).items() if any(amounts)}
                expected = {place: Charge(**amounts) for place, amounts in sums.items()}
                assert booked == {place: amounts for place, amounts in expected.items() if any(amounts)}

    asyncio.run(run())


async def test_a_budget_refuses_what_it_does_not_cover(ledger: Ledger) -> None:
    budgets = (Budget(units=Decimal("1.5")),)
    for name in ("t-1", "t-2"):
        await ledger.create(quoted(name), budgets=budgets)
    with pytest.raises(BudgetExceeded) as caught:
        await ledger.create(quoted("t-3"), budgets=budgets)
    assert caught.value.subject == "tenant:*/account:*/month"
    for part in ("tenant:*/account:*/month", "0.3 of 1.5 units", "0.6", "[[budgets]]"):
        assert part in caught.value.message
    assert await ledger.list_tasks(tenant="default", ids=["t-3"]) == []
    assert await ledger.head() == 2
    assert list((await _table(ledger)).values()) == [Charge(reserved_milliunits=1_200, reserved_microusd=168_000)]


@pytest.mark.parametrize(
    ("budget", "fields", "covers"),
    [
        (Budget(usd=Decimal("0.16")), {}, True),
        (Budget(usd=Decimal("0.168")), {}, False),
        (Budget(units=Decimal(0)), {}, True),
        (Budget(), {"quote": None}, False),
        (Budget(units=Decimal(9)), {"quote": None}, True),
        (Budget(tenant="default", units=Decimal(1)), {}, True),
        (Budget(tenant="default", units=Decimal(1)), {"tenant": "other"}, False),
        (Budget(account="a-1", units=Decimal(1)), {}, True),
        (Budget(account="a-1", units=Decimal(1)), {"account": "a-2"}, False),
        # Which account pays is not known yet: it may be this one.
        (Budget(account="a-1", units=Decimal(1)), {"account": ""}, True),
    ],
)
async def test_a_budget_covers_its_tenant_and_its_account(
    ledger: Ledger, budget: Budget, fields: dict[str, Any], covers: bool
) -> None:
    await ledger.create(quoted("first"))
    if covers:
        with pytest.raises(BudgetExceeded):
            await ledger.create(quoted("t", **fields), budgets=[budget])
    else:
        await ledger.create(quoted("t", **fields), budgets=[budget])


@pytest.mark.parametrize(
    ("period", "born", "counts"),
    [
        ("day", NOW - timedelta(days=1), False),
        ("month", NOW - timedelta(days=31), False),
        ("month", NOW.replace(day=1), True),
        ("total", NOW - timedelta(days=400), True),
    ],
)
async def test_a_budget_counts_what_was_created_in_its_period(
    ledger: Ledger, period: Any, born: datetime, counts: bool
) -> None:
    await ledger.create(quoted("earlier", create_time=born))
    budget = Budget(period=period, units=Decimal(1))
    (use,) = await ledger.read_budgets([budget])
    assert use.reserved_units == (Decimal("0.6") if counts else 0)
    if counts:
        with pytest.raises(BudgetExceeded):
            await ledger.create(quoted("t"), budgets=[budget])
    else:
        await ledger.create(quoted("t"), budgets=[budget])


async def test_a_failure_gives_the_money_back(ledger: Ledger) -> None:
    budgets = (Budget(units=Decimal(1)),)
    await ledger.create(quoted("t-1"), budgets=budgets)
    await ledger.advance("t-1", to(State.FAILED))
    await ledger.create(quoted("t-2"), budgets=budgets)
    with pytest.raises(VideoTaskFinal):
        await ledger.advance("t-1", to(State.QUEUED))


async def test_the_providers_figure_counts_and_not_the_quote(ledger: Ledger) -> None:
    budgets = (Budget(units=Decimal(2), usd=Decimal(1)),)
    await ledger.create(quoted("t-1", state=State.PROCESSING), budgets=budgets)
    ended = upstream("t-1", account="a-1", task_id="1", status="succeed", end_time=NOW, settled_units="1.5")
    await ledger.advance("t-1", to(State.ARCHIVING, upstream=ended))
    (use,) = await ledger.read_budgets(budgets, "default")
    assert (use.budget, use.reserved_units, use.reserved_usd) == (budgets[0], 0, 0)
    assert (use.settled_units, use.settled_usd) == (Decimal("1.5"), Decimal("0.21"))
    with pytest.raises(BudgetExceeded):
        await ledger.create(quoted("t-2"), budgets=budgets)


async def test_who_abandons_a_task_does_not_get_its_money_back(ledger: Ledger) -> None:
    await ledger.create(
        quoted("t", state=State.UNRESOLVED, upstream=upstream("t", account="a-1", outcome_unknown=True))
    )
    abandoned = ErrorRecord(reason="VIDEO_TASK_FAILED", grpc_code="FAILED_PRECONDITION", message="abandoned")
    await ledger.advance("t", to(State.FAILED, error=abandoned))
    assert list((await _table(ledger)).values()) == [RESERVED]


async def test_a_repetition_reserves_nothing_and_is_answered_from_a_full_budget(ledger: Ledger) -> None:
    budgets = (Budget(units=Decimal("0.6")),)
    first = await ledger.create(quoted("t-1"), request_id="r", request_digest="same", budgets=budgets)
    again = await ledger.create(quoted("t-2"), request_id="r", request_digest="same", budgets=budgets)
    assert again == first
    assert await ledger.create_or_get(quoted("t-1"), "same", budgets=budgets) == first
    with pytest.raises(RequestIdReused):
        await ledger.create(quoted("t-2"), request_id="r", request_digest="other", budgets=budgets)
    with pytest.raises(VideoTaskExists):
        await ledger.create(quoted("t-1"), request_id="s", request_digest="same", budgets=budgets)
    assert list((await _table(ledger)).values()) == [RESERVED]


async def test_two_fronts_together_do_not_exceed_a_budget(ledger: Ledger, open_ledger: OpenLedger) -> None:
    fronts = [ledger, await open_ledger()]
    budgets = (Budget(units=Decimal(6)),)
    outcomes = await asyncio.gather(
        *(fronts[n % 2].create(quoted(f"t-{n}"), budgets=budgets) for n in range(60)), return_exceptions=True
    )
    assert sum(isinstance(outcome, VideoTask) for outcome in outcomes) == 10
    assert all(isinstance(outcome, VideoTask | BudgetExceeded) for outcome in outcomes)
    assert list((await _table(ledger)).values()) == [Charge(reserved_milliunits=6_000, reserved_microusd=840_000)]


async def test_creates_in_one_transaction_share_a_budget(ledger: Ledger) -> None:
    budgets = (Budget(units=Decimal("1.2")),)
    outcomes = await ledger.create_each([Creation(quoted(f"t-{n}"), budgets=budgets) for n in range(4)])
    assert [isinstance(outcome, BudgetExceeded) for outcome in outcomes] == [False, False, True, True]


async def test_a_tenant_sees_the_budgets_that_concern_it(ledger: Ledger) -> None:
    budgets = [Budget(tenant="default"), Budget(tenant="other"), Budget(period="total")]
    await ledger.create(quoted("t"))
    assert [use.budget for use in await ledger.read_budgets(budgets, "default")] == [budgets[0], budgets[2]]
    assert [use.reserved_units for use in await ledger.read_budgets(budgets)] == [Decimal("0.6"), 0, Decimal("0.6")]
    assert await ledger.read_budgets([]) == []
