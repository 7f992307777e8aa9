from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from kling_flows.upstream import ErrorClass, UpstreamAmbiguous, UpstreamError, UpstreamThrottled
from kling_flows.upstream.body import Body, decode
from kling_flows.upstream.refusals import classify

from .data import load

HTML = "<html><head><style>a{}</style><title>502 Bad Gateway</title></head><body><h1>nginx</h1></body></html>"


def classed(http_status: int, body: Body, *, creating: bool = False, **headers: str) -> UpstreamError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return classify(http_status, body, creating=creating, headers=named)


def kling(code: object, message: str = "text") -> dict[str, Any]:
    return {"code": code, "message": message, "request_id": "r-1"}


def comet(message: str = "text", code: str = "") -> dict[str, Any]:
    return {"error": {"message": message, "type": "comet_api_error", "param": "", "code": code}}


# ------------------------------------------------------------------------------------------------- the official table


@pytest.mark.parametrize(
    ("http_status", "code", "on_read", "on_create"),
    [
        (401, 1000, "auth", "auth"),
        (401, 1001, "auth", "auth"),
        (401, 1002, "auth", "auth"),
        (401, 1003, "auth", "auth"),
        (401, 1004, "auth", "auth"),
        (429, 1100, "permission", "permission"),
        (429, 1101, "billing", "billing"),
        (429, 1102, "billing", "billing"),
        (403, 1103, "permission", "permission"),
        (400, 1200, "invalid", "invalid"),
        (400, 1201, "invalid", "invalid"),
        (404, 1202, "invalid", "invalid"),
        (404, 1203, "not-found", "invalid"),
        (400, 1300, "policy", "policy"),
        (400, 1301, "policy", "policy"),
        (429, 1302, "throttled", "throttled"),
        (429, 1303, "concurrency", "concurrency"),
        (429, 1304, "permission", "permission"),
        (500, 5000, "unavailable", "ambiguous"),
        (503, 5001, "unavailable", "ambiguous"),
        (504, 5002, "unavailable", "ambiguous"),
    ],
)
def test_row_of_the_official_table(http_status: int, code: int, on_read: str, on_create: str) -> None:
    # The code decides whatever HTTP status or type it comes with.
    for status in (http_status, 200, 500, 418):
        for written in (code, str(code)):
            assert classed(status, kling(written)).error_class == on_read
            assert classed(status, kling(written), creating=True).error_class == on_create


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("error_1001_empty_authorization.json", "auth"),
        ("error_1002_access_key.json", "auth"),
        ("error_1002_ak_sk_not_supported.json", "auth"),
        ("error_1002_not_a_jwt.json", "auth"),
        ("error_1004_expired.json", "auth"),
        ("error_1102_balance.json", "billing"),
        ("error_1201_camera_control.json", "invalid"),
        ("error_1201_external_task_id_exists.json", "already-exists"),
        ("error_1201_model_mode_duration_image_tail.json", "invalid"),
        ("error_1201_task_not_found.json", "not-found"),
        ("error_1301_content_policy.json", "policy"),
        ("error_1302_rate_limit.json", "throttled"),
        ("error_5001_maintenance.json", "unavailable"),
        ("error_model_discontinued.json", "invalid"),
    ],
)
def test_every_published_error_is_classed(name: str, expected: str) -> None:
    recorded = load(name)
    error = classed(recorded["_http_status"], recorded["body"])
    assert error.error_class == expected
    assert error.http_status == recorded["_http_status"]
    assert error.provider_code == recorded["body"]["code"]
    assert error.request_id == recorded["body"]["request_id"]
    assert recorded["body"]["message"].replace("'", "")[:20] in error.message.replace("'", "").replace("\\", "")


def test_discontinued_model_is_told_by_text_under_any_code() -> None:
    text = load("error_model_discontinued.json")["body"]["message"]
    for body in (kling(1201, text), kling(1203, text), kling(None, text), comet(text), comet(text, "invalid_request")):
        error = classed(500, body, creating=True)
        assert error.error_class is ErrorClass.INVALID
        assert "kling-v3" in error.message


def test_existing_id_is_told_by_text_through_a_relay_too() -> None:
    text = "External_task_id ext-0001 already exists"
    for body in (kling(1201, text), kling(1200, text), comet(text), comet(text, "invalid_request")):
        assert classed(400, body, creating=True).error_class is ErrorClass.ALREADY_EXISTS


