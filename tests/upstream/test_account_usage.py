from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from kling_flows.errors import ConfigurationError
from kling_flows.upstream import (
    Account,
    Deduction,
    DeductionKind,
    Provider,
    ResourcePack,
    UpstreamAuth,
    UpstreamClient,
    UpstreamInvalid,
    UpstreamUnavailable,
)

from .data import account, api_key_credentials, load, standard_account
from .server import answer, serve

START, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC)
ROW: dict[str, Any] = {
    "task_id": "893605946402811985",
    "model_name": "kling-v2-6",
    "resolution": "1080p",
    "duration": "5.04",
    "video_sound": "on",
    "voice_control": "off",
    "deduction_time": "1793491200000",
    "deduction_amount": "5",
    "unit_before_deduction": "100",
    "unit_after_deduction": "95",
}
DEDUCTION = Deduction(
    task_id="893605946402811985",
    model_name="kling-v2-6",
    resolution="1080p",
    duration_seconds=Decimal("5.04"),
    sound=True,
    voice=False,
    time=START,
    amount=Decimal(5),
    unit_before=Decimal(100),
    unit_after=Decimal(95),
)


def page(*rows: object, **end: object) -> dict[str, Any]:
    return {"code": 0, "message": "SUCCEED", "data": {"result": list(rows), **end}}


async def collect(upstream: UpstreamClient, kind: DeductionKind = DeductionKind.PACKAGE) -> list[Deduction]:
    return [deduction async for deduction in upstream.deductions(kind, START, END)]


# ------------------------------------------------------------------------------------------------------------- packs


@pytest.mark.asyncio
@pytest.mark.parametrize("make", [account, standard_account])
async def test_packs_are_read_in_either_dialect(make: Any) -> None:
    replies = [answer(200, load("account_costs_doc_sample.json"))]
    async with serve(*replies) as server, UpstreamClient(make(server.base_url)) as upstream:
        packs = await upstream.account_costs(START, END)
    (seen,) = server.seen
    assert (seen.method, seen.target) == ("GET", "/account/costs?start_time=1793491200000&end_time=1793577600000")
    assert packs == (
        ResourcePack(
            id="509f3fd3d4ab4a3f9eec5db27aa44f27",
            name="视频生成-10000条",
            type="decreasing_total",
            status="expired",
            total=Decimal("200.0"),
            remaining=Decimal("118.0"),
            purchased_at=datetime(2024, 9, 12, 7, 4, 24, 368_000, tzinfo=UTC),
            effective_at=datetime(2024, 9, 12, 7, 4, 24, 368_000, tzinfo=UTC),
            expires_at=datetime(2024, 9, 26, 16, 0, tzinfo=UTC),
        ),
    )


@pytest.mark.asyncio
async def test_account_without_packs_has_none() -> None:
    replies = [answer(200, load("account_costs_no_packs_live.json"))]
    async with serve(*replies) as server, UpstreamClient(account(server.base_url)) as upstream:
        assert await upstream.account_costs(START, END) == ()


@pytest.mark.asyncio
async def test_code_inside_of_the_answer_is_heard() -> None:
    def inner(code: int, msg: str) -> dict[str, Any]:
        return {"code": 0, "message": "SUCCEED", "request_id": "r-1", "data": {"code": code, "msg": msg}}

    replies = [answer(200, inner(1201, "end_time is odd")), answer(200, inner(77, "who knows"))]
    async with serve(*replies) as server, UpstreamClient(account(server.base_url)) as upstream:
        with pytest.raises(UpstreamInvalid, match="end_time is odd") as caught:
            await upstream.account_costs(START, END)
        assert (caught.value.provider_code, caught.value.request_id) == (1201, "r-1")
        with pytest.raises(UpstreamUnavailable, match="who knows"):
            await upstream.account_costs(START, END)


@pytest.mark.asyncio
async def test_odd_packs_cost_nothing_beside_them() -> None:
    data = {"code": None, "resource_pack_subscribe_infos": [None, "x", {"resource_pack_id": 7, "total_quantity": "x"}]}
    replies = [answer(200, {"code": 0, "data": data}), answer(200, {"code": 0})]
    async with serve(*replies) as server, UpstreamClient(account(server.base_url)) as upstream:
        (pack,) = await upstream.account_costs(START, END)
        assert (pack.id, pack.total, pack.expires_at) == ("7", None, None)
        with pytest.raises(UpstreamUnavailable):
            await upstream.account_costs(START, END)


