"""The front's HTTP side, and the RPCs about calls to the callers' own addresses."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook

from grpc_server.http import callbacks
from grpc_server.http.server import HttpSide
from kling_flows.engine import polling
from kling_flows.engine.carry import carry
from kling_flows.engine.engine import Engine
from kling_flows.errors import ConfigurationError
from kling_flows.ledger import DeliveryState, Lease, Ledger, State, token_digest
from kling_flows.sandbox import SandboxServer, SandboxSettings, VideoSource
from kling_flows.settings import Settings
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1 import video_task_service_pb2 as rpc

from .rig import Rig, new_record, refused, upstream_record

SECRETS = ["whsec_" + base64.b64encode(bytes([number] * 24)).decode() for number in (1, 2, 3)]
TOKEN = "q" * 32
PATH = f"/callbacks/kling/{TOKEN}"
ENDED = json.dumps({"task_id": "812", "task_status": "succeed", "task_result": {"videos": []}}).encode()
PROGRESS = json.dumps({"id": "812", "status": "processing"}).encode()
RUNNER = "run-1"


@asynccontextmanager
async def _serving(ledger: Ledger, *secrets: str) -> AsyncGenerator[httpx.AsyncClient]:
    http = await HttpSide.start("127.0.0.1:0", [SecretStr(secret) for secret in secrets], ledger)
    try:
        async with httpx.AsyncClient(base_url=f"http://{http.address}", trust_env=False, timeout=60) as client:
            yield client
    finally:
        await http.stop()


async def _expecting(rig: Rig) -> Ledger:
    """A ledger with one task that the provider may call about."""
    ledger = await rig.open_ledger()
    await ledger.open_lease(Lease(runner_id=RUNNER, beat=0, host="h", lock_file="/nowhere"))
    task = await ledger.create(new_record("t"), runner_id=RUNNER)
    await ledger.advance_and_expect(
        "t",
        lambda t: t.model_copy(update={"state": State.SUBMITTING, "upstream": upstream_record(task)}),
        runner_id=RUNNER,
        callback_digest=token_digest(TOKEN),
    )
    return ledger


async def _hints(ledger: Ledger) -> list[bool]:
    _, hints = await ledger.read_hints(0, RUNNER)
    return [hint.urgent for hint in hints]


def _signed(secret: str, body: bytes, *, ago: float = 0.0, webhook_id: str = "msg_1") -> dict[str, str]:
    when = datetime.now(UTC) - timedelta(seconds=ago)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(when.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, when, body.decode()),
    }


async def test_a_callback_in_either_shape_is_written_down_as_a_hint(rig: Rig) -> None:
    ledger = await _expecting(rig)
    async with _serving(ledger) as client:
        for body in (ENDED, PROGRESS, b"not JSON", b"[" * 60_000):
            response = await client.post(PATH, content=body)
            assert (response.status_code, response.content) == (200, b"")
    # What cannot be read may be an end; nothing else of a body matters.
    assert await _hints(ledger) == [True, False, True, True]
    assert (await ledger.get("t")).state is State.SUBMITTING


async def test_a_callback_that_is_sent_again_is_the_same_hint(rig: Rig) -> None:
    ledger = await _expecting(rig)
    async with _serving(ledger) as client:
        for _ in range(3):
            assert (await client.post(PATH, content=ENDED)).status_code == 200
            assert (await client.post(PATH, content=ENDED, headers={"webhook-id": "a"})).status_code == 200
    assert len(await _hints(ledger)) == 2


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/callbacks/kling/" + "x" * 32, 404),
        ("POST", "/callbacks/kling/" + "x" * 5000, 404),
        ("POST", f"/callbacks/nobody/{TOKEN}", 404),
        ("POST", f"/callbacks/kling/{TOKEN}/more", 404),
        ("POST", "/", 404),
        ("GET", PATH, 405),
    ],
    ids=["token", "long token", "provider", "longer path", "root", "method"],
)
async def test_what_is_no_callback_of_ours_is_refused_without_a_reason(
    rig: Rig, method: str, path: str, status: int
) -> None:
    ledger = await _expecting(rig)
    async with _serving(ledger) as client:
        response = await client.request(method, path, content=ENDED if method == "POST" else None)
    assert response.status_code == status
    assert "q" * 8 not in response.text
    assert await _hints(ledger) == []


async def test_with_secrets_any_of_them_may_have_signed_and_nothing_else_counts(rig: Rig) -> None:
    ledger = await _expecting(rig)
    first, second, foreign = SECRETS
    good = _signed(second, ENDED, webhook_id="msg_2")
    refusals: list[dict[str, str]] = [
        {},
        {"webhook-id": "msg_1"},
        _signed(foreign, ENDED),
        _signed(first, PROGRESS),
        _signed(first, ENDED, ago=400),
        _signed(first, ENDED, ago=-400),
        {**good, "webhook-id": "msg_3"},
        {**good, "webhook-signature": "nonsense"},
        {**good, "webhook-signature": "v1,###"},
        {**good, "webhook-timestamp": "nan"},
    ]
    async with _serving(ledger, first, second) as client:
        for headers in refusals:
            assert (await client.post(PATH, content=ENDED, headers=headers)).status_code == 401, headers
        assert (await client.post(PATH, content=b"\xff", headers=good)).status_code == 401
        assert await _hints(ledger) == []
        for headers in (good, _signed(first, ENDED), _signed(first, ENDED, ago=250)):
            assert (await client.post(PATH, content=ENDED, headers=headers)).status_code == 200
    # The last two have the same id.
    assert await _hints(ledger) == [True, True]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_long_is_not_read_to_its_end(rig: Rig, chunked: bool) -> None:
    ledger = await _expecting(rig)

    async def stream() -> AsyncGenerator[bytes]:
        for _ in range(200):
            yield b"x" * 1024

    async with _serving(ledger) as client:
        response = await client.post(PATH, content=stream() if chunked else b"x" * (callbacks.MOST_BYTES + 1))
        assert response.status_code == 413
        fits = await client.post(PATH, content=b"x" * callbacks.MOST_BYTES)
        assert fits.status_code == 200


async def test_a_body_that_never_ends_is_given_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "_BODY_SECONDS", 0.2)
    ledger = await _expecting(rig)
    http = await HttpSide.start("127.0.0.1:0", [], ledger)
    host, _, port = http.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST {PATH} HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\nabc".encode())
    assert b" 408 " in await asyncio.wait_for(reader.readline(), 20)
    writer.close()
    await http.stop()


async def test_while_nothing_can_be_written_the_provider_is_asked_to_come_again(rig: Rig) -> None:
    ledger = await Ledger.open(rig.url)
    async with _serving(ledger) as client:
        await (await _expecting(rig)).close()
        ledger._backend._stop.set()  # type: ignore[attr-defined]
        response = await client.post(PATH, content=ENDED)
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    await ledger.close()


@pytest.mark.parametrize("listen", ["0.0.0.0:8080", "example.org:80", "[::]:80", "nonsense"])
async def test_http_is_served_on_this_machine_only(rig: Rig, listen: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await HttpSide.start(listen, [], await rig.open_ledger())
    assert "KLING_FLOWS_HTTP_LISTEN" in str(caught.value)


async def test_a_port_that_is_taken_is_named(rig: Rig) -> None:
    ledger = await rig.open_ledger()
    http = await HttpSide.start("127.0.0.1:0", [], ledger)
    with pytest.raises(ConfigurationError) as caught:
        await HttpSide.start(http.address, [], ledger)
    assert http.address in str(caught.value)
    await http.stop()


async def test_a_secret_that_is_none_is_refused_at_the_start(rig: Rig) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await HttpSide.start("127.0.0.1:0", [SecretStr("whsec_!")], await rig.open_ledger())
    assert "KLING_FLOWS_CALLBACK_SECRETS" in str(caught.value)


async def test_a_front_serves_http_only_if_it_is_told_to(rig: Rig) -> None:
    assert (await rig.serve()).front.http_address is None
    served = await rig.serve(http_listen="127.0.0.1:0")
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.post(f"http://{served.front.http_address}{PATH}", content=ENDED)
    assert response.status_code == 404


@pytest.mark.parametrize("dialect", ["legacy", "standard"])
@pytest.mark.parametrize("fault", ["none", "lost", "duplicated", "reordered", "early", "forged"])
async def test_whatever_becomes_of_the_callbacks_the_video_is_archived_and_paid_once(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, dialect: str
) -> None:
    # Only where all are lost, the reconciliation has to find the end.
    monkeypatch.setattr(polling, "RECONCILE_SECONDS", 0.5 if fault == "lost" else 3600.0)
    ledger = await rig.open_ledger()
    http = await HttpSide.start("127.0.0.1:0", [SecretStr(SECRETS[0])], ledger)
    sandbox = SandboxSettings(
        seconds=(0.4, 0.4), video=VideoSource.TINY, callback_secrets=(SECRETS[0],), callback_retry_seconds=0.05
    )
    with SandboxServer(sandbox) as server:
        settings = Settings.load(
            provider="sandbox",
            dialect=dialect,
            upstream_url=server.url,
            state_dir=tmp_path,
            ledger_url=rig.url,
            poll_interval=0.2,
            callback_base_url=f"http://{http.address}",
        )
        if fault != "none":
            server.set_faults([{"fault": fault, "on": "callback"}])
        async with Engine.open(settings) as engine:
            await ledger.create(new_record("t"), runner_id=engine.runner_id)
            task = await asyncio.wait_for(carry(engine, "t", None), 60)
        assert task.state is State.SUCCEEDED
        assert len(server.charges()) == 1
    await http.stop()


async def _delivering(rig: Rig, *names: str, **settings: Any) -> Any:
    """A front, and tasks whose first event is to be delivered."""
    served = await rig.serve(**settings)
    for name in names:
        record = new_record(name)
        request = record.request.model_copy(update={"callback_url": "https://caller.example/?token=secret"})
        await served.ledger.create(record.model_copy(update={"request": request}))
    return served


async def test_deliveries_are_listed_in_pages_the_newest_first(rig: Rig) -> None:
    served = await _delivering(rig, "a", "b", "c")
    first = await served.stub.ListCallbackDeliveries(rpc.ListCallbackDeliveriesRequest(page_size=2))
    second = await served.stub.ListCallbackDeliveries(
        rpc.ListCallbackDeliveriesRequest(page_size=2, page_token=first.next_page_token)
    )
    shown = [*first.callback_deliveries, *second.callback_deliveries]
    assert [delivery.video_task for delivery in shown] == ["videoTasks/c", "videoTasks/b", "videoTasks/a"]
    assert second.next_page_token == ""
    assert shown[0].state == rpc.CallbackDelivery.PENDING
    assert shown[0].video_task_state == pb.VideoTask.QUEUED
    assert (shown[0].revision, shown[0].attempts, shown[0].last_error) == (1, 0, "")
    assert shown[0].HasField("next_attempt_time")
    assert "secret" not in str(shown)


async def test_deliveries_can_be_narrowed_to_a_state_and_a_task(rig: Rig) -> None:
    served = await _delivering(rig, "a", "b")

    async def names(**fields: Any) -> list[str]:
        page = await served.stub.ListCallbackDeliveries(rpc.ListCallbackDeliveriesRequest(**fields))
        return [delivery.video_task for delivery in page.callback_deliveries]

    (first,) = await served.ledger.claim_deliveries(1, 60)
    await served.ledger.settle_delivery(first, DeliveryState.DEAD, last_error="the answer was 410")
    dead = f"videoTasks/{first.task.id}"
    assert await names(state=rpc.CallbackDelivery.DEAD) == [dead]
    assert await names(video_task=dead, state=rpc.CallbackDelivery.PENDING) == []
    assert await names(video_task="videoTasks/b") == ["videoTasks/b"]


async def test_a_dead_delivery_begins_anew_when_asked_to(rig: Rig) -> None:
    served = await _delivering(rig, "a")
    (delivery,) = await served.ledger.claim_deliveries(1, 60)
    await served.ledger.settle_delivery(delivery, DeliveryState.DEAD, last_error="the answer was 410")
    name = f"callbackDeliveries/{delivery.id}"
    retried = await served.stub.RetryCallbackDelivery(rpc.RetryCallbackDeliveryRequest(name=name))
    assert (retried.name, retried.state, retried.attempts) == (name, rpc.CallbackDelivery.PENDING, 0)
    assert retried.last_error == "the answer was 410"
    assert await served.stub.RetryCallbackDelivery(rpc.RetryCallbackDeliveryRequest(name=name)) == retried


async def test_another_tenant_s_deliveries_are_as_absent_as_none(rig: Rig) -> None:
    served = await _delivering(rig, "a")
    other = await rig.serve(tenant="other")
    page = await other.stub.ListCallbackDeliveries(rpc.ListCallbackDeliveriesRequest())
    assert not page.callback_deliveries
    number = (await served.stub.ListCallbackDeliveries(rpc.ListCallbackDeliveriesRequest())).callback_deliveries[0].name
    for name in (number, "callbackDeliveries/999999"):
        refusal = await refused(other.stub.RetryCallbackDelivery(rpc.RetryCallbackDeliveryRequest(name=name)))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "CALLBACK_DELIVERY_NOT_FOUND")


async def test_what_is_wrong_with_a_list_of_deliveries_is_said_at_once(rig: Rig) -> None:
    served = await rig.serve()
    bad = rpc.ListCallbackDeliveriesRequest(page_size=-1, state=9, video_task="b")  # type: ignore[arg-type]
    assert (await refused(served.stub.ListCallbackDeliveries(bad))).fields == ["page_size", "state", "video_task"]
    forged = rpc.ListCallbackDeliveriesRequest(page_token="x")
    assert (await refused(served.stub.ListCallbackDeliveries(forged))).reason == "TOKEN_INVALID"


@pytest.mark.parametrize("name", ["", "7", "callbackDeliveries/", "callbackDeliveries/-1", "callbackDeliveries/1e3"])
async def test_a_name_that_is_no_delivery_s_is_refused(rig: Rig, name: str) -> None:
    served = await rig.serve()
    refusal = await refused(served.stub.RetryCallbackDelivery(rpc.RetryCallbackDeliveryRequest(name=name)))
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["name"])
