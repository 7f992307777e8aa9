"""What the console's pages read and write."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from grpc_server.console import search
from kling_flows.ledger import Lease, State
from kling_flows.settings import Budget
from tests.front.rig import Rig, front_settings, new_record

from .conftest import Console, consoled


def wish(prompt: str = "a cat", **labels: str) -> dict[str, Any]:
    return {"video_task": {"text_to_video": {"prompt": prompt}, "labels": labels}}


async def created(console: Console, prompt: str = "a cat", **labels: str) -> str:
    answer = await console.post("/api/tasks", wish(prompt, **labels))
    assert answer.status_code == 201, answer.text
    return answer.json()["name"].removeprefix("videoTasks/")


async def listed(console: Console, **query: Any) -> dict[str, Any]:
    answer = await console.get("/api/tasks", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(page: dict[str, Any]) -> list[str]:
    return [task["name"].removeprefix("videoTasks/") for task in page.get("video_tasks", [])]


async def test_pages_lead_to_one_another_the_newest_first(console: Console) -> None:
    names = [await created(console, f"cat {number}") for number in range(5)]
    first = await listed(console, page_size=3)
    second = await listed(console, page_size=3, page_token=first["next_page_token"])

    assert ids(first) + ids(second) == names[::-1]
    assert "next_page_token" not in second


async def test_filters_are_those_of_grpc(console: Console) -> None:
    wanted = await created(console, team="ads")
    await created(console, team="news")

    assert ids(await listed(console, filter='labels.team = "ads" AND state = QUEUED')) == [wanted]
    answer = await console.get("/api/tasks", params={"filter": "colour = red"})
    assert (answer.status_code, answer.json()["title"]) == (400, "INVALID_REQUEST")


async def test_words_of_the_prompt_are_found_whatever_their_case(console: Console) -> None:
    boat = await created(console, "A paper BOAT on a lake")
    await created(console, "a cat")

    assert ids(await listed(console, text="paper boat")) == [boat]
    assert ids(await listed(console, text=boat[-8:])) == [boat]
    assert ids(await listed(console, text="submarine")) == []


async def test_a_search_is_bounded_and_goes_on_where_it_stopped(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MOST_SCANNED", 4)
    monkeypatch.setattr(search, "_PAGE", 2)
    boat = await created(console, "a boat")
    for number in range(5):
        await created(console, f"cat {number}")
    first = await listed(console, text="boat")
    second = await listed(console, text="boat", page_token=first["next_page_token"])

    assert (ids(first), ids(second)) == ([], [boat])
    assert "next_page_token" not in second


async def test_a_page_size_out_of_range_is_refused(console: Console) -> None:
    for size in ("0", "-1", "201", "many", "9" * 30, "²"):
        answer = await console.get("/api/tasks", params={"page_size": size})

        assert (answer.status_code, answer.json()["title"]) == (400, "INVALID_REQUEST"), size


async def test_a_task_comes_with_its_history_and_where_to_watch_on(console: Console) -> None:
    task_id = await created(console, "a boat")
    await console.served.move(task_id, State.SUBMITTING)
    detail = (await console.get(f"/api/tasks/{task_id}")).json()
    await console.served.move(task_id, State.SUBMITTED)
    async with console.events(name=f"videoTasks/{task_id}", resume_token=detail["resume_token"]) as events:
        event = await anext(events)

    assert detail["video_task"]["text_to_video"]["prompt"] == "a boat"
    assert [(each["revision"], each["state"]) for each in detail["events"]] == [("1", "QUEUED"), ("2", "SUBMITTING")]
    assert event.sights == [(task_id, "SUBMITTED")]


async def test_a_task_that_cannot_be_is_a_clear_error(console: Console) -> None:
    for task_id, status in (("vt-none", 404), ("UPPER", 400), ("a_b", 400), ("%20", 400)):
        answer = await console.get(f"/api/tasks/{task_id}")

        assert answer.status_code == status, task_id


async def test_a_create_is_checked_field_by_field_and_repeats_without_paying_twice(console: Console) -> None:
    bad = await console.post("/api/tasks", {"video_task": {"text_to_video": {"prompt": "x", "duration": 99}}})
    body = {**wish("a boat"), "request_id": "r-1"}
    twice = [(await console.post("/api/tasks", body)).json()["name"] for _ in range(2)]
    [detail] = [each for each in bad.json()["error"]["details"] if each["@type"].endswith("BadRequest")]

    assert bad.status_code == 400
    assert [each["field"] for each in detail["field_violations"]] == ["video_task.text_to_video.duration"]
    assert twice[0] == twice[1]
    assert len(ids(await listed(console))) == 1


async def test_what_is_no_request_is_refused(console: Console) -> None:
    headers = {"origin": console.origin, "content-type": "application/json"}
    for body in ("[]", "{", '{"video_task": 7}', '{"no_such": 1}', "[" * 100_000, "x" * 300_000, b"\xff"):
        answer = await console.http.post("/console/api/tasks", content=body, headers=headers)

        assert (answer.status_code, answer.json()["title"]) == (400, "INVALID_REQUEST"), body[:30]


async def test_a_cancel_says_why_and_a_second_one_of_an_ended_task_is_refused(console: Console) -> None:
    task_id = await created(console)
    cancelled = await console.post(f"/api/tasks/{task_id}/cancel", {"reason": "too dear"})
    await console.archived("v-done", b"film")
    refused = await console.post("/api/tasks/v-done/cancel", {})

    assert cancelled.json()["state"] == "CANCELLED"
    assert "too dear" in cancelled.json()["error"]["message"]
    assert (refused.status_code, refused.json()["title"]) == (400, "VIDEO_TASK_FINAL")


async def test_the_price_and_the_models_are_known_before_anything_is_sent(console: Console) -> None:
    models = (await console.get("/api/models")).json()["models"]
    quote = (await console.post("/api/quote", wish())).json()

    assert Decimal(quote["usd"]) > 0
    assert all(each["durations"] and each["aspect_ratios"] for each in models)
    assert ids(await listed(console)) == []


async def test_budget_and_places_are_shown(rig: Rig, tmp_path: Path) -> None:
    async with consoled(rig, tmp_path, slots=2, budgets=(Budget(usd=Decimal(10)),)) as console:
        await created(console)
        account = (await console.get("/api/account")).json()

        assert [(each["limit_usd"], each["reserved_usd"]) for each in account["budgets"]] == [("10", "0.42")]
        assert account["slots"] == []
        ledger, account_name = console.served.ledger, front_settings().account().name
        await ledger.open_lease(Lease(runner_id="run-1", beat=1, host="here", lock_file=""))
        assert await ledger.claim("run-1", 1, account=account_name, slots=2)
        [slot] = (await console.get("/api/account")).json()["slots"]

    assert (slot["yours"], slot["free"]) == (1, 1)


async def test_what_the_server_did_not_foresee_stays_inside(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(console.served.ledger, "read_budgets", broken)
    answer = await console.get("/api/account")

    assert (answer.status_code, answer.json()["title"]) == (500, "INTERNAL")
    assert "incident" in answer.json()["detail"]
    assert "secret" not in answer.text


async def test_files_are_asked_for_again_but_not_sent_again(console: Console) -> None:
    first = await console.get("/static/main.js")
    again = await console.get("/static/main.js", headers={"if-none-match": first.headers["etag"]})

    assert "text/javascript" in first.headers["content-type"]
    assert (again.status_code, again.content) == (304, b"")
    assert (await console.get("/static/..%2Fapp.py")).status_code == 404
    assert (await console.get("/static/none.js")).status_code == 404


async def test_the_root_leads_to_the_console(console: Console) -> None:
    answer = await console.http.get("/")

    assert (answer.status_code, answer.headers["location"]) == (307, "/console/")


async def test_tasks_of_other_states_can_be_told_apart(console: Console) -> None:
    await console.served.ledger.create(new_record("v-1"))
    await console.archived("v-2", b"film")

    assert ids(await listed(console, filter="state = SUCCEEDED")) == ["v-2"]