# -------------------------------------------------------------------------------------------------------- deductions


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", list(DeductionKind))
async def test_deductions_follow_the_cursor_to_its_end(kind: DeductionKind) -> None:
    second = {**ROW, "task_id": "2"}
    replies = [answer(200, page(ROW, has_more=True, next_cursor="c-1")), answer(200, page(second, has_more=False))]
    async with serve(*replies) as server, UpstreamClient(standard_account(server.base_url)) as upstream:
        found = await collect(upstream, kind)
    assert found[0] == DEDUCTION
    assert [deduction.task_id for deduction in found] == [ROW["task_id"], "2"]
    assert [(seen.method, seen.target) for seen in server.seen] == [("POST", f"/account/billing/{kind}")] * 2
    times = {"start_time": "1793491200000", "end_time": "1793577600000", "limit": 500}
    assert [json.loads(seen.body) for seen in server.seen] == [times, {**times, "cursor": "c-1"}]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "body",
    [
        page(ROW),
        page(ROW, has_more=False, next_cursor="c"),
        {"code": 0, "data": [ROW]},
        {"code": 0, "data": {"list": [ROW], "count": 1}},
        {"code": 0, "data": {"result": {"detail": [ROW], "count": 1}, "has_more": False, "next_cursor": "c"}},
        {"code": 0, "data": {"code": 0, "msg": "ok", "data": {"records": [ROW]}}},
    ],
)
async def test_list_is_found_whatever_it_is_called(body: dict[str, Any]) -> None:
    async with serve(answer(200, body)) as server, UpstreamClient(standard_account(server.base_url)) as upstream:
        assert await collect(upstream) == [DEDUCTION]


@pytest.mark.asyncio
async def test_cursor_that_leads_to_itself_or_to_nothing_ends() -> None:
    again = answer(200, page(ROW, has_more=True, next_cursor="c"))
    empty = answer(200, page(next_cursor="d"))
    async with serve(again, again, empty) as server, UpstreamClient(standard_account(server.base_url)) as upstream:
        assert len(await collect(upstream)) == 2
        assert await collect(upstream) == []
    assert len(server.seen) == 3


@pytest.mark.asyncio
async def test_odd_fields_are_empty() -> None:
    odd = dict.fromkeys(ROW)
    rows = [None, odd, {**ROW, "video_sound": "native", "voice_control": False, "deduction_time": "soon"}]
    async with (
        serve(answer(200, page(*rows))) as server,
        UpstreamClient(standard_account(server.base_url)) as upstream,
    ):
        first, second = await collect(upstream)
    assert first == Deduction("", "", "", None, None, None, None, None, None, None)
    assert (second.sound, second.voice, second.time) == (True, False, None)


@pytest.mark.asyncio
async def test_page_that_fails_ends_the_walk_with_its_error() -> None:
    replies = [answer(200, page(ROW, has_more=True, next_cursor="c")), answer(500, {"code": 5000, "message": "no"})]
    async with serve(*replies) as server, UpstreamClient(standard_account(server.base_url)) as upstream:
        found: list[Deduction] = []

        async def walk() -> None:
            async for deduction in upstream.deductions(DeductionKind.BALANCE, START, END):
                found.append(deduction)  # noqa: PERF401 - what came before the error counts

        with pytest.raises(UpstreamUnavailable):
            await walk()
    assert found == [DEDUCTION]


# --------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.asyncio
async def test_token_is_signed_anew_once_here_too() -> None:
    expired = load("error_1004_expired.json")["body"]
    replies = [answer(401, expired), answer(200, load("account_costs_no_packs_live.json")), answer(401, expired)]
    async with serve(*replies) as server, UpstreamClient(account(server.base_url)) as upstream:
        await upstream.account_costs(START, END)
    async with serve(answer(401, expired)) as server, UpstreamClient(standard_account(server.base_url)) as upstream:
        with pytest.raises(UpstreamAuth):
            await upstream.account_costs(START, END)


@pytest.mark.asyncio
async def test_arguments_out_of_range_are_refused() -> None:
    async with serve() as server, UpstreamClient(account(server.base_url)) as upstream:
        with pytest.raises(ValueError, match="before"):
            await upstream.account_costs(END, START)
        with pytest.raises(ValueError, match="time zone"):
            await upstream.account_costs(START.replace(tzinfo=None), END)
        with pytest.raises(ValueError, match="limit"):
            async for _ in upstream.deductions(DeductionKind.PACKAGE, START, END, limit=501):
                pass
        assert server.seen == []


@pytest.mark.asyncio
async def test_cometapi_has_no_such_interface() -> None:
    made = Account.of(Provider.COMETAPI, api_key_credentials(), base_url="http://host.invalid")
    async with UpstreamClient(made) as upstream:
        with pytest.raises(ConfigurationError, match="console"):
            await upstream.account_costs(START, END)
        with pytest.raises(ConfigurationError, match="console"):
            await collect(upstream)
