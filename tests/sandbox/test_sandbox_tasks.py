"""Tasks from create to their end, as create, query and list show them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from kling_flows.sandbox import SandboxSettings

from .caller import Api, eventually


def test_create_answers_like_the_recorded_sample(api: Api) -> None:
    before = int(time.time() * 1000)
    body = api.create(external_task_id="ext-0001").json()
    data = body["data"]
    assert list(body) == ["code", "message", "request_id", "data"]
    assert (body["code"], body["message"], data["task_status"]) == (0, "SUCCEED", "submitted")
    assert list(data) == ["task_id", "task_status", "task_info", "created_at", "updated_at"]
    assert data["task_info"] == {"external_task_id": "ext-0001"}
    assert before <= data["created_at"] == data["updated_at"] <= int(time.time() * 1000)


def test_create_without_external_id_has_an_empty_task_info(api: Api) -> None:
    assert api.create().json()["data"]["task_info"] == {}


def test_ids_are_18_digits_of_text_and_never_repeat(api: Api) -> None:
    tasks = [api.finished() for _ in range(20)]
    ids = [task["task_id"] for task in tasks] + [task["task_result"]["videos"][0]["id"] for task in tasks]
    assert all(isinstance(one, str) and len(one) == 18 and one.isdigit() for one in ids)
    assert len(set(ids)) == len(ids)


def test_task_passes_its_states_in_order(start: Callable[..., Api]) -> None:
    api = start(seconds=(3, 3))
    task_id = api.created()
    seen: list[dict[str, Any]] = []
    eventually(lambda: seen.append(api.task(task_id)) or seen[-1]["task_status"] == "succeed")
    assert [word for word, _ in itertools.groupby(task["task_status"] for task in seen)] == [
        "submitted",
        "processing",
        "succeed",
    ]
    assert [task["updated_at"] for task in seen] == sorted(task["updated_at"] for task in seen)
    assert seen[-1]["updated_at"] - seen[-1]["created_at"] == 3000


def test_running_task_answers_like_the_recorded_sample(start: Callable[..., Api]) -> None:
    api = start(seconds=(60, 60))
    task = api.task(api.created(external_task_id="ext-0001"))
    assert task["task_status_msg"] == ""
    assert task["task_result"] == {}
    assert list(task) == [
        "task_id",
        "task_status",
        "task_status_msg",
        "task_info",
        "task_result",
        "created_at",
        "updated_at",
    ]


def test_succeeded_task_answers_like_the_recorded_sample(api: Api) -> None:
    task = api.finished(external_task_id="ext-0001")
    assert list(task) == [
        "task_id",
        "task_status",
        "task_status_msg",
        "task_info",
        "task_result",
        "watermark_info",
        "final_unit_deduction",
        "final_balance_deduction",
        "created_at",
        "updated_at",
    ]
    (video,) = task["task_result"]["videos"]
    assert list(video) == ["id", "url", "watermark_url", "duration"]
    assert (video["duration"], video["watermark_url"]) == ("5.041", "")
    assert task["task_status_msg"] == ""
    assert task["watermark_info"] == {"enabled": False}
    assert task["final_balance_deduction"] == {"quota": "0", "list_price": "0"}


@pytest.mark.parametrize(
    ("fields", "units"),
    [
        ({}, "3"),
        ({"sound": "on"}, "4.5"),
        ({"mode": "pro"}, "4"),
        ({"mode": "pro", "sound": "on"}, "6"),
        ({"mode": "4k"}, "15"),
        ({"mode": "4k", "sound": "on", "duration": "10"}, "30"),
        ({"duration": "3"}, "1.8"),
        ({"model_name": "kling-v2-6"}, "1.5"),
        ({"model_name": "kling-v2-6", "mode": "pro", "duration": "10"}, "5"),
        ({"model_name": "kling-v2-6", "mode": "pro", "sound": "on"}, "5"),
        (
            {
                "model_name": "kling-v2-6",
                "mode": "pro",
                "sound": "on",
                "duration": "10",
                "voice_list": [{"voice_id": "v"}],
            },
            "12",
        ),
        ({"model_name": "kling-v2-5-turbo", "mode": "pro"}, "2.5"),
        ({"model_name": "kling-v2-master"}, "10"),
        ({"model_name": "kling-v1-6", "mode": "pro"}, "3.5"),
    ],
)
def test_deduction_follows_the_price_table(shared: Api, fields: dict[str, Any], units: str) -> None:
    assert shared.finished(**fields)["final_unit_deduction"] == units


def test_task_fails_on_demand_under_code_0(api: Api) -> None:
    task_id = api.created(prompt="a storm [sandbox:fail]")
    task = api.wait_for(task_id, "failed")
    assert api.get(task_id).json()["message"] == "SUCCEED"
    assert task["task_status_msg"] == "Failure to pass the risk control system"
    assert task["task_result"] == {}
    assert "final_unit_deduction" not in task


def test_task_gets_stuck_on_demand(api: Api) -> None:
    stuck = api.created(prompt="a wait [sandbox:stuck]")
    api.finished()
    assert api.task(stuck)["task_status"] == "processing"


def test_marks_count_in_the_shots_and_not_in_an_unused_prompt(api: Api) -> None:
    fields: dict[str, Any] = {"prompt": "[sandbox:reject]", "multi_shot": True, "shot_type": "customize"}
    api.wait_for(api.created(**fields, multi_prompt=[{"index": 1, "prompt": "rain", "duration": "5"}]))
    failing = [{"index": 1, "prompt": "rain [sandbox:fail]", "duration": "5"}]
    api.wait_for(api.created(**fields, multi_prompt=failing), "failed")


@pytest.mark.parametrize("name", ["ext-0001", "with space/and slash?and=query", "日本語", "123456789012345678"])
def test_task_is_found_by_its_external_id(shared: Api, name: str) -> None:
    task_id = shared.created(external_task_id=name)
    answer = shared.http.get(f"{shared.path}/{quote(name, safe='')}")
    assert answer.json()["data"]["task_id"] == task_id


def test_unknown_id_is_refused_with_1201(shared: Api) -> None:
    answer = shared.get("850000000000000099")
    assert answer.status_code == 400
    assert answer.json()["code"] == 1201
    assert answer.json()["message"] == "Task not found by id/external id: 850000000000000099"


def test_external_id_is_taken_once(api: Api) -> None:
    api.created(external_task_id="ext-0001")
    answer = api.create(external_task_id="ext-0001", prompt="another")
    body = answer.json()
    assert (answer.status_code, body["code"]) == (400, 1201)
    assert body["message"] == "External_task_id ext-0001 already exists"
    assert len(api.server.charges()) == 1


def test_list_is_a_bare_array_newest_first(api: Api) -> None:
    assert api.list().json()["data"] == []
    ids = [api.created() for _ in range(5)]
    assert [task["task_id"] for task in api.list().json()["data"]] == ids[::-1]
    pages = [api.list(pageNum=number, pageSize=2).json()["data"] for number in (1, 2, 3, 4)]
    assert [[task["task_id"] for task in page] for page in pages] == [ids[:2:-1], ids[2:0:-1], ids[:1], []]


def test_list_shows_the_same_objects_as_a_query(api: Api) -> None:
    task = api.finished(external_task_id="ext-0001")
    (listed,) = api.list().json()["data"]
    assert list(listed) == list(task)
    assert listed["final_unit_deduction"] == task["final_unit_deduction"]


def test_list_has_30_tasks_a_page_unless_asked(api: Api) -> None:
    for _ in range(31):
        api.created()
    assert len(api.list().json()["data"]) == 30
    assert len(api.list(pageSize=500).json()["data"]) == 31


@pytest.mark.parametrize(
    "query", [{"pageNum": 0}, {"pageNum": 1001}, {"pageSize": 0}, {"pageSize": 501}, {"pageSize": "many"}]
)
def test_list_refuses_pages_out_of_range(shared: Api, query: dict[str, Any]) -> None:
    answer = shared.list(**query)
    assert (answer.status_code, answer.json()["code"]) == (400, 1201)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [("DELETE", "/v1/videos/text2video/1", 1202), ("PUT", "/v1/videos/text2video", 1202), ("PATCH", "/tasks", 1202)],
)
def test_other_endpoints_do_not_exist(shared: Api, method: str, path: str, code: int) -> None:
    answer = shared.http.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (404, code)


def test_named_orders_take_the_same_time_in_every_run(start: Callable[..., Api]) -> None:
    def times(seed: int) -> list[int]:
        api = start(seconds=(0.0, 0.2), seed=seed)
        tasks = [api.finished(external_task_id=f"ext-{number}") for number in range(4)]
        return [task["updated_at"] - task["created_at"] for task in tasks]

    first = times(1)
    assert times(1) == first
    assert times(2) != first
    assert len(set(first)) > 1
    assert all(0 <= took <= 200 for took in first)


def test_concurrency_limit_counts_unfinished_tasks_per_model(start: Callable[..., Api]) -> None:
    api = start(seconds=(1.0, 1.0), concurrency=2)
    first = [api.created(), api.created()]
    refused = api.create()
    assert (refused.status_code, refused.json()["code"]) == (429, 1303)
    assert refused.json()["message"] == "parallel task over resource pack limit"
    assert "data" not in refused.json()
    api.created(model_name="kling-v2-6")
    for task_id in first:
        api.wait_for(task_id)
    api.created()
    assert len(api.server.charges()) == 4


def test_failed_tasks_give_their_slots_back_and_stuck_ones_keep_them(start: Callable[..., Api]) -> None:
    api = start(seconds=(0.05, 0.05), concurrency=1)
    api.wait_for(api.created(prompt="[sandbox:fail]"), "failed")
    api.created(prompt="[sandbox:stuck]")
    assert api.create().json()["code"] == 1303


def test_twenty_tasks_run_at_once_by_default() -> None:
    assert SandboxSettings().concurrency == 20


def test_external_ids_may_repeat_where_the_service_is_set_to_not_care(start: Callable[..., Api]) -> None:
    api = start(reject_duplicates=False)
    assert api.created(external_task_id="ext-0001") != api.created(external_task_id="ext-0001")


def test_lookup_by_external_id_can_be_denied(start: Callable[..., Api]) -> None:
    api = start(external_id_lookup=False)
    task_id = api.created(external_task_id="ext-0001")
    assert api.get("ext-0001").json()["code"] == 1201
    assert api.task(task_id)["task_id"] == task_id


def test_new_task_can_stay_invisible_for_a_while_and_still_blocks_its_external_id(start: Callable[..., Api]) -> None:
    api = start(lookup_lag=1.0)
    task_id = api.created(external_task_id="ext-0001")
    assert api.get("ext-0001").json()["code"] == 1201
    assert api.list().json()["data"] == []
    assert api.create(external_task_id="ext-0001").json()["message"] == "External_task_id ext-0001 already exists"
    eventually(lambda: api.get("ext-0001").status_code == 200)
    assert [task["task_id"] for task in api.list().json()["data"]] == [task_id]
