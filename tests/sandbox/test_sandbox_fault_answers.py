"""Faults that every kind of call of every surface can meet: errors, and answers that are bad for their reader."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from kling_flows.sandbox.errors import STATUS_OF_CODE
from kling_flows.sandbox.hostile import BOMB_BYTES
from kling_flows.upstream.constants import KlingCode

from .caller import Api, fetch

WINDOW = {"start_time": 1, "end_time": 4_000_000_000_000}
#: Surface and operation of every call that Kling's errors can answer.
CALLS: dict[tuple[str, str], Callable[[Api], httpx.Response]] = {
    ("legacy", "create"): lambda api: api.create(),
    ("legacy", "get"): lambda api: api.get("1"),
    ("legacy", "list"): lambda api: api.list(),
    ("standard", "create"): lambda api: api.order(),
    ("standard", "get"): lambda api: api.tasks(task_ids="1"),
    ("standard", "list"): lambda api: api.cursor(),
    ("account", "account"): lambda api: api.http.get("/account/costs", params=WINDOW),
    ("billing", "account"): lambda api: api.http.post("/account/billing/package", json=WINDOW),
    ("cometapi", "create"): lambda api: comet(api, "POST", ""),
    ("cometapi", "get"): lambda api: comet(api, "GET", "/1"),
}
EVERYWHERE = pytest.mark.parametrize("call", CALLS, ids="-".join)
CODES = [code for code in KlingCode if code is not KlingCode.OK]


def comet(api: Api, method: str, rest: str) -> httpx.Response:
    return api.http.request(
        method, f"/kling{api.path}{rest}", json={"model_name": "kling-v3", "prompt": "x"} if method == "POST" else None
    )


@EVERYWHERE
def test_every_row_of_the_error_tables_can_be_asked_for_everywhere(shared: Api, call: tuple[str, str]) -> None:
    for code in CODES:
        shared.server.set_faults(
            [{"fault": "http_error", "on": call[1], "code": code, "message": f"text of {code}", "times": 1}]
        )
        answer = CALLS[call](shared)
        body = answer.json()
        assert (answer.status_code, body["code"], body["message"]) == (STATUS_OF_CODE[code], code, f"text of {code}")
        assert "data" not in body


@EVERYWHERE
def test_error_under_another_status(shared: Api, call: tuple[str, str]) -> None:
    shared.server.set_faults([{"fault": "http_error", "on": call[1], "code": 1303, "status": 200, "times": 1}])
    answer = CALLS[call](shared)
    assert (answer.status_code, answer.json()["code"]) == (200, 1303)


def test_cometapi_s_own_error_has_its_code_and_text(shared: Api) -> None:
    rule = {"fault": "http_error", "code": "invalid_request", "status": 500, "message": "bad model"}
    for operation in ("create", "get"):
        shared.server.set_faults([{**rule, "on": operation}])
        answer = CALLS["cometapi", operation](shared)
        error = answer.json()["error"]
        assert answer.status_code == 500
        assert (error["type"], error["code"]) == ("comet_api_error", "invalid_request")
        assert error["message"].startswith("bad model (request id: ")
    shared.server.set_faults([{**rule, "on": "get"}])
    answer = CALLS["legacy", "get"](shared)
    assert (answer.json()["code"], answer.json()["message"]) == (5000, "bad model")
    shared.server.set_faults([])


def test_throttle_and_concurrency_take_a_text(shared: Api) -> None:
    for fault, code in (("throttle", 1302), ("concurrency", 1303)):
        shared.server.set_faults([{"fault": fault, "message": "slower", "times": 1}])
        body = shared.order().json()
        assert (body["code"], body["message"]) == (code, "slower")


@EVERYWHERE
def test_missing_data(shared: Api, call: tuple[str, str]) -> None:
    shared.server.set_faults([{"fault": "missing_data", "on": call[1], "times": 1}])
    body = CALLS[call](shared).json()
    assert list(body) == ["code", "message", "request_id"]
    assert body["code"] == 0


@EVERYWHERE
def test_deep_json(shared: Api, call: tuple[str, str]) -> None:
    shared.server.set_faults([{"fault": "deep_json", "on": call[1], "times": 1}])
    answer = CALLS[call](shared)
    assert answer.content.count(b"[") == answer.content.count(b"]") == 100_000
    with pytest.raises(RecursionError):
        answer.json()


@EVERYWHERE
def test_invalid_utf8(shared: Api, call: tuple[str, str]) -> None:
    shared.server.set_faults([{"fault": "invalid_utf8", "on": call[1], "times": 1}])
    answer = CALLS[call](shared)
    with pytest.raises(UnicodeDecodeError):
        answer.content.decode()
    assert json.loads(answer.content.decode(errors="replace"))["request_id"]


@EVERYWHERE
def test_empty_and_html_and_truncated(shared: Api, call: tuple[str, str]) -> None:
    shared.server.set_faults(
        [
            {"fault": "empty", "on": call[1], "times": 1},
            {"fault": "html", "on": call[1], "times": 1},
            {"fault": "truncated_json", "on": call[1], "times": 1},
        ]
    )
    assert CALLS[call](shared).content == b""
    assert CALLS[call](shared).headers["content-type"].startswith("text/html")
    with pytest.raises(json.JSONDecodeError):
        CALLS[call](shared).json()


@EVERYWHERE
@pytest.mark.parametrize("fault", ["wrong_length", "reset_mid_body", "drop_before_accept"])
def test_cut_answers(shared: Api, call: tuple[str, str], fault: str) -> None:
    shared.server.set_faults([{"fault": fault, "on": call[1], "times": 1}])
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        CALLS[call](shared)


@EVERYWHERE
def test_giant_header(shared: Api, call: tuple[str, str]) -> None:
    shared.server.set_faults([{"fault": "giant_headers", "on": call[1], "times": 1}])
    with pytest.raises(httpx.RemoteProtocolError):
        CALLS[call](shared)


@pytest.mark.parametrize("operation", ["get", "download"])
def test_drip_never_ends(api: Api, operation: str) -> None:
    url = api.video_url()
    api.server.set_faults([{"fault": "drip", "on": operation, "seconds": 0.01}])
    target = url if operation == "download" else f"{api.path}/1"
    with api.http.stream("GET", target) as answer:
        assert "content-length" not in answer.headers
        pieces = answer.iter_raw()
        received = b""
        while not received.endswith(b" " * 10):
            received += next(pieces)


def test_drip_ends_with_the_server(start: Callable[..., Api]) -> None:
    api = start()
    api.server.set_faults([{"fault": "drip", "on": "get"}])
    with api.http.stream("GET", f"{api.path}/1") as answer:
        pieces = answer.iter_raw()
        next(pieces)
        began = time.monotonic()
        api.server.__exit__(None, None, None)
        assert time.monotonic() - began < 20
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            list(pieces)


def test_gzip_bomb_expands_to_a_gibibyte_that_a_checksum_confirms(shared: Api) -> None:
    shared.server.set_faults([{"fault": "gzip_bomb", "on": "get", "times": 1}])
    with shared.http.stream("GET", f"{shared.path}/1") as answer:
        assert answer.headers["content-encoding"] == "gzip"
        packed = b"".join(answer.iter_raw())
    assert len(packed) < 4 * 1024 * 1024
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    expanded = 0
    while packed:
        expanded += len(unpacker.decompress(packed, 16 * 1024 * 1024))
        packed = unpacker.unconsumed_tail
    expanded += len(unpacker.flush())
    assert (expanded, unpacker.eof) == (BOMB_BYTES, True)


@pytest.mark.parametrize(
    "fault", ["missing_data", "deep_json", "invalid_utf8", "wrong_length", "gzip_bomb", "giant_headers"]
)
def test_order_behind_a_bad_answer_is_accepted_unless_it_is_said_to_be_lost(api: Api, fault: str) -> None:
    for accept, charged in (("no", 0), ("yes", 1), (None, 2)):
        api.server.set_faults([{"fault": fault, "on": "create", "times": 1, **({"accept": accept} if accept else {})}])
        try:
            with api.http.stream("POST", "/text-to-video/kling-3.0", json={"prompt": "x"}) as answer:
                for _ in answer.iter_raw():
                    pass
        except httpx.RemoteProtocolError:
            assert fault in ("wrong_length", "giant_headers")
        assert len(api.server.charges()) == charged


@pytest.mark.parametrize("fault", ["giant_headers", "wrong_length"])
def test_download_meets_them_too(api: Api, fault: str) -> None:
    url = api.video_url()
    api.server.set_faults([{"fault": fault, "on": "download"}])
    with pytest.raises(httpx.RemoteProtocolError):
        fetch(url)


def test_order_fails_for_a_given_reason(api: Api) -> None:
    api.server.set_faults(
        [
            {"fault": "fail", "message": "Image pixel is invalid", "match": "pixel"},
            {"fault": "accept_then_drop", "match": "dropped"},
            {"fault": "fail", "times": 1},
        ]
    )
    first = api.wait_for(api.created(prompt="pixel"), "failed")
    second = api.wait_for(api.created(), "failed")
    assert first["task_status_msg"] == "Image pixel is invalid"
    assert second["task_status_msg"] == "Failure to pass the risk control system"
    with pytest.raises(httpx.RemoteProtocolError):
        api.create(prompt="pixel, dropped", external_task_id="ext-0001")
    (task,) = api.tasks(external_task_ids="ext-0001").json()["data"]
    assert (task["status"], task["message"], task["billing"]) == ("failed", "Image pixel is invalid", [])
    api.finished()
    assert [charge["refunded"] for charge in api.server.charges()] == [True, True, True, False]


@pytest.mark.parametrize("operation", ["get", "list"])
def test_status_that_nobody_knows(api: Api, operation: str) -> None:
    task_id = api.created(prompt="strange")
    api.created()
    api.server.set_faults([{"fault": "unknown_status", "on": operation, "match": "strange", "times": 2}])
    if operation == "get":
        legacy = api.task(task_id)["task_status"]
        standard = api.tasks(task_ids=task_id).json()["data"][0]["status"]
    else:
        legacy = api.list().json()["data"][1]["task_status"]
        standard = api.cursor().json()["data"]["result"][1]["status"]
    assert (legacy, standard) == ("reviewing", "reviewing")
    assert api.wait_for(task_id)
    api.server.set_faults([{"fault": "unknown_status", "on": "get", "message": "dreaming"}])
    assert api.task(task_id)["task_status"] == "dreaming"


def test_result_faults_hit_single_tasks_of_a_query_by_ids(api: Api) -> None:
    good, bare, old = (api.ordered(prompt=prompt) for prompt in ("good", "bare", "old"))
    api.server.set_faults(
        [
            {"fault": "succeed_without_url", "match": "bare", "times": 2},
            {"fault": "video_expired", "on": "get", "match": "old", "times": 1},
        ]
    )

    def urls() -> list[str]:
        tasks = api.tasks(task_ids=",".join([good, bare, old])).json()["data"]
        assert [task["status"] for task in tasks] == ["succeeded"] * 3
        return [task["outputs"][0]["url"] for task in tasks]

    first, second, third = urls(), urls(), urls()
    assert [bool(url) for url in first + second + third] == [True, False, True, True, False, True, True, True, True]
    assert [fetch(url).status_code for url in (first[0], first[2], second[2])] == [200, 403, 200]


def test_match_of_a_query_by_ids_looks_at_every_task_in_it(api: Api) -> None:
    api.server.set_faults([{"fault": "throttle", "on": "get", "match": "cursed"}])
    good, bad = api.ordered(), api.ordered(prompt="cursed")
    assert api.tasks(task_ids=good).status_code == 200
    assert api.tasks(task_ids=f"{good},{bad}").status_code == 429


@pytest.mark.parametrize(
    "rule",
    [
        {"fault": "lost", "on": "get"},
        {"fault": "http_error", "on": "callback"},
        {"fault": "html", "on": "callback"},
        {"fault": "deep_json", "on": "download"},
        {"fault": "unknown_status", "on": "create"},
        {"fault": "fail", "on": "get"},
        {"fault": "succeed_without_url", "on": "callback"},
        {"fault": "video_expired", "on": "account"},
        {"fault": "slow", "on": "get", "state": "succeed"},
        {"fault": "early", "state": "succeed"},
        {"fault": "lost", "state": "succeeded"},
    ],
)
def test_rules_that_make_no_sense_are_refused(shared: Api, rule: dict[str, Any]) -> None:
    assert shared.http.put("/sandbox/faults", json=[rule]).status_code == 400
