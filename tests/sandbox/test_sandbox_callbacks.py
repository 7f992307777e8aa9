"""Callbacks: what is sent, in which order, how often, and how it goes wrong."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from kling_flows.errors import ConfigurationError
from kling_flows.sandbox import SandboxServer, SandboxSettings, VideoSource
from kling_flows.upstream.constants import StatusWord

from .caller import Api, eventually
from .receiver import Receiver, receiving

FINAL = {"callback_states": frozenset({StatusWord.SUCCEED, StatusWord.FAILED})}
SECRET = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="


def listed(api: Api) -> list[dict[str, Any]]:
    answer = api.http.get("/sandbox/callbacks").json()
    assert answer["count"] == len(answer["callbacks"])
    return answer["callbacks"]


def settled(api: Api) -> list[dict[str, Any]]:
    return eventually(
        lambda: found if (found := listed(api)) and all(one["outcome"] != "pending" for one in found) else None
    )


def test_every_change_of_state_is_reported(start: Callable[..., Api], receiver: Receiver) -> None:
    api = start(seconds=(0.3, 0.3))
    task_id = api.created(callback_url=f"{receiver.url}?key=s3cret", external_task_id="ext-0001")
    submitted, processing, succeeded = receiver.wait_for(3)
    assert [event.word for event in (submitted, processing, succeeded)] == ["submitted", "processing", "succeed"]
    assert succeeded.path == "/hook?key=s3cret"
    assert succeeded.headers["content-type"] == "application/json; charset=utf-8"
    assert "webhook-id" not in succeeded.headers
    assert list(submitted.json) == [
        "task_id",
        "task_status",
        "task_status_msg",
        "created_at",
        "updated_at",
        "task_info",
    ]
    assert list(processing.json) == list(submitted.json)
    assert submitted.json["created_at"] == submitted.json["updated_at"] < processing.json["updated_at"]
    assert submitted.json["task_info"] == {"external_task_id": "ext-0001"}
    assert settled(api) == [
        {
            "task_id": task_id,
            "webhook_id": record["webhook_id"],
            "url": receiver.url,
            "status": word,
            "attempts": 1,
            "http_status": 200,
            "delivered": True,
            "outcome": "delivered",
        }
        for record, word in zip(listed(api), ["submitted", "processing", "succeed"], strict=True)
    ]
    assert len({record["webhook_id"] for record in listed(api)}) == 3
    assert api.server.callbacks() == listed(api)


def test_legacy_success_is_the_bare_task(start: Callable[..., Api], receiver: Receiver) -> None:
    api = start(**FINAL)
    task_id = api.created(callback_url=receiver.url, external_task_id="ext-0001")
    (event,) = receiver.wait_for(1)
    task = api.task(task_id)
    (video,) = event.json["task_result"]["videos"]
    assert list(event.json) == [
        "task_id",
        "task_status",
        "task_status_msg",
        "created_at",
        "updated_at",
        "final_unit_deduction",
        "final_balance_deduction",
        "task_info",
        "task_result",
    ]
    assert event.json["task_info"] == {
        "parent_video": {"id": "", "url": "", "duration": ""},
        "external_task_id": "ext-0001",
    }
    assert list(video) == ["id", "url", "duration"]
    assert (event.json["task_id"], event.json["updated_at"]) == (task_id, task["updated_at"])
    assert video["id"] == task["task_result"]["videos"][0]["id"]
    assert api.http.get(video["url"]).status_code == 200


def test_legacy_failure_has_a_reason(start: Callable[..., Api], receiver: Receiver) -> None:
    api = start(**FINAL)
    api.created(callback_url=receiver.url, prompt="[sandbox:fail]")
    (event,) = receiver.wait_for(1)
    assert event.json["task_status_msg"] == "Failure to pass the risk control system"
    assert event.json["task_result"] == {}
    assert "final_unit_deduction" not in event.json


def test_standard_order_gets_the_object_of_a_query(start: Callable[..., Api], receiver: Receiver) -> None:
    api = start()
    task_id = api.ordered(options={"callback_url": receiver.url, "external_task_id": "ext-0001"})
    events = {event.word: event.json for event in receiver.wait_for(3)}
    (task,) = api.tasks(task_ids=task_id).json()["data"]
    assert set(events) == {"submitted", "processing", "succeeded"}
    assert {name: value for name, value in events["succeeded"].items() if name != "outputs"} == {
        name: value for name, value in task.items() if name != "outputs"
    }
    assert events["succeeded"]["outputs"][0]["id"] == task["outputs"][0]["id"]
    assert events["submitted"]["outputs"] == []


def test_cometapi_passes_callbacks_on_without_a_signature(
    start: Callable[..., Api], surface_of: Callable[..., Api], receiver: Receiver
) -> None:
    comet = surface_of(start(callback_secrets=(SECRET,), **FINAL), prefix="/kling")
    task_id = comet.created(callback_url=receiver.url)
    (event,) = receiver.wait_for(1)
    assert event.json["task_id"] == task_id
    assert "webhook-signature" not in event.headers


def test_order_without_callback_url_reports_nothing(api: Api) -> None:
    api.finished()
    assert listed(api) == []


def test_stuck_task_reports_no_end(start: Callable[..., Api], receiver: Receiver) -> None:
    api = start()
    api.created(callback_url=receiver.url, prompt="[sandbox:stuck]")
    assert sorted(receiver.words(2)) == ["processing", "submitted"]
    assert len(settled(api)) == 2


def test_refused_order_reports_nothing(api: Api, receiver: Receiver) -> None:
    api.create(callback_url=receiver.url, mode="standard")
    assert listed(api) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/hook",
        "http://192.0.2.1/hook",
        "http://127.0.0.1@example.com/hook",
        "http://localhost.example.com/hook",
        "http://0.0.0.0/hook",
        "http://[::ffff:192.0.2.1]/hook",
        "ftp://127.0.0.1/hook",
        "file:///etc/hostname",
        "/hook",
        "http://[",
        "no url at all",
    ],
)
def test_nobody_is_called_but_this_machine(api: Api, url: str) -> None:
    api.finished(callback_url=f"{url}?key=s3cret")
    (record,) = listed(api)
    assert (record["outcome"], record["attempts"], record["delivered"]) == ("refused", 0, False)
    assert "s3cret" not in json.dumps(record)


def test_redirect_is_not_followed(start: Callable[..., Api], receiver: Receiver) -> None:
    receiver.answers = [307]
    api = start(callback_retry_seconds=0, **FINAL)
    api.created(callback_url=receiver.url)
    receiver.wait_for(2)
    (record,) = settled(api)
    assert (record["attempts"], record["http_status"]) == (2, 200)


def test_localhost_is_this_machine(start: Callable[..., Api], receiver: Receiver) -> None:
    api = start(**FINAL)
    api.created(callback_url=receiver.url.replace("127.0.0.1", "localhost"))
    (event,) = receiver.wait_for(1)
    assert event.headers["host"].startswith("localhost:")


def test_user_and_password_are_not_written_down(start: Callable[..., Api], receiver: Receiver) -> None:
    api = start(**FINAL)
    api.created(callback_url=receiver.url.replace("//", "//user:s3cret@"))
    receiver.wait_for(1)
    assert [record["url"] for record in settled(api)] == [receiver.url]


def test_failed_delivery_is_repeated_with_growing_waits_and_the_same_id(
    start: Callable[..., Api], receiver: Receiver
) -> None:
    receiver.answers = [500, 404]
    api = start(callback_secrets=(SECRET,), callback_retry_seconds=0.2, **FINAL)
    api.created(callback_url=receiver.url)
    first, second, third = receiver.wait_for(3)
    assert len({event.headers["webhook-id"] for event in (first, second, third)}) == 1
    assert first.body == second.body or first.json["task_id"] == second.json["task_id"]
    assert second.at - first.at >= 0.19
    assert third.at - second.at >= 0.39
    (record,) = settled(api)
    assert (record["attempts"], record["http_status"], record["outcome"]) == (3, 200, "delivered")
    assert record["webhook_id"] == first.headers["webhook-id"]


def test_attempts_end(start: Callable[..., Api], receiver: Receiver) -> None:
    receiver.answers = [500] * 10
    api = start(callback_attempts=3, callback_retry_seconds=0.0, **FINAL)
    api.created(callback_url=receiver.url)
    (record,) = settled(api)
    assert (record["attempts"], record["http_status"], record["outcome"]) == (3, 500, "failed")
    assert len(receiver.events) == 3


def test_receiver_that_is_slow_or_gone_has_no_status(start: Callable[..., Api], receiver: Receiver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    receiver.answers = [-1.0]
    api = start(callback_attempts=1, callback_timeout=0.2, **FINAL)
    api.created(callback_url=receiver.url)
    api.created(callback_url=gone)
    records = eventually(lambda: found if len(found := settled(api)) == 2 else None)
    assert [(one["attempts"], one["http_status"], one["outcome"]) for one in records] == [(1, None, "failed")] * 2


def test_many_tasks_are_reported_a_few_at_a_time(start: Callable[..., Api], receiver: Receiver) -> None:
    api = start(seconds=(0.5, 1.0), callback_concurrency=4)
    ids = {api.created(callback_url=receiver.url) for _ in range(300)}
    receiver.wait_for(900)
    counts = Counter((event.json["task_id"], event.word) for event in receiver.events)
    assert set(counts) == {(task_id, word) for task_id in ids for word in ("submitted", "processing", "succeed")}
    assert set(counts.values()) == {1}
    assert receiver.most_busy <= 4


def test_slow_receiver_does_not_hold_up_the_api(start: Callable[..., Api], receiver: Receiver) -> None:
    receiver.answers = [-10.0] * 20
    api = start(callback_concurrency=2)
    began = time.monotonic()
    for _ in range(5):
        api.finished(callback_url=receiver.url)
    assert time.monotonic() - began < 20


def test_stop_gives_up_what_is_due_and_under_way() -> None:
    # Others of this process may still be stopping.
    others = threading.enumerate()
    with receiving([-30.0]) as receiver:
        settings = SandboxSettings(
            seconds=(60, 60), video=VideoSource.TINY, callback_timeout=60, callback_concurrency=1
        )
        with SandboxServer(settings) as server:
            api = Api(server)
            api.created(callback_url=receiver.url)
            eventually(lambda: receiver.busy)
            began = time.monotonic()
        api.http.close()
        assert time.monotonic() - began < 20
        assert {record["outcome"] for record in server.callbacks()} == {"cancelled"}
        assert not [thread for thread in threading.enumerate() if thread.name == "sandbox" and thread not in others]
        receiver.events.clear()


def test_lost_event_is_never_sent(start: Callable[..., Api], receiver: Receiver) -> None:
    api = start()
    api.server.set_faults([{"fault": "lost", "state": "succeed"}])
    api.created(callback_url=receiver.url)
    assert {record["status"]: record["outcome"] for record in settled(api)} == {
        "submitted": "delivered",
        "processing": "delivered",
        "succeed": "lost",
    }
    assert sorted(receiver.words(2)) == ["processing", "submitted"]


def test_duplicated_event_comes_twice_with_one_id(start: Callable[..., Api], receiver: Receiver) -> None:
    api = start(callback_secrets=(SECRET,), **FINAL)
    api.server.set_faults([{"fault": "duplicated", "times": 1}])
    api.created(callback_url=receiver.url)
    first, second = receiver.wait_for(2)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    (record,) = eventually(lambda: found if (found := settled(api))[0]["attempts"] == 2 else None)
    assert record["outcome"] == "delivered"


def test_reordered_events_end_with_processing(start: Callable[..., Api], receiver: Receiver) -> None:
    api = start(seconds=(0.3, 0.3))
    api.server.set_faults([{"fault": "reordered", "match": "upside down"}])
    api.created(callback_url=receiver.url, prompt="upside down")
    assert receiver.words(3) == ["submitted", "succeed", "processing"]


def test_early_event_comes_before_the_answer_of_the_create(start: Callable[..., Api], receiver: Receiver) -> None:
    api = start(seconds=(60, 60))
    api.server.set_faults([{"fault": "early"}])
    for create in (
        lambda: api.created(callback_url=receiver.url),
        lambda: api.ordered(options={"callback_url": receiver.url}),
    ):
        receiver.events.clear()
        task_id = create()
        (event,) = receiver.events
        assert event.json.get("task_id", event.json.get("id")) == task_id


def test_early_event_that_is_lost_does_not_hold_up_the_create(start: Callable[..., Api], receiver: Receiver) -> None:
    api = start(seconds=(60, 60))
    api.server.set_faults([{"fault": "early"}, {"fault": "lost"}])
    api.created(callback_url=receiver.url)
    assert receiver.events == []


def test_late_event_comes_later(start: Callable[..., Api], receiver: Receiver) -> None:
    api = start(**FINAL)
    api.server.set_faults([{"fault": "slow", "on": "callback", "seconds": 0.3}])
    began = time.monotonic()
    api.created(callback_url=receiver.url)
    (event,) = receiver.wait_for(1)
    assert event.at - began >= 0.3


def test_forged_event_says_something_else_beside_the_true_one(start: Callable[..., Api], receiver: Receiver) -> None:
    api = start(**FINAL)
    api.server.set_faults([{"fault": "forged"}])
    task_id = api.created(callback_url=receiver.url)
    forged, true = receiver.wait_for(2)
    assert (forged.word, true.word) == ("failed", "succeed")
    assert forged.json["task_id"] == true.json["task_id"] == task_id
    assert sorted(record["outcome"] for record in settled(api)) == ["delivered", "forged"]


def test_event_can_have_a_status_that_nobody_knows(start: Callable[..., Api], receiver: Receiver) -> None:
    api = start(**FINAL)
    api.server.set_faults([{"fault": "unknown_status", "on": "callback", "message": "dreaming"}])
    api.created(callback_url=receiver.url)
    assert receiver.words(1) == ["dreaming"]


@pytest.mark.parametrize(
    "settings",
    [
        {"callback_secrets": ("secret",)},
        {"callback_secrets": ("whsec_",)},
        {"callback_secrets": ("whsec_not base64!",)},
        {"callback_attempts": 0},
        {"callback_concurrency": 0},
        {"callback_timeout": 0},
        {"callback_retry_seconds": -1},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        SandboxSettings(**settings)
    assert "not base64!" not in str(refused.value)


def test_secrets_are_not_shown() -> None:
    assert SECRET not in repr(SandboxSettings(callback_secrets=(SECRET,)))
