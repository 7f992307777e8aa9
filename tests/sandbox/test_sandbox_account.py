"""Packs, costs and deductions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from kling_flows.errors import ConfigurationError
from kling_flows.sandbox import SandboxSettings

from .caller import Api, fetch
from .test_sandbox_auth import token

WINDOW = {"start_time": 1, "end_time": 4_000_000_000_000}


def costs(api: Api, **query: Any) -> httpx.Response:
    return api.http.get("/account/costs", params={**WINDOW, **query})


def pack(api: Api) -> dict[str, Any]:
    (found,) = costs(api).json()["data"]["resource_pack_subscribe_infos"]
    return found


def deductions(api: Api, **fields: Any) -> dict[str, Any]:
    answer = api.http.post("/account/billing/package", json=fields if "cursor" in fields else {**WINDOW, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def test_costs_answer_like_the_documented_sample(api: Api) -> None:
    data = costs(api).json()["data"]
    assert list(data) == ["code", "msg", "resource_pack_subscribe_infos"]
    assert list(pack(api)) == [
        "resource_pack_name",
        "resource_pack_id",
        "resource_pack_type",
        "total_quantity",
        "remaining_quantity",
        "purchase_time",
        "effective_time",
        "invalid_time",
        "status",
    ]
    assert (pack(api)["total_quantity"], pack(api)["remaining_quantity"]) == (10_000, 10_000)
    assert (pack(api)["resource_pack_type"], pack(api)["status"]) == ("decreasing_total", "online")


def test_remaining_units_follow_the_charges(start: Callable[..., Api]) -> None:
    api = start(units=100)
    api.created()
    api.ordered("kling-3.0-turbo")
    failing = api.created(prompt="[sandbox:fail]")
    api.wait_for(failing, "failed")
    charged = sum(charge["units"] for charge in api.server.charges() if not charge["refunded"])
    assert charged == 7
    assert pack(api)["remaining_quantity"] == 93


def test_price_is_set_aside_while_the_task_runs_and_deducted_at_its_end(start: Callable[..., Api]) -> None:
    api = start(seconds=(60, 60), units=100)
    api.created()
    assert pack(api)["remaining_quantity"] == 97
    assert deductions(api)["result"] == {"detail": [], "count": 0}


def test_empty_pack_refuses_creates_with_1102(start: Callable[..., Api]) -> None:
    api = start(units=6)
    api.created(external_task_id="ext-0001")
    api.ordered()
    for answer in (api.create(), api.order()):
        body = answer.json()
        assert (answer.status_code, body["code"], body["message"]) == (429, 1102, "Account balance not enough")
    assert api.create(external_task_id="ext-0001").json()["message"] == "External_task_id ext-0001 already exists"
    assert pack(api)["status"] == "runOut"
    assert len(api.server.charges()) == 2


def test_failed_task_gives_its_units_back(start: Callable[..., Api]) -> None:
    api = start(units=3)
    api.wait_for(api.created(prompt="[sandbox:fail]"), "failed")
    api.created()


def test_pack_is_topped_up_unless_it_has_a_size(start: Callable[..., Api]) -> None:
    api = start()
    for _ in range(223):
        api.created(mode="4k", duration="15")
    assert pack(api)["total_quantity"] == 20_000
    assert pack(api)["remaining_quantity"] == 20_000 - 223 * 45


def test_account_without_packs_shows_no_list(start: Callable[..., Api]) -> None:
    api = start(units=0)
    assert costs(api).json()["data"] == {"code": 0, "msg": "success"}


def test_pack_is_found_by_its_name(shared: Api) -> None:
    name = pack(shared)["resource_pack_name"]
    assert costs(shared, resource_pack_name=name).json()["data"]["resource_pack_subscribe_infos"]
    assert "resource_pack_subscribe_infos" not in costs(shared, resource_pack_name="another").json()["data"]


@pytest.mark.parametrize(
    "query",
    [{"start_time": ""}, {"end_time": ""}, {"start_time": "soon"}, {"start_time": 2, "end_time": 1}],
)
def test_costs_need_a_window(shared: Api, query: dict[str, Any]) -> None:
    answer = costs(shared, **query)
    assert (answer.status_code, answer.json()["code"]) == (400, 1201)


def test_costs_take_either_credentials_and_billing_only_the_key(shared: Api) -> None:
    headers = {"authorization": f"Bearer {token()}"}
    assert fetch(f"{shared.server.url}/account/costs", params=WINDOW, headers=headers).status_code == 200
    for path in ("/account/billing/package", "/account/billing/balance"):
        answer = fetch(shared.server.url + path, "POST", json=WINDOW, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, 1002)
    assert fetch(f"{shared.server.url}/account/costs", params=WINDOW).json()["code"] == 1001


def test_costs_can_be_limited_to_one_a_second(start: Callable[..., Api]) -> None:
    api = start(limit_costs=True)
    assert costs(api).status_code == 200
    answer = costs(api)
    assert (answer.status_code, answer.json()["code"]) == (429, 1302)


def test_every_succeeded_task_is_deducted_once(start: Callable[..., Api]) -> None:
    api = start(units=100)
    before = int(time.time() * 1000)
    legacy = api.finished(mode="pro", sound="on")["task_id"]
    standard = api.ordered("kling-3.0-turbo", settings={"resolution": "1080p", "duration": 3})
    api.wait_for(api.created(prompt="[sandbox:fail]"), "failed")
    data = deductions(api)
    assert list(data) == ["result", "has_more"]
    second, first = data["result"]["detail"]
    times = [int(entry.pop("deduction_time")) for entry in (first, second)]
    assert before <= times[0] <= times[1] <= int(time.time() * 1000)
    fixed = {
        "package_id": pack(api)["resource_pack_id"],
        "product_type": "video",
        "api_key_name": "sandbox",
        "product_function": "Text to Video",
        "refer_video_input": False,
        "voice_control": False,
        "video_sound": "native",
        "resolution": "1080p",
    }
    assert first == fixed | {
        "task_id": legacy,
        "model_name": "kling-v3",
        "duration": "5.08",
        "unit_before_deduction": 100,
        "deduction_amount": 6,
        "unit_after_deduction": 94,
    }
    assert second == fixed | {
        "task_id": standard,
        "model_name": "kling-3.0-turbo",
        "duration": "3.08",
        "unit_before_deduction": 94,
        "deduction_amount": 3,
        "unit_after_deduction": 91,
    }
    assert pack(api)["remaining_quantity"] == 91


def test_deductions_come_by_cursor(api: Api) -> None:
    ids = [api.finished()["task_id"] for _ in range(5)]
    data = deductions(api, limit=2)
    seen = [entry["task_id"] for entry in data["result"]["detail"]]
    while data["has_more"]:
        data = deductions(api, cursor=data["next_cursor"])
        seen += [entry["task_id"] for entry in data["result"]["detail"]]
    assert seen == ids[::-1]


def test_deductions_are_filtered(api: Api) -> None:
    api.finished()
    pack_id = pack(api)["resource_pack_id"]

    def count(**wanted: str) -> int:
        filters = [{"key": key, "values": [value]} for key, value in wanted.items()]
        return deductions(api, filters=filters)["result"]["count"]

    assert count(api_key_name="sandbox", product_type="video", package_id=pack_id) == 1
    assert count(product_type="image") == count(api_key_name="another") == count(package_id="another") == 0
    assert deductions(api, start_time=1, end_time=2)["result"]["count"] == 0


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"start_time": 1},
        {**WINDOW, "limit": 501},
        {
            **WINDOW,
            "filters": [{"key": "package_name", "values": ["a"]}, {"key": "package_id", "values": ["b"]}],
        },
    ],
)
def test_bad_question_for_deductions_is_refused(shared: Api, fields: dict[str, Any]) -> None:
    answer = shared.http.post("/account/billing/package", json=fields)
    assert (answer.status_code, answer.json()["code"]) == (400, 1201)


def test_balance_has_no_deductions(api: Api) -> None:
    api.finished()
    answer = api.http.post("/account/billing/balance", json=WINDOW).json()
    assert answer["data"] == {"result": {"detail": [], "count": 0}, "has_more": False}
    assert api.http.post("/account/billing/balance", json={}).status_code == 400


def test_account_calls_go_wrong_on_demand(api: Api) -> None:
    api.server.set_faults([{"fault": "http_error", "on": "account", "code": 5001}])
    assert costs(api).json()["code"] == 5001
    assert api.http.post("/account/billing/package", json=WINDOW).json()["code"] == 5001


@pytest.mark.parametrize("units", [-1, float("nan"), float("inf")])
def test_impossible_packs_are_refused(units: float) -> None:
    with pytest.raises(ConfigurationError):
        SandboxSettings(units=units)
