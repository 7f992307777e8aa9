from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook

from kling_flows.engine import webhooks
from kling_flows.engine.carry import carry
from kling_flows.engine.engine import Engine
from kling_flows.engine.signatures import webhook_of
from kling_flows.errors import ConfigurationError
from kling_flows.ledger import Delivery, DeliveryState, State, VideoTask

from .receiver import Receiver, receiving
from .rig import OpenEngine, new_task, until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as opened:
        yield opened


def _task(receiver: Receiver, name: str = "t", **fields: Any) -> VideoTask:
    task = new_task(name)
    request = task.request.model_copy(update={"callback_url": receiver.url, **fields})
    return task.model_copy(update={"request": request, "labels": {"team": "ads"}})


async def _create(engine: Engine, receiver: Receiver, name: str = "t", **fields: Any) -> VideoTask:
    return await engine.ledger.create(_task(receiver, name, **fields), runner_id=engine.runner_id)


async def _deliveries(engine: Engine) -> list[Delivery]:
    return list(reversed(await engine.ledger.list_deliveries("default", limit=100)))


async def _settled(engine: Engine, state: DeliveryState) -> list[Delivery]:
    async def settled() -> list[Delivery]:
        found = await _deliveries(engine)
        return found if found and all(delivery.state is state for delivery in found) else []

    return await until(settled)


async def test_the_caller_is_told_of_each_state_in_order(open_engine: OpenEngine, receiver: Receiver) -> None:
    engine = await open_engine(webhook_secret=SECRET)
    await _create(engine, receiver)
    await carry(engine, "t", None)
    await until(lambda: receiver.calls and receiver.calls[-1].json["data"]["state"] == "SUCCEEDED")
    told = [call.json for call in receiver.calls]
    states = [body["data"]["state"] for body in told]
    assert states[:3] == ["QUEUED", "SUBMITTING", "SUBMITTED"]
    assert states[-2:] == ["ARCHIVING", "SUCCEEDED"]
    revisions = [body["data"]["revision"] for body in told]
    assert revisions == sorted(set(revisions))
    last = told[-1]
    assert last["type"] == "video_task.succeeded"
    assert last["data"]["name"] == "videoTasks/t"
    assert last["data"]["labels"] == {"team": "ads"}
    (artifact,) = last["data"]["artifacts"]
    assert len(artifact["sha256"]) == 64
    assert artifact["size_bytes"] > 0
    assert last["timestamp"] == last["data"]["end_time"]
    # What the task was made of, and with it the caller's own address, is not part of it.
    assert not any(b"of-the-caller" in call.body or b"prompt" in call.body for call in receiver.calls)


async def test_a_call_is_signed_so_that_the_caller_can_verify_it(open_engine: OpenEngine, receiver: Receiver) -> None:
    engine = await open_engine(webhook_secret=SECRET)
    await _create(engine, receiver)
    await _settled(engine, DeliveryState.DELIVERED)
    (call,) = receiver.calls
    assert call.path == "/hook?token=of-the-caller"
    assert call.headers["webhook-id"] == f"msg_{engine.ledger.ledger_id}_1"
    assert Webhook(SECRET).verify(call.body, call.headers) == call.json


async def test_without_a_secret_a_call_has_an_id_and_no_signature(engine: Engine, receiver: Receiver) -> None:
    await _create(engine, receiver)
    await _settled(engine, DeliveryState.DELIVERED)
    assert "webhook-id" in receiver.calls[0].headers
    assert "webhook-signature" not in receiver.calls[0].headers


async def test_a_call_that_fails_is_repeated_with_the_same_id_and_body(
    engine: Engine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "RETRY_DELAYS", (0.05,) * 7)
    receiver.statuses = [500, 302, 429]
    receiver.headers = "location: /elsewhere\r\n"
    await _create(engine, receiver)
    (delivery,) = await _settled(engine, DeliveryState.DELIVERED)
    assert delivery.attempts == len(receiver.calls) == 4
    assert {(call.path, call.headers["webhook-id"], call.body) for call in receiver.calls} == {
        (receiver.calls[0].path, receiver.calls[0].headers["webhook-id"], receiver.calls[0].body)
    }


