"""Every file of `fixtures/` is read by what reads its kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from fnmatch import fnmatch
from typing import Any, Final

import pytest
from pydantic import SecretStr

from kling_flows.engine.signatures import webhook_of
from kling_flows.sandbox.standard_order import parse_standard_order
from kling_flows.upstream import (
    JwtCredentials,
    UpstreamStatus,
    account_usage,
    legacy,
    parse_callback,
    parse_request,
    standard,
)
from kling_flows.upstream.refusals import classify, is_refusal

from .data import FIXTURES, load


def legacy_task(data: Any) -> None:
    task = legacy.parse_task(data)
    assert task.task_id == data["data"]["task_id"]
    assert task.status is not UpstreamStatus.UNKNOWN
    assert task.request_id == data["request_id"]


def legacy_list(data: Any) -> None:
    assert [task.task_id for task in legacy.parse_list(data)] == [one["task_id"] for one in data["data"]]


def standard_task(data: Any) -> None:
    assert standard.parse_task(data).status is UpstreamStatus.SUBMITTED


def standard_tasks(data: Any) -> None:
    (task,) = standard.parse_tasks(data)
    assert (task.status, len(task.videos), len(task.billing)) == (UpstreamStatus.SUCCEEDED, 1, 1)


def standard_page(data: Any) -> None:
    assert standard.parse_page(data).tasks == ()


def error(data: Any) -> None:
    body = data.get("body", data)
    assert is_refusal(body)
    message = body.get("error", body)["message"].partition(" (request id")[0]
    status = data.get("_http_status", 401)
    assert message[:20] in classify(status, body, creating=False, headers={}).message.replace('"', "'")


def callback(data: Any) -> None:
    raw = data["raw_body"] if "raw_body" in data else json.dumps(data)
    assert parse_callback(raw.encode()).status is not UpstreamStatus.UNKNOWN


def costs(data: Any) -> None:
    packs = data["data"].get("resource_pack_subscribe_infos", [])
    assert len(account_usage.parse_costs(data)) == len(packs)


def legacy_request(data: Any) -> None:
    # What we number ourselves is not taken from a caller.
    shots = [{name: value for name, value in shot.items() if name != "index"} for shot in data.get("multi_prompt", ())]
    wish = parse_request({**data, **({"multi_prompt": shots} if shots else {})})
    assert data.items() <= legacy.encode_create(wish, "ext-0001").items()


def standard_request(data: Any) -> None:
    order = parse_standard_order("kling-2.6", data, discontinued=frozenset())
    wish = parse_request(
        {
            "model_name": "kling-v2-6",
            "prompt": order.words,
            "mode": order.mode,
            "sound": "on" if order.sound else "off",
            "aspect_ratio": order.aspect_ratio,
            "duration": order.seconds,
            "watermark_info": {"enabled": order.watermark},
            "callback_url": order.callback_url,
        }
    )
    path, body = standard.encode_create(wish, "ext-0001")
    options = {**data["options"], "external_task_id": "ext-0001"}
    assert (path, body) == ("/text-to-video/kling-2.6", {**data, "options": options})


def signed_token(data: Any) -> None:
    made = JwtCredentials(data["access_key"], SecretStr(data["secret_key"])).authorization(data["now"])
    assert made == f"Bearer {data['token']}"


def signed_webhook(data: Any) -> None:
    sent = datetime.fromtimestamp(int(data["webhook-timestamp"]), UTC)
    webhook = webhook_of("KLING_FLOWS_CALLBACK_SECRETS", SecretStr(data["secret"]))
    assert webhook.sign(data["webhook-id"], sent, data["raw_body"]) == data["expected_signature"]
    assert parse_callback(data["raw_body"].encode()).status is UpstreamStatus.SUCCEEDED


#: The first pattern that a file's name matches decides.
READERS: Final[dict[str, Callable[[Any], None]]] = {
    "official_list_*": legacy_list,
    "official_*": legacy_task,
    "cometapi_error_*": error,
    "cometapi_*": legacy_task,
    "error_*": error,
    "callback_*": callback,
    "account_costs_*": costs,
    "newstd_create_*": standard_task,
    "newstd_tasks_get_*": standard_tasks,
    "newstd_tasks_list_*": standard_page,
    "request_newstd_*": standard_request,
    "request_*": legacy_request,
    "jwt_*": signed_token,
    "webhook_signature_*": signed_webhook,
}


@pytest.mark.parametrize("name", sorted(path.name for path in FIXTURES.glob("*.json")))
def test_fixture_is_read(name: str) -> None:
    reader = next(reader for pattern, reader in READERS.items() if fnmatch(name, pattern))
    reader(load(name))


def test_no_reader_is_without_a_fixture() -> None:
    names = [path.name for path in FIXTURES.glob("*.json")]
    assert all(any(fnmatch(name, pattern) for name in names) for pattern in READERS)
