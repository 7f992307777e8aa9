"""PyPI's ``standardwebhooks``, which Kling's documentation names, verifies what the sandbox sends."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from kling_flows.sandbox import SandboxServer, SandboxSettings, VideoSource
from kling_flows.upstream.constants import SANDBOX_API_KEY, StatusWord
from tests.sandbox.receiver import Event, Receiver

OLD, NEW, OTHER = (f"whsec_{base64.b64encode(name * 8).decode()}" for name in (b"old!", b"new!", b"else"))


@contextmanager
def sandbox(**settings: Any) -> Iterator[SandboxServer]:
    with SandboxServer(
        SandboxSettings(
            seconds=(0.0, 0.0),
            video=VideoSource.TINY,
            callback_states=frozenset({StatusWord.SUCCEED}),
            **settings,
        )
    ) as server:
        yield server


def post(server: SandboxServer, path: str, **body: Any) -> None:
    headers = {"authorization": f"Bearer {SANDBOX_API_KEY}"}
    httpx.post(server.url + path, json=body, headers=headers, trust_env=False).raise_for_status()


def order_legacy(server: SandboxServer, url: str) -> None:
    post(server, "/v1/videos/text2video", model_name="kling-v3", prompt="x", callback_url=url)


def order_standard(server: SandboxServer, url: str) -> None:
    post(server, "/text-to-video/kling-3.0", prompt="x", options={"callback_url": url})


def verified(event: Event, secret: str) -> Any:
    return Webhook(secret).verify(event.body, event.headers)


@pytest.mark.parametrize("order", [order_legacy, order_standard])
def test_signature_is_valid(receiver: Receiver, order: Any) -> None:
    with sandbox(callback_secrets=(OLD,)) as server:
        order(server, receiver.url)
        (event,) = receiver.wait_for(1)
    assert verified(event, OLD) == event.json
    with pytest.raises(WebhookVerificationError):
        verified(event, OTHER)


@pytest.mark.parametrize("order", [order_legacy, order_standard])
def test_both_secrets_verify_during_a_rotation(receiver: Receiver, order: Any) -> None:
    with sandbox(callback_secrets=(NEW, OLD)) as server:
        order(server, receiver.url)
        (event,) = receiver.wait_for(1)
    assert [part.split(",")[0] for part in event.headers["webhook-signature"].split(" ")] == ["v1", "v1"]
    assert verified(event, OLD) == verified(event, NEW) == event.json
    with pytest.raises(WebhookVerificationError):
        verified(event, OTHER)


@pytest.mark.parametrize(
    ("header", "value"),
    [("webhook-id", "1"), ("webhook-timestamp", "1781080794"), ("webhook-signature", "v1,AAAA"), (None, None)],
)
def test_tampering_is_found(receiver: Receiver, header: str | None, value: str) -> None:
    with sandbox(callback_secrets=(OLD,)) as server:
        order_standard(server, receiver.url)
        (event,) = receiver.wait_for(1)
    if header is None:
        event.body = event.body.replace(b"succeeded", b"failed")
    else:
        event.headers[header] = value
    with pytest.raises(WebhookVerificationError):
        verified(event, OLD)


def test_repetition_has_the_same_id_and_a_signature_of_its_own_time(receiver: Receiver) -> None:
    receiver.answers = [503]
    with sandbox(callback_secrets=(OLD,), callback_retry_seconds=1.1) as server:
        order_standard(server, receiver.url)
        first, second = receiver.wait_for(2)
    assert verified(first, OLD)["id"] == verified(second, OLD)["id"]
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert int(first.headers["webhook-timestamp"]) < int(second.headers["webhook-timestamp"])


def test_forged_event_does_not_verify_and_the_true_one_does(receiver: Receiver) -> None:
    with sandbox(callback_secrets=(NEW, OLD)) as server:
        server.set_faults([{"fault": "forged"}])
        order_standard(server, receiver.url)
        forged, true = receiver.wait_for(2)
    for secret in (NEW, OLD):
        with pytest.raises(WebhookVerificationError):
            verified(forged, secret)
    assert verified(true, NEW)["status"] == "succeeded"


def test_legacy_orders_can_go_without_a_signature(receiver: Receiver) -> None:
    with sandbox(callback_secrets=(OLD,), sign_legacy_callbacks=False) as server:
        order_legacy(server, receiver.url)
        (legacy,) = receiver.wait_for(1)
        order_standard(server, receiver.url)
        _, standard = receiver.wait_for(2)
    assert not any(name.startswith("webhook-") for name in legacy.headers)
    assert verified(standard, OLD)["status"] == "succeeded"


def test_nothing_is_signed_without_a_secret(receiver: Receiver) -> None:
    with sandbox() as server:
        order_standard(server, receiver.url)
        (event,) = receiver.wait_for(1)
    assert not any(name.startswith("webhook-") for name in event.headers)