async def test_the_next_attempt_is_put_off_for_longer_each_time(engine: Engine, receiver: Receiver) -> None:
    receiver.statuses = [500]
    await _create(engine, receiver)

    async def failed() -> Delivery | None:
        (delivery,) = await _deliveries(engine)
        return delivery if delivery.last_error else None

    delivery = await until(failed)
    assert (delivery.state, delivery.last_error) == (DeliveryState.PENDING, "the answer was 500")
    assert 3 < delivery.next_time - time.time() < 6
    assert list(webhooks.RETRY_DELAYS) == sorted(webhooks.RETRY_DELAYS)


async def test_a_delivery_is_given_up_after_the_last_delay_and_the_next_one_goes(
    engine: Engine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "RETRY_DELAYS", (0.02,) * 2)
    receiver.statuses = [500, 500, 500]
    await _create(engine, receiver)
    await engine.ledger.advance("t", lambda t: t.model_copy(update={"state": State.CANCELLED}))
    await until(lambda: len(receiver.calls) == 4)

    async def states() -> bool:
        return [d.state for d in await _deliveries(engine)] == [DeliveryState.DEAD, DeliveryState.DELIVERED]

    await until(states)
    assert [call.json["data"]["state"] for call in receiver.calls] == ["QUEUED"] * 3 + ["CANCELLED"]


async def test_gone_means_never_again(engine: Engine, receiver: Receiver) -> None:
    receiver.statuses = [410]
    await _create(engine, receiver)
    (delivery,) = await _settled(engine, DeliveryState.DEAD)
    assert (delivery.attempts, delivery.last_error) == (1, "the answer was 410")


async def test_an_address_that_must_not_be_called_is_given_up(engine: Engine, receiver: Receiver) -> None:
    await _create(engine, receiver, callback_url="http://169.254.169.254/latest?token=x")
    (delivery,) = await _settled(engine, DeliveryState.DEAD)
    assert delivery.last_error == "the address is not one that may be called"
    assert receiver.calls == []


async def test_an_address_where_nobody_answers_is_tried_again_and_named_nowhere(
    engine: Engine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "RETRY_DELAYS", (0.02,))
    await _create(engine, receiver, callback_url="http://127.0.0.1:9/hook?token=secret")
    (delivery,) = await _settled(engine, DeliveryState.DEAD)
    assert delivery.attempts == 2
    assert "127.0.0.1" not in delivery.last_error
    assert "secret" not in delivery.last_error


async def test_a_silent_receiver_is_not_waited_for_for_ever(
    engine: Engine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "RETRY_DELAYS", ())
    monkeypatch.setattr(webhooks, "DEADLINE", 0.2)
    receiver.silent = True
    await _create(engine, receiver)
    (delivery,) = await _settled(engine, DeliveryState.DEAD)
    assert delivery.last_error.startswith("no answer within")


async def test_a_long_answer_changes_nothing(engine: Engine, receiver: Receiver) -> None:
    receiver.answer = b"x" * 1_000_000
    await _create(engine, receiver)
    await _settled(engine, DeliveryState.DELIVERED)


async def test_what_one_engine_has_left_another_delivers(open_engine: OpenEngine, receiver: Receiver) -> None:
    first = await open_engine()
    second = await open_engine()
    for number in range(20):
        await _create(first, receiver, f"t{number}")
    await _settled(second, DeliveryState.DELIVERED)
    # Each once, although two engines look.
    assert len({call.headers["webhook-id"] for call in receiver.calls}) == len(receiver.calls) == 20


async def test_a_video_after_the_end_has_a_word_of_its_own(engine: Engine, receiver: Receiver) -> None:
    await _create(engine, receiver)
    await engine.ledger.advance("t", lambda t: t.model_copy(update={"state": State.EXPIRED}))
    await carry(engine, "t", None)
    (_, ended) = await _settled(engine, DeliveryState.DELIVERED)
    late = ended.task.model_copy(update={"update_time": ended.task.update_time.replace(year=2100)})
    assert b'"video_task.expired"' in webhooks.body_of(ended)
    archived = Delivery(9, 9, late, DeliveryState.PENDING, 0, 0.0, "")
    assert b'"video_task.archived"' in webhooks.body_of(archived)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!!", "whsec_c2hvcnQ="])
def test_a_secret_that_is_none_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        webhook_of("KLING_FLOWS_WEBHOOK_SECRET", SecretStr(secret))
    assert "KLING_FLOWS_WEBHOOK_SECRET" in str(caught.value)
    assert "c2hvcnQ" not in str(caught.value)
