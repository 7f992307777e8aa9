"""Each fault as a client sees it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from kling_flows.sandbox import SandboxServer, SandboxSettings, VideoSource
from kling_flows.sandbox.videos import TINY_CLIP

from .caller import NO_CERTIFICATES, Api, eventually, fetch

CLIP = TINY_CLIP.read_bytes()
#: How httpx reports a cut connection: closed, or reset.
CUT = (httpx.RemoteProtocolError, httpx.ReadError)


def read_until_cut(answer: httpx.Response) -> bytes:
    """The bytes of a body that came before the connection was cut."""
    received = bytearray()
    try:
        for piece in answer.iter_raw():
            received += piece
    except CUT:
        return bytes(received)
    raise AssertionError("the connection was not cut")


def test_rules_are_put_read_and_deleted_over_http(api: Api) -> None:
    rules = [{"fault": "slow", "on": "get", "seconds": 0.0}, {"fault": "accept_then_drop", "times": 2}]
    put = api.http.put("/sandbox/faults", json=rules)
    assert put.status_code == 200
    api.get("unknown")
    assert api.http.get("/sandbox/faults").json() == {
        "faults": [
            {"fault": "slow", "on": "get", "rate": 1.0, "seconds": 0.0, "accept": "yes", "fired": 1},
            {"fault": "accept_then_drop", "on": "create", "rate": 1.0, "times": 2, "accept": "yes", "fired": 0},
        ]
    }
    assert api.http.delete("/sandbox/faults").json() == {"faults": []}


@pytest.mark.parametrize(
    "rules",
    [
        {"fault": "slow", "on": "get"},
        ["slow"],
        [{"fault": "explode", "on": "get"}],
        [{"fault": "slow"}],
        [{"fault": "slow", "on": "sometimes"}],
        [{"fault": "slow", "on": "get", "rate": 2}],
        [{"fault": "slow", "on": "get", "times": 0}],
        [{"fault": "slow", "on": "get", "second": 1}],
        [{"fault": "video_html", "on": "get"}],
        [{"fault": "video_expired", "on": "create"}],
        [{"fault": "succeed_without_url", "on": "download"}],
        [{"fault": "accept_then_drop", "accept": "no"}],
        [{"fault": "drop_before_accept", "accept": "yes"}],
    ],
)
def test_malformed_rules_are_refused_and_change_nothing(api: Api, rules: Any) -> None:
    api.server.set_faults([{"fault": "html", "on": "list"}])
    answer = api.http.put("/sandbox/faults", json=rules)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert [rule["fault"] for rule in api.http.get("/sandbox/faults").json()["faults"]] == ["html"]


def test_rules_that_are_no_json_are_refused(api: Api) -> None:
    assert api.http.put("/sandbox/faults", content=b"{").status_code == 400


def test_accept_then_drop_charges_and_cuts(api: Api) -> None:
    api.server.set_faults([{"fault": "accept_then_drop", "times": 1}])
    with pytest.raises(CUT):
        api.create(external_task_id="ext-0001")
    assert len(api.server.charges()) == 1
    assert api.get("ext-0001").status_code == 200
    assert api.create(external_task_id="ext-0001").json()["message"] == "External_task_id ext-0001 already exists"


def test_drop_before_accept_only_cuts(api: Api) -> None:
    api.server.set_faults([{"fault": "drop_before_accept", "times": 1}])
    with pytest.raises(CUT):
        api.create(external_task_id="ext-0001")
    assert api.server.charges() == []
    assert api.get("ext-0001").json()["code"] == 1201
    assert api.create(external_task_id="ext-0001").status_code == 200


def test_dropped_order_can_be_accepted_late_and_collide_with_its_repetition(api: Api) -> None:
    api.server.set_faults([{"fault": "drop_before_accept", "accept": "late", "seconds": 1.0, "times": 1}])
    with pytest.raises(CUT):
        api.create(external_task_id="ext-0001")
    assert api.get("ext-0001").json()["code"] == 1201
    eventually(lambda: api.get("ext-0001").status_code == 200)
    assert api.create(external_task_id="ext-0001").json()["code"] == 1201
    assert len(api.server.charges()) == 1


@pytest.mark.parametrize("operation", ["get", "list", "download"])
def test_any_call_can_be_dropped(api: Api, operation: str) -> None:
    url = api.video_url()
    api.server.set_faults([{"fault": "drop_before_accept", "on": operation}])
    calls = {"get": lambda: api.get("x"), "list": api.list, "download": lambda: fetch(url)}
    with pytest.raises(CUT):
        calls[operation]()


@pytest.mark.parametrize(
    ("rule", "status", "code"),
    [
        ({}, 500, 5000),
        ({"status": 503}, 503, 5001),
        ({"status": 504}, 504, 5002),
        ({"status": 502}, 502, 5000),
        ({"code": 5001}, 503, 5001),
        ({"code": 1102}, 429, 1102),
        ({"code": 1101, "status": 400}, 400, 1101),
        ({"code": 9999}, 500, 9999),
    ],
)
def test_http_error_has_the_code_and_its_status(api: Api, rule: dict[str, Any], status: int, code: int) -> None:
    api.server.set_faults([{"fault": "http_error", "on": "create", **rule}])
    answer = api.create()
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["message"]
    assert api.server.charges() == []


def test_http_error_can_hide_an_accepted_order(api: Api) -> None:
    api.server.set_faults([{"fault": "http_error", "on": "create", "status": 504, "accept": "yes"}])
    assert api.create(external_task_id="ext-0001").status_code == 504
    assert api.get("ext-0001").status_code == 200


def test_http_error_without_code_is_cometapi_s_own_there(api: Api, surface_of: Callable[..., Api]) -> None:
    comet = surface_of(api, prefix="/kling")
    api.server.set_faults([{"fault": "http_error", "on": "create", "status": 503, "retry_after": 7}])
    answer = comet.create()
    assert answer.status_code == 503
    assert answer.json()["error"]["type"] == "comet_api_error"
    assert answer.headers["retry-after"] == "7"


def test_concurrency_and_throttle_are_told_apart_by_code(api: Api) -> None:
    api.server.set_faults([{"fault": "concurrency", "times": 1}, {"fault": "throttle", "retry_after": 3}])
    first, second = api.create(), api.create()
    assert (first.status_code, first.json()["code"]) == (429, 1303)
    assert (second.status_code, second.json()["code"]) == (429, 1302)
    assert "data" not in first.json()
    assert "retry-after" not in first.headers
    assert second.headers["retry-after"] == "3"
    assert api.server.charges() == []


def test_slow_answers_late(api: Api) -> None:
    api.server.set_faults([{"fault": "slow", "on": "create", "seconds": 0.3}])
    began = time.monotonic()
    assert api.create().status_code == 200
    assert time.monotonic() - began >= 0.3


def test_caller_who_does_not_wait_for_a_slow_create_has_paid(api: Api) -> None:
    api.server.set_faults([{"fault": "slow", "on": "create", "seconds": 30, "times": 1}])
    with pytest.raises(httpx.ReadTimeout):
        fetch(
            api.server.url + api.path,
            "POST",
            json={"model_name": "kling-v3", "prompt": "x", "external_task_id": "ext-0001"},
            headers=api.http.headers,
            timeout=0.2,
        )
    assert api.get("ext-0001").status_code == 200
    assert len(api.server.charges()) == 1


def test_slow_create_can_be_accepted_after_its_caller_has_left(api: Api) -> None:
    api.server.set_faults([{"fault": "slow", "on": "create", "seconds": 1.0, "accept": "late", "times": 1}])
    with pytest.raises(httpx.ReadTimeout):
        fetch(
            api.server.url + api.path,
            "POST",
            json={"model_name": "kling-v3", "prompt": "x", "external_task_id": "ext-0001"},
            headers=api.http.headers,
            timeout=0.1,
        )
    assert api.server.charges() == []
    eventually(lambda: len(api.server.charges()) == 1)
    assert api.get("ext-0001").status_code == 200


def test_patient_caller_gets_the_answer_of_a_late_acceptance(api: Api) -> None:
    api.server.set_faults([{"fault": "slow", "on": "create", "seconds": 0.1, "accept": "late"}])
    assert api.task(api.created())["task_status"] == "succeed"


def test_slow_error_loses_the_order(api: Api) -> None:
    api.server.set_faults([{"fault": "slow", "on": "create", "seconds": 0.0, "accept": "no"}])
    assert api.create().status_code == 500
    assert api.server.charges() == []


def test_hang_never_answers(api: Api) -> None:
    api.server.set_faults([{"fault": "hang", "on": "get"}])
    with pytest.raises(httpx.ReadTimeout):
        fetch(f"{api.server.url}{api.path}/1", headers=api.http.headers, timeout=0.2)


def test_hang_can_end_in_a_cut(api: Api) -> None:
    api.server.set_faults([{"fault": "hang", "on": "get", "seconds": 0.1}])
    with pytest.raises(CUT):
        api.get("1")


def test_reset_mid_body_sends_half_of_the_answer(api: Api) -> None:
    api.server.set_faults([{"fault": "reset_mid_body", "on": "create", "times": 1}])
    with api.http.stream("POST", api.path, json={"model_name": "kling-v3", "prompt": "x"}) as answer:
        received = read_until_cut(answer)
    assert answer.status_code == 200
    assert len(received) == int(answer.headers["content-length"]) // 2
    assert len(api.server.charges()) == 1


@pytest.mark.parametrize("operation", ["create", "get", "list"])
def test_truncated_json_looks_whole_and_is_not(api: Api, operation: str) -> None:
    task_id = api.created()
    api.server.set_faults([{"fault": "truncated_json", "on": operation}])
    answer = {"create": api.create, "get": lambda: api.get(task_id), "list": api.list}[operation]()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.text.startswith('{"code":0')
    with pytest.raises(json.JSONDecodeError):
        answer.json()


def test_html_is_a_gateway_s_page(api: Api) -> None:
    api.server.set_faults([{"fault": "html", "on": "get", "times": 1}, {"fault": "html", "on": "get", "status": 200}])
    first, second = api.get("1"), api.get("1")
    assert (first.status_code, second.status_code) == (502, 200)
    assert first.headers["content-type"].startswith("text/html")
    assert "<h1>502 Bad Gateway</h1>" in first.text


def test_empty_has_no_body(api: Api) -> None:
    api.server.set_faults([{"fault": "empty", "on": "create"}])
    answer = api.create()
    assert (answer.status_code, answer.content) == (200, b"")
    assert len(api.server.charges()) == 1


def test_truncated_video_looks_whole(api: Api) -> None:
    url = api.video_url()
    api.server.set_faults([{"fault": "video_truncated", "times": 1}])
    answer = fetch(url)
    assert (answer.status_code, answer.content) == (200, CLIP[: len(CLIP) // 2])
    assert answer.headers["content-length"] == str(len(CLIP) // 2)
    assert fetch(url).content == CLIP


def test_video_of_wrong_length_ends_before_its_content_length(api: Api) -> None:
    url = api.video_url()
    api.server.set_faults([{"fault": "video_wrong_length"}])
    with httpx.stream("GET", url, verify=NO_CERTIFICATES) as answer:
        received = read_until_cut(answer)
    assert received == CLIP
    assert int(answer.headers["content-length"]) > len(CLIP)


def test_reset_download_can_be_resumed(api: Api) -> None:
    url = api.video_url()
    api.server.set_faults([{"fault": "reset_mid_body", "on": "download", "times": 1}])
    with httpx.stream("GET", url, verify=NO_CERTIFICATES) as answer:
        received = read_until_cut(answer)
    assert received == CLIP[: len(CLIP) // 2]
    rest = fetch(url, headers={"range": f"bytes={len(received)}-", "if-range": answer.headers["etag"]})
    assert rest.status_code == 206
    assert received + rest.content == CLIP


def test_reset_of_a_single_byte_still_cuts(api: Api) -> None:
    url = api.video_url()
    api.server.set_faults([{"fault": "reset_mid_body", "on": "download"}])
    with pytest.raises(CUT):
        fetch(url, headers={"range": "bytes=0-0"})


def test_html_instead_of_a_video(api: Api) -> None:
    url = api.video_url()
    api.server.set_faults([{"fault": "video_html"}])
    answer = fetch(url)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")


def test_download_fails_without_kling_s_envelope(api: Api) -> None:
    url = api.video_url()
    api.server.set_faults([{"fault": "http_error", "on": "download", "status": 503, "retry_after": 2}])
    answer = fetch(url)
    assert answer.status_code == 503
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["retry-after"] == "2"


def test_head_meets_no_fault(api: Api) -> None:
    url = api.video_url()
    api.server.set_faults([{"fault": "video_html", "times": 1}])
    assert fetch(url, "HEAD").headers["content-type"] == "video/mp4"


def test_url_can_expire_at_the_download(api: Api) -> None:
    url = api.video_url()
    api.server.set_faults([{"fault": "video_expired", "times": 1}])
    assert fetch(url).status_code == 403
    assert fetch(url).status_code == 200


def test_query_can_hand_out_an_expired_url(start: Callable[..., Api]) -> None:
    api = start()
    task_id = api.created()
    api.server.set_faults([{"fault": "video_expired", "on": "get", "times": 1}])
    expired = api.wait_for(task_id)["task_result"]["videos"][0]["url"]
    fresh = api.task(task_id)["task_result"]["videos"][0]["url"]
    assert fetch(expired).status_code == 403
    assert fetch(fresh).status_code == 200


@pytest.mark.parametrize("operation", ["get", "list"])
def test_success_can_come_without_a_url_for_a_moment(start: Callable[..., Api], operation: str) -> None:
    api = start(seconds=(0.2, 0.2))
    api.server.set_faults([{"fault": "succeed_without_url", "on": operation, "times": 1}])
    task_id = api.created()
    # Calls before the end are not hit and do not use the rule up.
    read = {"get": lambda: api.task(task_id), "list": lambda: api.list().json()["data"][0]}[operation]
    while (task := read())["task_status"] != "succeed":
        time.sleep(0.01)
    assert task["task_result"]["videos"][0]["url"] == ""
    assert read()["task_result"]["videos"][0]["url"].startswith("http")


@pytest.mark.parametrize(
    "rule",
    [
        {"fault": "accept_then_drop"},
        {"fault": "drop_before_accept"},
        {"fault": "reset_mid_body", "on": "create"},
        {"fault": "truncated_json", "on": "create"},
        {"fault": "hang", "on": "create", "seconds": 0},
        {"fault": "reset_mid_body", "on": "download"},
        {"fault": "video_truncated"},
        {"fault": "video_wrong_length"},
    ],
)
def test_faults_are_no_errors_of_the_server(rule: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with SandboxServer(SandboxSettings(seconds=(0.0, 0.0), video=VideoSource.TINY)) as server:
        api = Api(server)
        url = api.video_url()
        server.set_faults([rule])
        for call in (api.create, lambda: fetch(url)):
            with contextlib.suppress(*CUT):
                call()
        api.http.close()
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


def test_match_looks_at_prompt_and_external_id(api: Api) -> None:
    api.server.set_faults([{"fault": "http_error", "on": "get", "match": "cursed"}])
    good = api.created(prompt="a cup", external_task_id="blessed")
    assert api.get(good).status_code == 200
    assert api.get(api.created(prompt="a cursed cup")).status_code == 500
    assert api.get(api.created(external_task_id="cursed-1")).status_code == 500
    assert api.get("cursed-2").status_code == 500
    assert api.list().status_code == 200


def test_rate_hits_the_same_calls_for_the_same_seed(start: Callable[..., Api]) -> None:
    def hits(seed: int) -> list[int]:
        api = start(seed=seed)
        api.server.set_faults([{"fault": "throttle", "on": "get", "rate": 0.3}])
        return [api.get("1").status_code for _ in range(100)]

    first = hits(1)
    assert hits(1) == first
    assert hits(2) != first
    assert 15 <= first.count(429) <= 45


def test_rules_are_tried_in_turn_and_disarm_themselves(api: Api) -> None:
    api.server.set_faults(
        [{"fault": "throttle", "on": "get", "times": 2}, {"fault": "html", "on": "get", "times": 1}],
    )
    assert [api.get("1").status_code for _ in range(4)] == [429, 429, 502, 400]


def test_connection_is_usable_after_faults_that_answer(api: Api) -> None:
    api.server.set_faults([{"fault": "truncated_json", "on": "get", "times": 1}])
    api.get("1")
    assert api.get("1").json()["code"] == 1201


def test_call_that_hangs_is_cut_when_the_sandbox_stops() -> None:
    answers: list[str] = []

    def hang(api: Api) -> None:
        try:
            answers.append(api.get("1").text)
        except CUT:
            answers.append("cut")

    with SandboxServer(SandboxSettings(video=VideoSource.TINY)) as server:
        server.set_faults([{"fault": "hang", "on": "get"}])
        api = Api(server)
        caller = threading.Thread(target=hang, args=[api])
        caller.start()
        eventually(lambda: server.stats()["calls"]["get"])
        began = time.monotonic()
    assert time.monotonic() - began < 20
    caller.join()
    api.http.close()
    assert answers == ["cut"]