def test_missing_task_is_told_by_text_through_a_relay_too() -> None:
    assert classed(400, comet("Task not found by id/external id: 7")).error_class is ErrorClass.NOT_FOUND


def test_missing_task_is_not_believed_of_a_failing_server() -> None:
    assert classed(502, comet("task not found")).error_class is ErrorClass.UNAVAILABLE


@pytest.mark.parametrize("page", ["<h1>The task was not found</h1>", "File already exists", "no longer available"])
def test_text_of_a_gateway_is_not_the_providers(page: str) -> None:
    assert classed(404, page).error_class is ErrorClass.INVALID


def test_text_does_not_overrule_a_code_that_is_clear() -> None:
    assert classed(401, kling(1002, "access key not exist, task not found")).error_class is ErrorClass.AUTH
    assert classed(429, kling(1102, "already exists")).error_class is ErrorClass.BILLING


# ---------------------------------------------------------------------------------------------------------- CometAPI


def test_cometapi_envelope_is_read() -> None:
    error = classed(401, load("cometapi_error_envelope.json"))
    assert error.error_class is ErrorClass.AUTH
    assert error.provider_code is None
    assert error.request_id == "20260000000000000000000000000000"


@pytest.mark.parametrize(
    ("http_status", "code", "on_read", "on_create"),
    [
        (400, "", "invalid", "invalid"),
        (401, "", "auth", "auth"),
        (403, "", "permission", "permission"),
        (429, "", "throttled", "throttled"),
        (500, "", "unavailable", "ambiguous"),
        (503, "", "unavailable", "ambiguous"),
        (504, "", "unavailable", "ambiguous"),
        (524, "", "unavailable", "ambiguous"),
        (500, "invalid_request", "invalid", "invalid"),
        (400, "invalid_request", "invalid", "invalid"),
        (500, "1303", "concurrency", "concurrency"),
    ],
)
def test_cometapi_error(http_status: int, code: str, on_read: str, on_create: str) -> None:
    body = comet("no", code)
    assert classed(http_status, body).error_class == on_read
    assert classed(http_status, body, creating=True).error_class == on_create


# ------------------------------------------------------------------------------------- answers that are not Kling's


@pytest.mark.parametrize("text", [HTML, "Bad Gateway", "", "  ", '"text"', "null", "7"])
@pytest.mark.parametrize(
    ("http_status", "on_read", "on_create"),
    [
        (200, "unavailable", "ambiguous"),
        (301, "invalid", "invalid"),
        (302, "invalid", "invalid"),
        (400, "invalid", "invalid"),
        (401, "auth", "auth"),
        (402, "billing", "billing"),
        (403, "permission", "permission"),
        (404, "invalid", "invalid"),
        (405, "invalid", "invalid"),
        (408, "unavailable", "ambiguous"),
        (409, "invalid", "ambiguous"),
        (413, "invalid", "invalid"),
        (425, "unavailable", "ambiguous"),
        (429, "throttled", "throttled"),
        (499, "unavailable", "ambiguous"),
        (500, "unavailable", "ambiguous"),
        (502, "unavailable", "ambiguous"),
        (503, "unavailable", "ambiguous"),
        (504, "unavailable", "ambiguous"),
        (524, "unavailable", "ambiguous"),
    ],
)
def test_body_that_is_not_an_object_leaves_the_http_status(
    text: str, http_status: int, on_read: str, on_create: str
) -> None:
    assert classed(http_status, decode(text)).error_class == on_read
    assert classed(http_status, decode(text), creating=True).error_class == on_create


@pytest.mark.parametrize("http_status", [200, 400, 401, 429, 503])
def test_cut_json_proves_nothing(http_status: int) -> None:
    body = decode('{"code":1201,"message":"External_task')
    assert classed(http_status, body).error_class is ErrorClass.UNAVAILABLE
    assert classed(http_status, body, creating=True).error_class is ErrorClass.AMBIGUOUS


def test_json_without_a_code_leaves_the_http_status() -> None:
    assert classed(429, {"message": "slow down"}).error_class is ErrorClass.THROTTLED
    assert classed(404, {"message": "Not Found"}).error_class is ErrorClass.INVALID


def test_unknown_code_leaves_the_http_status() -> None:
    assert classed(400, kling(1999), creating=True).error_class is ErrorClass.INVALID
    assert classed(200, kling(1999), creating=True).error_class is ErrorClass.AMBIGUOUS


