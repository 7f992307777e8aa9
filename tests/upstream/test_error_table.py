"""Every row of the published tables, as it comes over the wire: create and query, in either dialect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from kling_flows.upstream import Account, KlingCode, UpstreamClient, UpstreamError, UpstreamStatus
from kling_flows.upstream import errors as kinds

from .data import account, api_key_credentials, load, request, standard_account
from .server import answer, serve

HTML = "<html><head><title>502 Bad Gateway</title></head><body><h1>nginx</h1></body></html>"


@dataclass(frozen=True)
class Row:
    """One row: what comes, and what it is for a query; for a create as well, unless that is another class.

    ``says`` is in the message of the query's error, ``create_says`` in that of the create's.
    """

    name: str
    http_status: int
    body: Any
    read: type[UpstreamError]
    says: str
    create: type[UpstreamError] | None = None
    create_says: str = ""


def kling(code: int, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "request_id": "r-1"}


def comet(message: str, code: str = "") -> dict[str, Any]:
    return {"error": {"message": f"{message} (request id: r-1)", "type": "comet_api_error", "param": "", "code": code}}


LOOK_UP = "Look it up by its external_task_id before sending anything again."

ROWS = [
    # Fact sheet 7.1 and 1.4.
    Row("1000", 401, kling(1000, "signature is invalid"), kinds.UpstreamAuth, "region of this base URL"),
    Row("1001", 401, kling(1001, "Authorization is empty"), kinds.UpstreamAuth, "changes headers on the way"),
    Row("1002-access-key", 401, kling(1002, "access key not exist"), kinds.UpstreamAuth, "Check the key"),
    Row("1002-region", 401, kling(1002, "api key not found"), kinds.UpstreamAuth, "region of this base URL"),
    Row("1002-no-jwt", 401, kling(1002, "The token was expected to have 3 parts"), kinds.UpstreamAuth, "Check the key"),
    Row(
        "1002-ak-sk",
        401,
        load("error_1002_ak_sk_not_supported.json")["body"],
        kinds.UpstreamAuth,
        "Use an API key, or the legacy dialect.",
    ),
    Row("1003", 401, kling(1003, "not valid yet"), kinds.UpstreamAuth, "set this machine's clock"),
    Row("1004", 401, kling(1004, "expired"), kinds.UpstreamAuth, "set this machine's clock"),
    Row("1100", 429, kling(1100, "account abnormal"), kinds.UpstreamPermission, "provider's console"),
    Row("1101", 429, kling(1101, "in arrears"), kinds.UpstreamBilling, "Recharge it."),
    Row("1102", 429, kling(1102, "Account balance not enough"), kinds.UpstreamBilling, "Buy a resource pack."),
    Row("1103", 403, kling(1103, "no permission"), kinds.UpstreamPermission, "Check its rights"),
    Row("1200", 400, kling(1200, "parameters"), kinds.UpstreamInvalid, "the same one will be refused again"),
    Row("1201", 400, kling(1201, "bad mode"), kinds.UpstreamInvalid, "bad mode"),
    Row("1202", 404, kling(1202, "method"), kinds.UpstreamInvalid, "Check the base URL"),
    Row(
        "1203",
        404,
        kling(1203, "resource"),
        kinds.UpstreamNotFound,
        "no task of that id",
        kinds.UpstreamInvalid,
        "such as its model",
    ),
    Row("1300", 400, kling(1300, "policy"), kinds.UpstreamPolicy, "not charged"),
    Row("1301", 400, kling(1301, "content"), kinds.UpstreamPolicy, "Change the prompt"),
    Row("1302", 429, kling(1302, "too fast"), kinds.UpstreamThrottled, "Try again later."),
    Row(
        "1303",
        429,
        kling(1303, "parallel task over resource pack limit"),
        kinds.UpstreamConcurrency,
        "Try again when a task has ended.",
    ),
    Row("1304", 429, kling(1304, "ip"), kinds.UpstreamPermission, "whitelist"),
    *(
        Row(
            str(code),
            status,
            kling(code, "x"),
            kinds.UpstreamUnavailable,
            "Try again",
            kinds.UpstreamAmbiguous,
            LOOK_UP,
        )
        for status, code in ((500, 5000), (503, 5001), (504, 5002))
    ),
    # Fact sheet 2.5, 4.2, 7.3: told by text only.
    *(
        Row(f"1201-{number}", 400, kling(1201, text), kinds.UpstreamInvalid, text)
        for number, text in enumerate(
            [
                "camera_control is only supported in std mode with 5s duration and kling-v1",
                "model/mode/duration(kling-v2-5-turbo/std/10) is not supported with image_tail",
                "Image tail is not supported by the current model",
                "model is not supported",
                "task_ids or external_task_ids is required",
            ]
        )
    ),
    Row(
        "discontinued",
        400,
        load("error_model_discontinued.json")["body"],
        kinds.UpstreamInvalid,
        "Use one that answers: kling-v3",
    ),
    Row(
        "task-not-found",
        400,
        kling(1201, "Task not found by id/external id: 7"),
        kinds.UpstreamNotFound,
        "Check the id",
    ),
    Row(
        "external-id-exists",
        400,
        load("error_1201_external_task_id_exists.json")["body"],
        kinds.UpstreamAlreadyExists,
        "adopt it",
    ),
    # Fact sheet 7.4.
    Row("comet-400", 400, comet("bad"), kinds.UpstreamInvalid, "refused"),
    Row("comet-401", 401, comet("invalid token"), kinds.UpstreamAuth, "invalid token"),
    Row("comet-403", 403, comet("forbidden"), kinds.UpstreamPermission, "Access was refused"),
    Row("comet-429", 429, comet("slow down"), kinds.UpstreamThrottled, "Try again later."),
    *(
        Row(
            f"comet-{status}",
            status,
            comet("oops"),
            kinds.UpstreamUnavailable,
            "Try again later.",
            kinds.UpstreamAmbiguous,
            LOOK_UP,
        )
        for status in (500, 503, 504, 524)
    ),
    Row("comet-500-invalid", 500, comet("bad", "invalid_request"), kinds.UpstreamInvalid, "Correct the request"),
    # What is in no table.
    Row("unknown-code-400", 400, kling(1999, "new"), kinds.UpstreamInvalid, "code 1999"),
    Row("unknown-code-429", 429, kling(1999, "new"), kinds.UpstreamThrottled, "code 1999"),
    Row(
        "unknown-code-200",
        200,
        kling(1999, "new"),
        kinds.UpstreamUnavailable,
        "code 1999",
        kinds.UpstreamAmbiguous,
        LOOK_UP,
    ),
    Row(
        "unknown-code-5xxx",
        400,
        kling(5099, "new"),
        kinds.UpstreamUnavailable,
        "code 5099",
        kinds.UpstreamAmbiguous,
        LOOK_UP,
    ),
    Row("html-404", 404, HTML, kinds.UpstreamInvalid, "for CometAPI it ends in /kling"),
    Row("html-301", 301, HTML, kinds.UpstreamInvalid, "for CometAPI it ends in /kling"),
    Row("html-502", 502, HTML, kinds.UpstreamUnavailable, "502 Bad Gateway", kinds.UpstreamAmbiguous, LOOK_UP),
    Row("html-200", 200, HTML, kinds.UpstreamUnavailable, "Bad Gateway", kinds.UpstreamAmbiguous, LOOK_UP),
    Row("empty-200", 200, "", kinds.UpstreamUnavailable, "without a message", kinds.UpstreamAmbiguous, LOOK_UP),
    Row("empty-401", 401, "", kinds.UpstreamAuth, "Check the key"),
    Row("empty-429", 429, "", kinds.UpstreamThrottled, "Try again later."),
    Row("empty-503", 503, "", kinds.UpstreamUnavailable, "Try again later.", kinds.UpstreamAmbiguous, LOOK_UP),
    Row(
        "missing-data",
        200,
        {"code": 0, "message": "SUCCEED"},
        kinds.UpstreamUnavailable,
        "does not hold what was asked for",
        kinds.UpstreamAmbiguous,
        LOOK_UP,
    ),
    Row(
        "null-data",
        200,
        {"code": 0, "data": None},
        kinds.UpstreamUnavailable,
        "does not hold what was asked for",
        kinds.UpstreamAmbiguous,
        LOOK_UP,
    ),
]

STATUS = {
    "auth": "FAILED_PRECONDITION",
    "billing": "RESOURCE_EXHAUSTED",
    "permission": "PERMISSION_DENIED",
    "invalid": "INVALID_ARGUMENT",
    "policy": "FAILED_PRECONDITION",
    "throttled": "UNAVAILABLE",
    "concurrency": "UNAVAILABLE",
    "unavailable": "UNAVAILABLE",
    "ambiguous": "UNAVAILABLE",
    "not-found": "NOT_FOUND",
    "already-exists": "ALREADY_EXISTS",
}


def jwt_account(base_url: str) -> Account:
    return account(base_url)


def key_account(base_url: str) -> Account:
    return account(base_url, api_key_credentials())


@pytest.mark.asyncio
@pytest.mark.parametrize("make", [jwt_account, key_account, standard_account])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_row(row: Row, make: Any) -> None:
    # Two for each call: a token that has expired is signed anew once.
    replies = [answer(row.http_status, row.body)] * 4
    async with serve(*replies) as server, UpstreamClient(make(server.base_url)) as upstream:
        with pytest.raises(UpstreamError) as on_read:
            await upstream.get("7")
        with pytest.raises(UpstreamError) as on_create:
            await upstream.create(request(), "ext-0001")
    assert type(on_read.value) is row.read
    assert row.says in on_read.value.message
    assert type(on_create.value) is (row.create or row.read)
    assert (row.create_says or row.says) in on_create.value.message
    for error in (on_read.value, on_create.value):
        assert error.grpc_code == STATUS[error.error_class]
        assert error.http_status == row.http_status
        assert f"HTTP {row.http_status}" in error.message
        assert error.message.endswith(".")


def test_every_code_has_a_row() -> None:
    named = {row.body["code"] for row in ROWS if isinstance(row.body, dict) and "code" in row.body}
    assert {code.value for code in KlingCode if code is not KlingCode.OK} <= named


# ------------------------------------------------------------------------------ what is no error although it looks so


@pytest.mark.asyncio
async def test_task_that_failed_is_a_task_not_an_error() -> None:
    legacy = load("official_query_failed_image_invalid.json")
    standard = {"code": 0, "message": "SUCCEED", "data": [{"id": "7", "status": "failed", "message": "Image pixel"}]}
    task_id = legacy["data"]["task_id"]
    async with serve(answer(200, legacy), answer(200, standard)) as server:
        async with UpstreamClient(account(server.base_url)) as upstream:
            first = await upstream.get(task_id)
        async with UpstreamClient(standard_account(server.base_url)) as upstream:
            second = await upstream.get("7")
    assert (first.status, first.status_message) == (UpstreamStatus.FAILED, "Image pixel is invalid")
    assert (second.status, second.status_message) == (UpstreamStatus.FAILED, "Image pixel")


@pytest.mark.asyncio
async def test_success_without_a_url_is_a_task_without_videos() -> None:
    legacy = {"code": 0, "data": {"task_id": "7", "task_status": "succeed", "task_result": {}}}
    standard = {"code": 0, "data": [{"id": "7", "status": "succeeded", "outputs": []}]}
    async with serve(answer(200, legacy), answer(200, standard)) as server:
        for made in (account(server.base_url), standard_account(server.base_url)):
            async with UpstreamClient(made) as upstream:
                task = await upstream.get("7")
            assert (task.status, task.videos) == (UpstreamStatus.SUCCEEDED, ())


# ----------------------------------------------------------------------------------------- what a facade makes of them


@pytest.mark.parametrize("kind", UpstreamError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_only_what_may_be_repeated_has_a_delay(kind: type[UpstreamError]) -> None:
    error = kind("x")
    assert (error.retry_delay is not None) is error.retryable
    assert error.retry_delay is None or error.retry_delay >= 1
    asked = kind("x", retry_after=7.0)
    assert asked.retry_delay == (7.0 if asked.retryable else None)


@pytest.mark.parametrize("kind", UpstreamError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_only_what_runs_out_is_a_matter_of_quota(kind: type[UpstreamError]) -> None:
    subject = {"billing": "account:units", "concurrency": "account:concurrent-tasks"}.get(kind.error_class)
    error = kind("what ran out")
    assert error.quota_subject == subject
    assert error.quota_description == ("what ran out" if subject else None)
