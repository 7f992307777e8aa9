"""The standard dialect: create by model, query by ids, list by cursor."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from .caller import Api, eventually, fetch
from .test_sandbox_auth import token, without_tokens

DAY_MS = 86_400_000


def shown(api: Api, task_id: str) -> dict[str, Any]:
    (task,) = api.tasks(task_ids=task_id).json()["data"]
    return task


def refused(response: Any) -> str:
    assert (response.status_code, response.json()["code"]) == (400, 1201)
    return response.json()["message"]


def test_create_answers_like_the_documented_sample(api: Api) -> None:
    before = int(time.time() * 1000)
    body = api.order(options={"external_task_id": "ext-0001"}).json()
    data = body["data"]
    assert list(body) == ["code", "message", "request_id", "data"]
    assert list(data) == ["id", "status", "create_time", "update_time", "external_id"]
    assert (data["status"], data["external_id"]) == ("submitted", "ext-0001")
    assert before <= data["create_time"] == data["update_time"] <= int(time.time() * 1000)


def test_task_without_external_id_shows_none(api: Api) -> None:
    assert "external_id" not in api.order(options={"external_task_id": ""}).json()["data"]


def test_running_task_has_no_outputs_and_no_billing(start: Callable[..., Api]) -> None:
    api = start(seconds=(60, 60))
    task = shown(api, api.ordered())
    assert (task["status"], task["message"], task["outputs"], task["billing"]) == ("submitted", "", [], [])


def test_succeeded_task_answers_like_the_documented_sample(api: Api) -> None:
    task = shown(api, api.ordered(options={"external_task_id": "e", "watermark_info": {"enabled": True}}))
    assert list(task) == [
        "id",
        "status",
        "message",
        "create_time",
        "update_time",
        "external_id",
        "outputs",
        "billing",
    ]
    (output,) = task["outputs"]
    assert task["status"] == "succeeded"
    assert list(output) == ["type", "id", "url", "watermark_url", "duration"]
    assert (output["type"], output["duration"]) == ("video", "5.041")
    assert task["billing"] == [{"charge_type": "unit", "amount": "3", "package_type": "video"}]
    assert fetch(output["url"]).status_code == fetch(output["watermark_url"]).status_code == 200


def test_failed_task_has_a_message_and_costs_nothing(api: Api) -> None:
    task = shown(api, api.ordered(prompt="[sandbox:fail]"))
    assert (task["status"], task["message"]) == ("failed", "Failure to pass the risk control system")
    assert (task["outputs"], task["billing"]) == ([], [])


@pytest.mark.parametrize(
    ("model", "settings", "units"),
    [
        ("kling-3.0", {}, "3"),
        ("kling-3.0", {"audio": "native", "multi_shot": False}, "4.5"),
        ("kling-3.0", {"resolution": "1080p", "duration": 15}, "12"),
        ("kling-3.0", {"resolution": "4k"}, "15"),
        ("kling-3.0-turbo", {"duration": 3}, "2.4"),
        ("kling-3.0-turbo", {"resolution": "1080p", "audio": "ignored"}, "5"),
        ("kling-2.6", {"duration": 10}, "3"),
        ("kling-2.6", {"resolution": "1080p", "audio": "native", "aspect_ratio": "9:16", "duration": 10}, "10"),
        ("kling-2.5-turbo", {"resolution": "1080p", "audio": "ignored"}, "2.5"),
    ],
)
def test_amount_follows_the_price_table(shared: Api, model: str, settings: dict[str, Any], units: str) -> None:
    (bill,) = shown(shared, shared.ordered(model, settings=settings))["billing"]
    assert bill["amount"] == units


@pytest.mark.parametrize(
    ("model", "fields", "text"),
    [
        ("kling-9", {}, "model is not supported"),
        ("kling-v3", {}, "model is not supported"),
        ("kling-3.0", {"prompt": ""}, "prompt is empty"),
        ("kling-2.6", {"prompt": "x" * 2501}, "prompt is too long: 2501 characters, at most 2500"),
        ("kling-3.0", {"prompt": "x" * 3073}, "prompt is too long: 3073 characters, at most 3072"),
        ("kling-3.0", {"settings": {"resolution": "9000p"}}, "settings.resolution value '9000p' is invalid"),
        ("kling-2.6", {"settings": {"resolution": "4k"}}, "settings.resolution value '4k' is invalid"),
        ("kling-3.0", {"settings": {"aspect_ratio": "7:3"}}, "settings.aspect_ratio value '7:3' is invalid"),
        ("kling-3.0", {"settings": {"audio": "bogus"}}, "settings.audio value 'bogus' is invalid"),
        ("kling-3.0", {"settings": {"multi_shot": "yes"}}, "settings.multi_shot value 'yes' is invalid"),
        ("kling-3.0", {"settings": {"duration": 16}}, "settings.duration value '16' is invalid"),
        ("kling-3.0", {"settings": {"duration": "5"}}, "settings.duration value '5' is invalid"),
        ("kling-3.0", {"settings": {"duration": True}}, "settings.duration value 'True' is invalid"),
        ("kling-2.6", {"settings": {"duration": 7}}, "settings.duration value '7' is invalid"),
        (
            "kling-2.6",
            {"settings": {"audio": "native"}},
            "settings.audio value 'native' is not supported with settings.resolution '720p'",
        ),
        ("kling-3.0", {"settings": []}, "settings value '[]' is invalid"),
        ("kling-3.0", {"options": {"external_task_id": 7}}, "options.external_task_id value '7' is invalid"),
        (
            "kling-3.0",
            {"options": {"watermark_info": {"enabled": "on"}}},
            "options.watermark_info.enabled value 'on' is invalid",
        ),
    ],
)
def test_bad_value_is_refused_by_its_path(shared: Api, model: str, fields: dict[str, Any], text: str) -> None:
    assert refused(shared.order(model, **fields)) == text


def test_prompt_of_3072_characters_is_taken_by_the_third_generation(shared: Api) -> None:
    assert shared.order("kling-3.0-turbo", prompt="x" * 3072).status_code == 200


def test_body_that_is_no_json_is_1200(shared: Api) -> None:
    answer = shared.http.post("/text-to-video/kling-3.0", content=b"{")
    assert (answer.status_code, answer.json()["code"]) == (400, 1200)


def test_discontinued_model_says_so(start: Callable[..., Api]) -> None:
    api = start(discontinued_models=frozenset({"kling-2.6"}))
    text = refused(api.order("kling-2.6"))
    assert text == "The model 'kling-2.6' has been discontinued and is no longer available."


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/text-to-video/kling-3.0"), ("GET", "/tasks?task_ids=1"), ("POST", "/tasks")]
)
@pytest.mark.parametrize(
    ("authorization", "code", "text"),
    [
        (None, 1001, "Authorization is empty"),
        ("Bearer nonsense", 1002, "api key not found"),
        (
            f"Bearer {token()}",
            1002,
            "Authentication error. The current API does not support AK/SK; please go to the console "
            "(https://kling.ai/dev/api-key) to create API key.",
        ),
    ],
    ids=without_tokens,
)
def test_only_the_api_key_is_accepted(
    shared: Api, method: str, path: str, authorization: str | None, code: int, text: str
) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    answer = fetch(shared.server.url + path, method, headers=headers)
    assert (answer.status_code, answer.json()["code"], answer.json()["message"]) == (401, code, text)


def test_there_is_no_standard_dialect_at_cometapi(shared: Api) -> None:
    assert shared.http.get("/kling/tasks?task_ids=1").status_code == 404


def test_tasks_of_both_dialects_are_one_book(api: Api) -> None:
    legacy = api.created(external_task_id="from-legacy")
    standard = api.ordered(options={"external_task_id": "from-standard"})
    tasks = api.tasks(task_ids=f"{standard},{legacy}").json()["data"]
    assert [(task["id"], task["external_id"]) for task in tasks] == [
        (standard, "from-standard"),
        (legacy, "from-legacy"),
    ]
    assert api.task("from-standard")["task_status"] == "succeed"
    assert [task["task_id"] for task in api.list().json()["data"]] == [standard, legacy]
    assert [charge["model_name"] for charge in api.server.charges()] == ["kling-v3", "kling-3.0"]


def test_external_id_is_taken_once_across_the_dialects(api: Api) -> None:
    api.created(external_task_id="ext-0001")
    assert refused(api.order(options={"external_task_id": "ext-0001"})) == "External_task_id ext-0001 already exists"
    assert len(api.server.charges()) == 1


def test_slots_are_shared_by_the_dialects_per_model_version(start: Callable[..., Api]) -> None:
    api = start(seconds=(60, 60), concurrency=1)
    api.created(model_name="kling-v3")
    assert api.order("kling-3.0").json()["code"] == 1303
    api.ordered("kling-3.0-turbo")
    api.ordered("kling-2.6")
    assert api.create(model_name="kling-v2-6").json()["code"] == 1303


def test_query_takes_exactly_one_kind_of_ids(shared: Api) -> None:
    assert refused(shared.tasks()) == "task_ids or external_task_ids is required"
    assert refused(shared.tasks(ids="1")) == "task_ids or external_task_ids is required"
    assert refused(shared.tasks(task_ids="1", external_task_ids="2"))


def test_query_takes_20_ids(api: Api) -> None:
    ids = [api.ordered() for _ in range(21)]
    assert [task["id"] for task in api.tasks(task_ids=",".join(ids[:20])).json()["data"]] == ids[:20]
    assert "at most 20" in refused(api.tasks(task_ids=",".join(ids)))
    assert "at most 20" in refused(api.tasks(external_task_ids=",".join(ids)))


def test_unknown_ids_are_left_out(api: Api) -> None:
    task_id = api.ordered(options={"external_task_id": "ext-0001"})
    assert api.tasks(task_ids="850000000000000099").json()["data"] == []
    assert api.tasks(task_ids="ext-0001").json()["data"] == []
    found = api.tasks(external_task_ids="nobody,ext-0001,ext-0001").json()["data"]
    assert [task["id"] for task in found] == [task_id]


def test_lookup_by_external_id_can_be_denied(start: Callable[..., Api]) -> None:
    api = start(external_id_lookup=False)
    api.ordered(options={"external_task_id": "ext-0001"})
    assert api.tasks(external_task_ids="ext-0001").json()["data"] == []


def test_new_task_can_stay_invisible_for_a_while(start: Callable[..., Api]) -> None:
    api = start(lookup_lag=1.0)
    task_id = api.ordered()
    assert api.tasks(task_ids=task_id).json()["data"] == []
    assert api.cursor().json()["data"]["result"] == []
    eventually(lambda: api.tasks(task_ids=task_id).json()["data"])
    assert [task["id"] for task in api.cursor().json()["data"]["result"]] == [task_id]


def test_empty_list_answers_like_the_recorded_sample(shared: Api) -> None:
    future = int(time.time() * 1000) + DAY_MS
    data = shared.cursor(start_time=str(future), end_time=str(future + 1)).json()["data"]
    assert data == {"result": [], "count": 0, "has_more": False}


def test_cursor_walks_all_tasks_newest_first_while_more_come(api: Api) -> None:
    ids = [api.ordered() for _ in range(5)]
    page = api.cursor(limit=2).json()["data"]
    seen = [task["id"] for task in page["result"]]
    api.ordered()
    while page["has_more"]:
        assert page["count"] == 2
        # With a cursor every other field is ignored.
        page = api.cursor(cursor=page["next_cursor"], limit=1, start_time="later").json()["data"]
        seen += [task["id"] for task in page["result"]]
    assert "next_cursor" not in page
    assert seen == ids[::-1]


def test_list_shows_the_same_objects_as_a_query(api: Api) -> None:
    task_id = api.ordered(options={"external_task_id": "ext-0001"})
    (listed,) = api.cursor().json()["data"]["result"]
    assert list(listed) == list(shown(api, task_id))


def test_list_is_filtered_by_time_status_and_product(api: Api) -> None:
    good, bad = api.ordered(), api.ordered(prompt="[sandbox:fail]")
    now = int(time.time() * 1000)

    def listed(**fields: Any) -> list[str]:
        return [task["id"] for task in api.cursor(**fields).json()["data"]["result"]]

    assert listed(end_time=now - DAY_MS) == []
    assert listed(start_time=now - DAY_MS, end_time=now + DAY_MS) == [bad, good]
    assert listed(filters=[{"key": "status", "values": ["succeeded"]}]) == [good]
    assert listed(filters=[{"key": "status", "values": ["succeeded", "failed"]}]) == [bad, good]
    assert listed(filters=[{"key": "status", "values": []}]) == [bad, good]
    assert listed(filters=[{"key": "product_type", "values": ["image"]}]) == []
    assert listed(filters=[{"key": "product_type", "values": ["video"]}]) == [bad, good]


@pytest.mark.parametrize(
    "fields",
    [
        {"limit": 0},
        {"limit": 501},
        {"limit": "10"},
        {"start_time": "yesterday"},
        {"start_time": 2, "end_time": 1},
        {"cursor": "nonsense"},
        {"cursor": "e30="},
        {"filters": {}},
        {"filters": [{"key": "colour", "values": []}]},
        {"filters": [{"key": "status", "values": [1]}]},
    ],
)
def test_bad_list_is_refused(shared: Api, fields: dict[str, Any]) -> None:
    assert refused(shared.cursor(**fields))


def test_cursor_of_another_list_is_refused(api: Api) -> None:
    api.ordered(), api.ordered()
    cursor = api.cursor(limit=1).json()["data"]["next_cursor"]
    answer = api.http.post("/account/billing/package", json={"cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (400, 1201)


def test_page_has_100_tasks_unless_asked_and_500_at_most(api: Api) -> None:
    for _ in range(501):
        api.ordered()
    assert api.cursor().json()["data"]["count"] == 100
    page = api.cursor(limit=500).json()["data"]
    assert (page["count"], page["has_more"]) == (500, True)
