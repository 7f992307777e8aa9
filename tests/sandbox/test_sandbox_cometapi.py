"""CometAPI's surface."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from .caller import Api, fetch

PREFIX = "/kling"


def assert_cometapi_error(answer: httpx.Response, status: int, text: str) -> None:
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["message"].startswith(f"{text} (request id: ")
    assert (error["type"], error["param"], error["code"]) == ("comet_api_error", "", "")


@pytest.mark.parametrize("authorization", [None, "Bearer nonsense", "Basic sk-1234"])
def test_bad_key_is_refused_in_its_own_envelope(shared: Api, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    answer = fetch(f"{shared.server.url}{PREFIX}{shared.path}/1", headers=headers)
    assert_cometapi_error(answer, 401, "invalid token")


def test_there_is_no_list(shared: Api, surface_of: Callable[..., Api]) -> None:
    answer = surface_of(shared, prefix=PREFIX).list()
    assert_cometapi_error(answer, 404, "Invalid URL (GET /kling/v1/videos/text2video)")


def test_create_answers_by_its_schema(api: Api, surface_of: Callable[..., Api]) -> None:
    body = surface_of(api, prefix=PREFIX).create(external_task_id="ext-0001").json()
    assert (body["code"], body["message"]) == (0, "SUCCEED")
    assert list(body["data"]) == ["task_id", "task_status", "created_at", "updated_at"]


def test_running_task_has_no_status_message(start: Callable[..., Api], surface_of: Callable[..., Api]) -> None:
    comet = surface_of(start(seconds=(60, 60)), prefix=PREFIX)
    task = comet.task(comet.created(external_task_id="ext-0001"))
    assert "task_status_msg" not in task
    assert task["task_info"] == {"external_task_id": "ext-0001"}


def test_finished_tasks_are_kling_s_own(api: Api, surface_of: Callable[..., Api]) -> None:
    comet = surface_of(api, prefix=PREFIX)
    task = comet.finished(external_task_id="ext-0001")
    assert task["task_result"]["videos"][0]["duration"] == "5.041"
    assert comet.task("ext-0001")["task_id"] == task["task_id"]
    failed = comet.wait_for(comet.created(prompt="[sandbox:fail]"), "failed")
    assert failed["task_status_msg"]


def test_errors_of_orders_are_kling_s_own(shared: Api, surface_of: Callable[..., Api]) -> None:
    answer = surface_of(shared, prefix=PREFIX).create(mode="standard")
    assert (answer.status_code, answer.json()["code"]) == (400, 1201)


def test_each_key_is_an_account_of_its_own_and_is_not_written_down(api: Api, surface_of: Callable[..., Api]) -> None:
    one = surface_of(api, prefix=PREFIX, key="sk-first")
    two = surface_of(api, prefix=PREFIX, key="sk-second")
    task_id = one.created(external_task_id="ext-0001")
    two.created(external_task_id="ext-0001")
    assert two.get(task_id).json()["code"] == 1201
    assert api.get(task_id).json()["code"] == 1201
    accounts = {charge["account"] for charge in api.server.charges()}
    assert len(accounts) == 2
    assert not any("sk-" in account for account in accounts)
