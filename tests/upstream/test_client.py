from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import jwt
import pytest

from kling_flows.upstream import (
    Account,
    UpstreamAlreadyExists,
    UpstreamAmbiguous,
    UpstreamAuth,
    UpstreamClient,
    UpstreamConcurrency,
    UpstreamError,
    UpstreamInvalid,
    UpstreamNotFound,
    UpstreamStatus,
    UpstreamUnavailable,
)
from kling_flows.upstream.transport import MAX_ANSWER_BYTES

from .data import ACCESS_KEY, API_KEY, account, api_key_credentials, load, request, standard_account
from .server import Reply, Server, answer, echo, flood, hang_up, hang_up_within, serve, stall

CREATED = load("official_create_submitted_with_external_id.json")
EXPIRED = load("error_1004_expired.json")["body"]
NOT_YET = {**EXPIRED, "code": 1003}
PATH = "/v1/videos/text2video"


Call = Callable[[UpstreamClient], Awaitable[None]]


class Counted:
    """A metric that keeps what it is told."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, str]] = []

    def __call__(self, operation: str, outcome: str) -> None:
        self.outcomes.append((operation, outcome))


def client(server: Server, *, deadline: float = 30.0, max_answer_bytes: int = MAX_ANSWER_BYTES) -> UpstreamClient:
    return UpstreamClient(
        account(server.base_url),
        create_deadline=deadline,
        read_deadline=deadline,
        max_answer_bytes=max_answer_bytes,
    )


async def create(upstream: UpstreamClient) -> None:
    await upstream.create(request(), "ext-0001")


async def get(upstream: UpstreamClient) -> None:
    await upstream.get("850000000000000001")


async def list_page(upstream: UpstreamClient) -> None:
    await upstream.list_page(1, 30)


async def get_many(upstream: UpstreamClient) -> None:
    await upstream.get_many(["850000000000000001"])


async def list_tasks(upstream: UpstreamClient) -> None:
    await upstream.list_tasks(start=datetime(2026, 11, 1, tzinfo=UTC), end=datetime(2026, 11, 2, tzinfo=UTC))


async def both(
    reply: Reply,
    on_create: type[UpstreamError],
    on_read: type[UpstreamError],
    *,
    deadline: float = 30.0,
    max_answer_bytes: int = MAX_ANSWER_BYTES,
) -> None:
    """The same reply to a create, a query and each kind of list, in either dialect."""
    accounts = {account: (get, list_page), standard_account: (get, get_many, list_tasks)}
    for make, reads in accounts.items():
        async with (
            serve(*[reply] * (1 + len(reads))) as server,
            UpstreamClient(
                make(server.base_url),
                create_deadline=deadline,
                read_deadline=deadline,
                max_answer_bytes=max_answer_bytes,
            ) as upstream,
        ):
            with pytest.raises(on_create):
                await create(upstream)
            for read in reads:
                with pytest.raises(on_read):
                    await read(upstream)
            assert len(server.seen) == 1 + len(reads)


# ------------------------------------------------------------------------------------------------------- plain calls


@pytest.mark.asyncio
async def test_create_sends_the_request_and_returns_the_task() -> None:
    async with serve(answer(200, CREATED)) as server, client(server) as upstream:
        task = await upstream.create(request(prompt="Ein Boot – 船"), "ext-0001")
    (seen,) = server.seen
    assert task.task_id == "850000000000000001"
    assert (seen.method, seen.target) == ("POST", PATH)
    assert seen.headers["content-type"] == "application/json"
    body = json.loads(seen.body)
    assert (body["prompt"], body["duration"], body["external_task_id"]) == ("Ein Boot – 船", "5", "ext-0001")


@pytest.mark.asyncio
async def test_get_asks_for_an_id_as_one_path_segment() -> None:
    body = {"code": 0, "data": {"task_id": "a/b ?c", "task_status": "processing"}}
    async with serve(answer(200, body)) as server, client(server) as upstream:
        task = await upstream.get("a/b ?c")
    assert task.status is UpstreamStatus.PROCESSING
    assert server.seen[0].target == f"{PATH}/a%2Fb%20%3Fc"


@pytest.mark.asyncio
async def test_get_by_external_id_returns_the_task() -> None:
    async with serve(answer(200, CREATED)) as server, client(server) as upstream:
        assert (await upstream.get("ext-0001")).task_id == "850000000000000001"


@pytest.mark.asyncio
async def test_get_does_not_take_another_task_for_the_one_asked_for() -> None:
    async with serve(answer(200, CREATED)) as server, client(server) as upstream:
        with pytest.raises(UpstreamUnavailable):
            await upstream.get("ext-0002")


@pytest.mark.asyncio
async def test_list_page_names_page_and_size() -> None:
    async with serve(answer(200, load("official_list_two_tasks.json"))) as server, client(server) as upstream:
        assert len(await upstream.list_page(2, 500)) == 2
    assert server.seen[0].target == f"{PATH}?pageNum=2&pageSize=500"


@pytest.mark.asyncio
async def test_base_url_keeps_its_prefix() -> None:
    async with serve(answer(200, CREATED)) as server:
        made = account(f"{server.base_url}/kling/", api_key_credentials())
        async with UpstreamClient(made) as upstream:
            await create(upstream)
    assert server.seen[0].target == f"/kling{PATH}"
    assert server.seen[0].token == API_KEY


@pytest.mark.asyncio
async def test_arguments_that_would_ask_for_something_else_are_refused() -> None:
    async with serve() as server, client(server) as upstream:
        with pytest.raises(ValueError, match="id"):
            await upstream.get("")
        for page, size in ((0, 30), (1001, 30), (1, 0), (1, 501)):
            with pytest.raises(ValueError, match="page"):
                await upstream.list_page(page, size)
        assert server.seen == []


@pytest.mark.asyncio
async def test_client_is_used_inside_its_context_only() -> None:
    async with serve() as server:
        upstream = client(server)
        with pytest.raises(RuntimeError, match="async with"):
            await get(upstream)


@pytest.mark.asyncio
async def test_many_calls_at_once_share_the_client() -> None:
    reply = echo(200, lambda seen: {"code": 0, "data": {"task_id": seen.target.rsplit("/", 1)[1]}})
    async with serve(*[reply] * 50) as server, client(server) as upstream:
        tasks = await asyncio.gather(*(upstream.get(str(number)) for number in range(50)))
    assert [task.task_id for task in tasks] == [str(number) for number in range(50)]


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.asyncio
async def test_refusals_are_raised_in_their_class() -> None:
    exists, missing = load("error_1201_external_task_id_exists.json"), load("error_1201_task_not_found.json")
    busy = {"code": 1303, "message": "parallel task over resource pack limit"}
    replies = [
        answer(400, exists["body"]),
        answer(400, missing["body"]),
        answer(429, busy, {"Retry-After": "3"}),
        answer(200, {"code": 1201, "message": "bad mode"}),
    ]
    async with serve(*replies) as server, client(server) as upstream:
        with pytest.raises(UpstreamAlreadyExists):
            await create(upstream)
        with pytest.raises(UpstreamNotFound):
            await get(upstream)
        with pytest.raises(UpstreamConcurrency) as caught:
            await create(upstream)
        assert caught.value.retry_after == 3.0
        with pytest.raises(UpstreamInvalid):
            await create(upstream)


@pytest.mark.asyncio
async def test_redirect_is_not_followed() -> None:
    redirect = answer(301, "", {"Location": "/elsewhere"})
    await both(redirect, UpstreamInvalid, UpstreamInvalid)


@pytest.mark.asyncio
async def test_paid_task_under_an_unknown_code_is_not_lost() -> None:
    body = {**CREATED, "code": 7777}
    async with serve(answer(200, body)) as server, client(server) as upstream:
        assert (await upstream.create(request(), "ext-0001")).task_id == "850000000000000001"


@pytest.mark.asyncio
async def test_code_200_means_success() -> None:
    async with serve(answer(200, {**CREATED, "code": 200})) as server, client(server) as upstream:
        await create(upstream)


# -------------------------------------------------------------------------------------------------------- re-signing


@pytest.mark.asyncio
@pytest.mark.parametrize("body", [EXPIRED, NOT_YET])
@pytest.mark.parametrize("call", [create, get])
async def test_token_is_signed_anew_once(body: dict[str, Any], call: Call) -> None:
    times = iter([1_773_000_000.0, 1_773_000_001.0])
    async with (
        serve(answer(401, body), answer(200, CREATED)) as server,
        UpstreamClient(account(server.base_url), clock=lambda: next(times)) as upstream,
    ):
        await call(upstream)
    first, second = server.seen
    assert first.token != second.token
    assert (first.method, first.target, first.body) == (second.method, second.target, second.body)


@pytest.mark.asyncio
@pytest.mark.parametrize(("body", "wrong_by"), [(NOT_YET, 3600.0), (EXPIRED, -3600.0)])
async def test_token_is_signed_anew_by_the_clock_of_the_provider(body: dict[str, Any], wrong_by: float) -> None:
    true = datetime(2026, 11, 21, 20, tzinfo=UTC)
    refusal = answer(401, body, {"Date": format_datetime(true, usegmt=True)})
    async with (
        serve(answer(200, CREATED), refusal, answer(200, CREATED), answer(200, CREATED)) as server,
        UpstreamClient(account(server.base_url), clock=lambda: true.timestamp() + wrong_by) as upstream,
    ):
        for _ in range(3):
            await create(upstream)
    claims = [jwt.decode(seen.token, options={"verify_signature": False}) for seen in server.seen]
    assert [claim["nbf"] < true.timestamp() < claim["exp"] for claim in claims] == [False, False, True, True]


@pytest.mark.asyncio
async def test_token_is_not_signed_anew_twice() -> None:
    replies = [answer(401, EXPIRED), answer(401, EXPIRED), answer(200, CREATED)]
    async with serve(*replies) as server, client(server) as upstream:
        with pytest.raises(UpstreamAuth, match="clock"):
            await create(upstream)
    assert len(server.seen) == 2


@pytest.mark.asyncio
async def test_api_key_is_not_repeated() -> None:
    async with (
        serve(answer(401, EXPIRED)) as server,
        UpstreamClient(account(server.base_url, api_key_credentials())) as upstream,
    ):
        with pytest.raises(UpstreamAuth):
            await create(upstream)
    assert len(server.seen) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [200, 401, 429, 500, 503])
@pytest.mark.parametrize("code", [1000, 1001, 1002, 1102, 1302, 1303, 5000, 5001, 5002, None])
async def test_nothing_else_is_repeated(status: int, code: int | None) -> None:
    reply = answer(status, {"code": code, "message": "no"})
    async with serve(reply, answer(200, CREATED)) as server, client(server) as upstream:
        with pytest.raises(UpstreamError):
            await create(upstream)
    assert len(server.seen) == 1


@pytest.mark.asyncio
async def test_token_is_kept_between_calls() -> None:
    async with serve(answer(200, CREATED), answer(200, CREATED)) as server, client(server) as upstream:
        await create(upstream)
        await get(upstream)
    assert server.seen[0].token == server.seen[1].token


# -------------------------------------------------------------------------------------------------- broken transport


@pytest.mark.asyncio
async def test_refused_connection_was_never_sent() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with UpstreamClient(account(url)) as upstream:
            for call in (create, get, list_page):
                with pytest.raises(UpstreamUnavailable, match="nothing was sent"):
                    await call(upstream)


@pytest.mark.asyncio
async def test_unknown_host_was_never_sent() -> None:
    async with UpstreamClient(account("http://host.invalid")) as upstream:
        with pytest.raises(UpstreamUnavailable, match="nothing was sent"):
            await create(upstream)


@pytest.mark.asyncio
async def test_tls_handshake_that_takes_too_long_was_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kling_flows.upstream.transport._CONNECT_TIMEOUT", 0.2)
    async with silent_peer() as port, UpstreamClient(account(f"https://127.0.0.1:{port}")) as upstream:
        with pytest.raises(UpstreamUnavailable, match=r"nothing was sent \(ConnectTimeout"):
            await create(upstream)


@pytest.mark.asyncio
async def test_deadline_before_there_is_a_connection_was_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(*_: object, **__: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", slow)
    async with UpstreamClient(account("http://slow.invalid"), create_deadline=0.2) as upstream:
        with pytest.raises(UpstreamUnavailable, match=r"nothing was sent \(no full answer"):
            await create(upstream)


@asynccontextmanager
async def silent_peer() -> AsyncGenerator[int]:
    """Accept connections and never say a word, so that no TLS handshake ends; the value is the port."""
    release = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        release.set()
        listening.close()


@pytest.mark.asyncio
async def test_connection_cut_after_sending() -> None:
    await both(hang_up(), UpstreamAmbiguous, UpstreamUnavailable)


@pytest.mark.asyncio
async def test_connection_cut_within_the_answer() -> None:
    start = json.dumps(CREATED).encode()[:40]
    await both(hang_up_within(200, start), UpstreamAmbiguous, UpstreamUnavailable)


@pytest.mark.asyncio
async def test_refusal_that_is_cut_is_no_refusal() -> None:
    await both(hang_up_within(400, b'{"code":1201,'), UpstreamAmbiguous, UpstreamUnavailable)


@pytest.mark.asyncio
async def test_no_answer_within_the_deadline() -> None:
    await both(stall(), UpstreamAmbiguous, UpstreamUnavailable, deadline=0.3)


@pytest.mark.asyncio
async def test_html_instead_of_json() -> None:
    await both(answer(200, "<html>Welcome</html>"), UpstreamAmbiguous, UpstreamUnavailable)


@pytest.mark.asyncio
async def test_truncated_json() -> None:
    await both(answer(200, json.dumps(CREATED)[:-20]), UpstreamAmbiguous, UpstreamUnavailable)


@pytest.mark.asyncio
async def test_json_that_is_too_deep() -> None:
    await both(answer(200, "[" * 200_000), UpstreamAmbiguous, UpstreamUnavailable)


@pytest.mark.asyncio
async def test_broken_compression() -> None:
    await both(answer(200, b"not gzip", {"Content-Encoding": "gzip"}), UpstreamAmbiguous, UpstreamUnavailable)


@pytest.mark.asyncio
async def test_answer_that_is_too_large_is_not_read_to_its_end() -> None:
    endless = flood(200, b" " * 65536, 100_000)
    await both(endless, UpstreamAmbiguous, UpstreamUnavailable, max_answer_bytes=1_000_000)


@pytest.mark.asyncio
async def test_cancelled_create_stays_a_cancellation() -> None:
    counted = Counted()
    async with serve(stall()) as server, UpstreamClient(account(server.base_url), on_call=counted) as upstream:
        running = asyncio.create_task(create(upstream))
        await server.arrived.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert counted.outcomes == [("create", "cancelled")]


@pytest.mark.asyncio
async def test_client_goes_on_after_a_failure() -> None:
    async with serve(hang_up(), answer(200, CREATED)) as server, client(server) as upstream:
        with pytest.raises(UpstreamAmbiguous):
            await create(upstream)
        assert (await upstream.get("ext-0001")).external_task_id == "ext-0001"


# ----------------------------------------------------------------------------------------------------------- metrics


@pytest.mark.asyncio
async def test_each_call_is_counted_once_with_its_outcome() -> None:
    counted = Counted()
    replies = [
        answer(401, EXPIRED),
        answer(200, CREATED),
        answer(400, load("error_1201_task_not_found.json")["body"]),
        answer(200, load("official_list_empty.json")),
    ]
    async with serve(*replies) as server, UpstreamClient(account(server.base_url), on_call=counted) as upstream:
        await create(upstream)
        with pytest.raises(UpstreamNotFound):
            await get(upstream)
        await list_page(upstream)
    assert counted.outcomes == [("create", "ok"), ("get", "not-found"), ("list", "ok")]


@pytest.mark.asyncio
async def test_broken_metric_does_not_cost_the_task() -> None:
    def broken(operation: str, outcome: str) -> None:
        raise RuntimeError(operation, outcome)

    async with (
        serve(answer(200, CREATED)) as server,
        UpstreamClient(account(server.base_url), on_call=broken) as upstream,
    ):
        assert (await upstream.create(request(), "ext-0001")).task_id == "850000000000000001"


# ----------------------------------------------------------------------------------------------------------- secrets


@pytest.mark.asyncio
async def test_echoed_credentials_are_not_in_errors() -> None:
    url = "https://callback.example/token-5f2e"
    reply = echo(400, lambda seen: {"code": 1201, "message": f"odd: {seen.token} {seen.body.decode()} {ACCESS_KEY}"})
    async with serve(reply, reply) as server:
        for made in (account(server.base_url), account(server.base_url, api_key_credentials())):
            await _expect_no_secret(made, url, server)


async def _expect_no_secret(made: Account, callback_url: str, server: Server) -> None:
    async with UpstreamClient(made) as upstream:
        with pytest.raises(UpstreamInvalid) as caught:
            await upstream.create(request(prompt="p", callback_url=callback_url), "e")
    shown = f"{caught.value!s} {caught.value!r} {caught.value.metadata}"
    assert "odd: " in shown
    for secret in (server.seen[-1].token, ACCESS_KEY, API_KEY, callback_url):
        assert secret not in shown
