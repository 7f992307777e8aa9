"""Every row of the published tables of errors: what comes over the wire, and what it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kling_flows.upstream import UpstreamError
from kling_flows.upstream import errors as kinds

from .data import load

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