def test_unknown_code_of_the_server_family_is_a_server_error() -> None:
    assert classed(400, kling(5003), creating=True).error_class is ErrorClass.AMBIGUOUS


def test_create_that_succeeds_without_an_id_is_ambiguous() -> None:
    assert classed(200, {"code": 0, "data": {}}, creating=True).error_class is ErrorClass.AMBIGUOUS


def test_redirect_hints_at_the_base_url() -> None:
    assert "/kling" in classed(301, None).message


def test_foreign_types_in_the_envelope_do_not_break_it() -> None:
    bodies: list[dict[str, Any]] = [
        {"code": None, "message": None},
        {"code": [], "message": {}},
        {"error": "no"},
        {"error": []},
    ]
    for body in bodies:
        assert classed(400, body).error_class is ErrorClass.INVALID


# ---------------------------------------------------------------------------------------------------------- messages


def test_message_says_what_happened_and_what_to_do() -> None:
    recorded = load("error_1102_balance.json")
    text = classed(429, recorded["body"]).message
    assert text == (
        "The account has no units left, or they have expired (HTTP 429, code 1102, the provider says: "
        "'Account balance not enough', request id 00000000-0000-4000-8000-0000000000ee). Buy a resource pack."
    )


def test_message_quotes_little_and_without_markup() -> None:
    text = classed(502, HTML + "x" * 100_000).message
    assert "502 Bad Gateway nginx" in text
    assert "<" not in text
    assert len(text) < 400


def test_message_hides_what_looks_like_a_credential() -> None:
    token = load("jwt_synthetic_vector.json")["token"]
    body = f"GET /x Authorization: Bearer {token} X-Key: sk-abcdefgh12345678 {token}"
    for error in (classed(500, body), classed(400, kling(1201, body))):
        assert "eyJ" not in error.message
        assert "sk-abc" not in error.message
        assert "GET /x" in error.message


def test_secret_is_hidden_even_where_the_excerpt_ends() -> None:
    body = kling(1201, "x" * 190 + "a-secret-that-is-echoed")
    error = classify(400, body, creating=True, headers={}, secrets=("a-secret-that-is-echoed",))
    assert "a-secret" not in error.message


def test_short_secret_does_not_change_what_an_answer_means() -> None:
    assert classify(429, kling(1102), creating=True, headers={}, secrets=("code",)).provider_code == 1102


def test_facts_are_given_to_programs_too() -> None:
    error = classed(429, kling(1303), retry_after="7")
    assert error.metadata == {"http_status": "429", "provider_code": "1303", "request_id": "r-1", "retry_after": "7.0"}


# ------------------------------------------------------------------------------------------------------- Retry-After


@pytest.mark.parametrize(("value", "expected"), [("0", 0.0), ("120", 120.0), (" 5 ", 5.0)])
def test_retry_after_in_seconds(value: str, expected: float) -> None:
    assert classed(429, None, retry_after=value).retry_after == expected


def test_retry_after_as_a_date() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=90)
    found = classed(503, None, retry_after=format_datetime(soon, usegmt=True)).retry_after
    assert found is not None
    assert 80 < found <= 90


def test_retry_after_in_the_past_is_now() -> None:
    assert classed(503, None, retry_after="Wed, 21 Oct 2015 07:28:00 GMT").retry_after == 0.0


@pytest.mark.parametrize("value", ["", "soon", "-5", "1.5", "²", "9" * 400])
def test_retry_after_that_says_nothing(value: str) -> None:
    assert classed(503, None, retry_after=value).retry_after is None


# --------------------------------------------------------------------------------------------------------- the tree


def test_classes_are_complete_and_consistent() -> None:
    classes = UpstreamError.__subclasses__()
    assert {cls.error_class for cls in classes} == set(ErrorClass)
    assert len({cls.reason for cls in classes}) == len(classes)
    for cls in classes:
        assert cls.reason == f"UPSTREAM_{cls.error_class.name}"
        assert cls("x").retryable is (cls.error_class in {"throttled", "concurrency", "unavailable"})
        assert cls.exit_code > 1


def test_ambiguous_is_told_apart_from_unavailable_by_its_exit_code() -> None:
    assert UpstreamAmbiguous.exit_code != UpstreamThrottled.exit_code


def test_errors_survive_pickling() -> None:
    error = classed(429, kling(1303), retry_after="7")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.message, copy.retry_after, copy.provider_code) == (error.message, 7.0, 1303)
