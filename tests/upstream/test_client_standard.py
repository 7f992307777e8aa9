from __future__ import annotations

import json
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest

from kling_flows.upstream import (
    Account,
    DialectFeatures,
    Provider,
    UpstreamAlreadyExists,
    UpstreamAmbiguous,
    UpstreamAuth,
    UpstreamClient,
    UpstreamInvalid,
    UpstreamNotFound,
    UpstreamStatus,
    UpstreamUnavailable,
)

from .data import API_KEY, account, api_key_credentials, load, request, standard_account
from .server import Seen, Server, answer, echo, serve

CREATED = load("newstd_create_doc_shape.json")
FOUND = load("newstd_tasks_get_doc_shape.json")
ID = "893605946402811985"
START, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC)


def client(server: Server) -> UpstreamClient:
    return UpstreamClient(standard_account(server.base_url))


def query(seen: Seen) -> dict[str, list[str]]:
    return parse_qs(urlsplit(seen.target).query)


@pytest.mark.asyncio
async def test_create_names_the_model_in_its_path_and_returns_the_task() -> None:
    async with serve(answer(200, CREATED)) as server, client(server) as upstream:
        task = await upstream.create(request(prompt="Ein Boot – 船"), "ext-0001")
    (seen,) = server.seen
    assert task.task_id == ID
    assert (seen.method, seen.target) == ("POST", "/text-to-video/kling-3.0")
    assert (seen.headers["content-type"], seen.token) == ("application/json", API_KEY)
    body = json.loads(seen.body)
    assert (body["prompt"], body["settings"]["duration"]) == ("Ein Boot – 船", 5)
    assert body["options"] == {"external_task_id": "ext-0001"}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("external", "key", "wanted"), [(False, "task_ids", ID), (True, "external_task_ids", "ext-0001")]
)
async def test_get_asks_by_the_kind_of_id(external: bool, key: str, wanted: str) -> None:
    async with serve(answer(200, FOUND)) as server, client(server) as upstream:
        task = await upstream.get(wanted, external=external)
    assert task.status is UpstreamStatus.SUCCEEDED
    (seen,) = server.seen
    assert (seen.method, urlsplit(seen.target).path, query(seen)) == ("GET", "/tasks", {key: [wanted]})


@pytest.mark.asyncio
async def test_unknown_id_is_not_found() -> None:
    async with serve(answer(200, {"code": 0, "data": []})) as server, client(server) as upstream:
        with pytest.raises(UpstreamNotFound):
            await upstream.get("7")


@pytest.mark.asyncio
async def test_answer_about_another_task_denies_nothing() -> None:
    async with serve(answer(200, FOUND)) as server, client(server) as upstream:
        with pytest.raises(UpstreamUnavailable):
            await upstream.get("7")


@pytest.mark.asyncio
async def test_get_many_brings_what_is_there() -> None:
    replies = [answer(200, FOUND), answer(200, {"code": 0, "data": []})]
    async with serve(*replies) as server, client(server) as upstream:
        assert [task.task_id for task in await upstream.get_many([ID, "7"])] == [ID]
        assert await upstream.get_many(["ext-8", "ext-9"], external=True) == ()
    assert [query(seen) for seen in server.seen] == [
        {"task_ids": [f"{ID},7"]},
        {"external_task_ids": ["ext-8,ext-9"]},
    ]


@pytest.mark.asyncio
async def test_list_tasks_sends_the_period_and_follows_the_cursor() -> None:
    page = {"code": 0, "data": {"result": [{"id": "1"}], "has_more": True, "next_cursor": "c-1"}}
    replies = [answer(200, page), answer(200, load("newstd_tasks_list_empty_live.json"))]
    async with serve(*replies) as server, client(server) as upstream:
        first = await upstream.list_tasks(start=START, end=END)
        last = await upstream.list_tasks(start=START, end=END, cursor=first.next_cursor, limit=10)
    assert (first.has_more, last.has_more, last.tasks) == (True, False, ())
    assert [(seen.method, seen.target) for seen in server.seen] == [("POST", "/tasks")] * 2
    times = {"start_time": "1793491200000", "end_time": "1793577600000"}
    assert [json.loads(seen.body) for seen in server.seen] == [
        {**times, "limit": 500},
        {**times, "limit": 10, "cursor": "c-1"},
    ]


@pytest.mark.asyncio
async def test_arguments_that_would_ask_for_something_else_are_refused() -> None:
    async with serve() as server, client(server) as upstream:
        for wanted in ("", "1,2"):
            with pytest.raises(ValueError, match="id"):
                await upstream.get(wanted)
        for ids in ([], ["1"] * 21, ["1", ""], ["1,2"]):
            with pytest.raises(ValueError, match="id"):
                await upstream.get_many(ids)
        for limit in (0, 501):
            with pytest.raises(ValueError, match="limit"):
                await upstream.list_tasks(start=START, end=END, limit=limit)
        with pytest.raises(ValueError, match="before"):
            await upstream.list_tasks(start=END, end=START)
        with pytest.raises(ValueError, match="time zone"):
            await upstream.list_tasks(start=START.replace(tzinfo=None), end=END)
        assert server.seen == []


@pytest.mark.asyncio
async def test_queries_of_the_other_dialect_are_refused() -> None:
    async with serve() as server, client(server) as standard, UpstreamClient(account(server.base_url)) as legacy:
        with pytest.raises(ValueError, match="standard dialect"):
            await standard.list_page(1, 30)
        with pytest.raises(ValueError, match="legacy dialect"):
            await legacy.get_many(["1"])
        with pytest.raises(ValueError, match="legacy dialect"):
            await legacy.list_tasks(start=START, end=END)
        assert server.seen == []


@pytest.mark.asyncio
async def test_legacy_get_needs_no_telling_whose_id_it_is() -> None:
    created = load("official_create_submitted_with_external_id.json")
    async with serve(answer(200, created)) as server, UpstreamClient(account(server.base_url)) as upstream:
        await upstream.get("ext-0001", external=True)
    assert server.seen[0].target == "/v1/videos/text2video/ext-0001"


def test_features_tell_a_planner_what_there_is() -> None:
    assert UpstreamClient(standard_account("http://host")).features == DialectFeatures(20, 0)
    assert UpstreamClient(account("http://host")).features == DialectFeatures(0, 500)
    comet = Account.of(Provider.COMETAPI, api_key_credentials())
    assert UpstreamClient(comet).features == DialectFeatures(0, 0)


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.asyncio
async def test_refusals_are_raised_in_their_class() -> None:
    exists = load("error_1201_external_task_id_exists.json")
    no_pair = load("error_1002_ak_sk_not_supported.json")
    odd = {"code": 1201, "message": "settings.resolution value '9000p' is invalid"}
    replies = [
        answer(400, exists["body"]),
        answer(401, no_pair["body"]),
        answer(400, odd),
        answer(500, {"code": 5000, "message": "internal"}),
        answer(500, {"code": 5000, "message": "internal"}),
    ]
    async with serve(*replies) as server, client(server) as upstream:
        with pytest.raises(UpstreamAlreadyExists):
            await upstream.create(request(), "ext-0001")
        with pytest.raises(UpstreamAuth, match="Use an API key"):
            await upstream.get("1")
        with pytest.raises(UpstreamInvalid, match="9000p"):
            await upstream.create(request(), "ext-0001")
        with pytest.raises(UpstreamAmbiguous):
            await upstream.create(request(), "ext-0001")
        # A list is asked for by POST too, and makes nothing.
        with pytest.raises(UpstreamUnavailable):
            await upstream.list_tasks(start=START, end=END)


@pytest.mark.asyncio
async def test_create_that_succeeds_without_an_id_is_ambiguous() -> None:
    async with serve(answer(200, {"code": 0, "data": {}})) as server, client(server) as upstream:
        with pytest.raises(UpstreamAmbiguous):
            await upstream.create(request(), "ext-0001")


@pytest.mark.asyncio
async def test_paid_task_under_an_unknown_code_is_not_lost() -> None:
    async with serve(answer(200, {**CREATED, "code": 7777})) as server, client(server) as upstream:
        assert (await upstream.create(request(), "ext-0001")).task_id == ID


@pytest.mark.asyncio
async def test_echoed_credentials_are_not_in_errors() -> None:
    url = "https://callback.example/token-5f2e"
    reply = echo(400, lambda seen: {"code": 1201, "message": f"odd: {seen.token} {seen.body.decode()}"})
    async with serve(reply) as server, client(server) as upstream:
        with pytest.raises(UpstreamInvalid, match="odd: ") as caught:
            await upstream.create(request(prompt="p", callback_url=url), "e")
    shown = f"{caught.value!s} {caught.value!r} {caught.value.metadata}"
    assert API_KEY not in shown
    assert url not in shown
