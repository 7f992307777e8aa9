"""What a refusal means, in either dialect: by Kling's ``code`` first, never by HTTP status alone (fact sheet 7)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from kling_flows.upstream.body import Body, as_mapping, as_text
from kling_flows.upstream.capabilities import ModelStatus, capability_map
from kling_flows.upstream.constants import KlingCode
from kling_flows.upstream.errors import (
    UpstreamAlreadyExists,
    UpstreamAmbiguous,
    UpstreamAuth,
    UpstreamBilling,
    UpstreamConcurrency,
    UpstreamError,
    UpstreamInvalid,
    UpstreamNotFound,
    UpstreamPermission,
    UpstreamPolicy,
    UpstreamThrottled,
    UpstreamUnavailable,
)
from kling_flows.upstream.text import excerpt

_LOOK_UP: Final = "Look it up by its external_task_id before sending anything again."
_CHECK_REQUEST: Final = "Correct the request; the same one will be refused again."
_CHECK_CREDENTIALS: Final = "Check the key, and that it belongs to the region of this base URL."
_USE_API_KEY: Final = "Use an API key, or the legacy dialect."
_CHECK_CLOCK: Final = "A new token did not help either: set this machine's clock, and check the key."
_CHECK_BASE_URL: Final = "Check the base URL: for CometAPI it ends in /kling."


@dataclass(frozen=True, slots=True)
class _Verdict:
    error: type[UpstreamError]
    what: str
    remedy: str


#: Fact sheet 7.1. Codes whose meaning depends on the operation are in `_by_operation`.
_BY_CODE: Final[Mapping[int, _Verdict]] = {
    KlingCode.AUTH_FAILED: _Verdict(UpstreamAuth, "The key or its signature was refused", _CHECK_CREDENTIALS),
    KlingCode.AUTH_EMPTY: _Verdict(UpstreamAuth, "The provider saw no key", "Check what changes headers on the way."),
    KlingCode.AUTH_INVALID: _Verdict(UpstreamAuth, "The key was refused", _CHECK_CREDENTIALS),
    KlingCode.AUTH_NOT_YET_VALID: _Verdict(UpstreamAuth, "The token is not valid yet", _CHECK_CLOCK),
    KlingCode.AUTH_EXPIRED: _Verdict(UpstreamAuth, "The token has expired", _CHECK_CLOCK),
    KlingCode.ACCOUNT_ABNORMAL: _Verdict(
        UpstreamPermission, "The account is in an abnormal state", "Look at it in the provider's console."
    ),
    KlingCode.ACCOUNT_IN_ARREARS: _Verdict(UpstreamBilling, "The account is in arrears", "Recharge it."),
    KlingCode.PACK_USED_UP: _Verdict(
        UpstreamBilling, "The account has no units left, or they have expired", "Buy a resource pack."
    ),
    KlingCode.NO_PERMISSION: _Verdict(
        UpstreamPermission, "The account may not use this interface or model", "Check its rights in the console."
    ),
    KlingCode.PARAMETERS_INVALID: _Verdict(UpstreamInvalid, "The parameters were refused", _CHECK_REQUEST),
    KlingCode.PARAMETER_VALUE_INVALID: _Verdict(UpstreamInvalid, "A parameter was refused", _CHECK_REQUEST),
    KlingCode.METHOD_INVALID: _Verdict(UpstreamInvalid, "The provider does not know this method", _CHECK_BASE_URL),
    KlingCode.PLATFORM_POLICY: _Verdict(
        UpstreamPolicy, "The platform's policy does not allow it", "Change the content; it was not charged."
    ),
    KlingCode.CONTENT_POLICY: _Verdict(
        UpstreamPolicy, "The content check refused it", "Change the prompt; it was not charged."
    ),
    KlingCode.TOO_FAST: _Verdict(UpstreamThrottled, "Too many requests in a short time", "Try again later."),
    KlingCode.CONCURRENCY_EXCEEDED: _Verdict(
        UpstreamConcurrency, "All slots of the account are taken", "Try again when a task has ended."
    ),
    KlingCode.IP_NOT_ALLOWED: _Verdict(
        UpstreamPermission, "This address is not on the account's whitelist", "Add it, or ask the provider's support."
    ),
}
_BY_OPERATION: Final = frozenset({KlingCode.RESOURCE_MISSING, *range(5000, 6000)})

#: What Kling tells by text only, under codes that mean anything about parameters.
_EXISTS: Final = re.compile(r"\balready\s+exists?\b", re.IGNORECASE)
_NO_TASK: Final = re.compile(r"\btask\b.{0,40}\bnot\s+(?:found|exist)", re.IGNORECASE)
_NO_KEY_PAIR: Final = re.compile(r"\bnot support AK/SK\b", re.IGNORECASE)
_DISCONTINUED: Final = re.compile(r"\bdiscontinued\b|\bno longer available\b", re.IGNORECASE)
_TEXT_DECIDES: Final = frozenset(
    {KlingCode.PARAMETERS_INVALID, KlingCode.PARAMETER_VALUE_INVALID, KlingCode.RESOURCE_MISSING}
)

#: CometAPI's word for a request that no repetition mends, even with HTTP 500 (fact sheet 7.4).
_RELAY_INVALID: Final = "invalid_request"
_RELAY_REQUEST_ID: Final = re.compile(r"\(request id:\s*([\w-]{1,80})\)", re.IGNORECASE)

#: Statuses of a gateway that gave up on a request which may have gone on without it.
_GAVE_UP: Final = frozenset({408, 425, 499, 524})
_SERVER_ERROR: Final = 500
#: Longest id and word taken over from an answer, characters.
_NAME_LIMIT: Final = 128


@dataclass(frozen=True, slots=True)
class _Fault:
    """An answer, read.

    ``enveloped``: it is a JSON object, so that its text is the provider's and not some gateway's. ``cut``: it began as
    one and ends early, which proves nothing.
    """

    http_status: int
    creating: bool
    code: int | str | None = None
    message: str = ""
    request_id: str | None = None
    enveloped: bool = False
    cut: bool = False


def is_refusal(body: Mapping[str, object]) -> bool:
    """Whether a body says no in a way that we know. A code that we do not know may come with a paid task."""
    code = _code(body.get("code"))
    known = code in _BY_CODE or code in _BY_OPERATION or code == _RELAY_INVALID
    return known or bool(body.get("error"))


def classify(
    http_status: int,
    body: Body,
    *,
    creating: bool,
    headers: Mapping[str, str],
    secrets: Iterable[str] = (),
) -> UpstreamError:
    """Return the error that an answer without a usable task stands for.

    Args:
        http_status: HTTP status of the answer, 2xx included.
        body: The answer, decoded.
        creating: Whether the call was a create: what may have been done there is unknown, not undone.
        headers: Of the answer, by lower-case name or in a mapping that ignores case.
        secrets: What the answer may echo and the error must not show.
    """
    fault = _read(http_status, body, creating, tuple(secrets))
    verdict = _judge(fault)
    return verdict.error(
        f"{verdict.what} ({_evidence(fault)}). {verdict.remedy}",
        http_status=http_status,
        provider_code=fault.code,
        request_id=fault.request_id,
        retry_after=_retry_after(headers.get("retry-after")),
    )


def _read(http_status: int, body: Body, creating: bool, secrets: tuple[str, ...]) -> _Fault:
    if body is None:
        return _Fault(http_status, creating)
    if isinstance(body, str):
        cut = body.lstrip().startswith(("{", "["))
        return _Fault(http_status, creating, message=excerpt(body, secrets), cut=cut)
    relayed = body.get("error")
    envelope = as_mapping(relayed) or body
    message = as_text(envelope.get("message")) or as_text(relayed)
    named = _RELAY_REQUEST_ID.search(message)
    request_id = as_text(body.get("request_id")) or as_text(envelope.get("request_id")) or (named[1] if named else "")
    return _Fault(
        http_status,
        creating,
        code=_code(envelope.get("code")),
        message=excerpt(message, secrets),
        request_id=excerpt(request_id, secrets)[:_NAME_LIMIT] or None,
        enveloped=True,
    )


def _code(value: object) -> int | str | None:
    """Return a code that says something: a number also where it came as text, and no code for success."""
    text = as_text(value).strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        number = int(text)
        return None if number == KlingCode.OK else number
    return excerpt(text)[:_NAME_LIMIT] or None


def _judge(fault: _Fault) -> _Verdict:
    if fault.cut:
        return _unknown_outcome(fault, "The answer is cut, or no JSON object")
    by_text = _by_text(fault)
    if by_text is not None:
        return by_text
    if fault.code == _RELAY_INVALID:
        return _Verdict(UpstreamInvalid, "The request was refused", _CHECK_REQUEST)
    if isinstance(fault.code, int):
        if fault.code in _BY_CODE:
            return _BY_CODE[fault.code]
        if fault.code in _BY_OPERATION:
            return _by_operation(fault)
    return _by_status(fault)


def _by_text(fault: _Fault) -> _Verdict | None:
    if fault.enveloped and fault.code == KlingCode.AUTH_INVALID and _NO_KEY_PAIR.search(fault.message):
        return _Verdict(UpstreamAuth, "This interface takes no access key and secret key", _USE_API_KEY)
    if not fault.enveloped or (isinstance(fault.code, int) and fault.code not in _TEXT_DECIDES):
        return None
    if _DISCONTINUED.search(fault.message):
        rows = capability_map().model.items()
        active = ", ".join(name for name, row in rows if row.status is ModelStatus.ACTIVE)
        return _Verdict(UpstreamInvalid, "The model is discontinued", f"Use one that answers: {active}.")
    if fault.http_status >= _SERVER_ERROR:
        return None
    if _EXISTS.search(fault.message):
        return _Verdict(
            UpstreamAlreadyExists, "A task with this external_task_id exists", "Query it by that id and adopt it."
        )
    if _NO_TASK.search(fault.message):
        return _Verdict(UpstreamNotFound, "The provider has no task of that id", "Check the id and the account.")
    return None


def _by_operation(fault: _Fault) -> _Verdict:
    if fault.code != KlingCode.RESOURCE_MISSING:
        return _unknown_outcome(fault, "The provider could not process the call")
    if fault.creating:
        return _Verdict(UpstreamInvalid, "What the request names, such as its model, does not exist", _CHECK_REQUEST)
    return _Verdict(UpstreamNotFound, "The provider has no task of that id", "Check the id and the account.")


def _by_status(fault: _Fault) -> _Verdict:
    match fault.http_status:
        case 401:
            return _Verdict(UpstreamAuth, "The key was refused", _CHECK_CREDENTIALS)
        case 402:
            return _Verdict(UpstreamBilling, "The provider asks for payment", "Recharge the account.")
        case 403:
            return _Verdict(UpstreamPermission, "Access was refused", "Check the account's rights and this address.")
        case 409 if fault.creating:
            return _unknown_outcome(fault, "The provider sees a conflict")
        case 429:
            return _Verdict(UpstreamThrottled, "Too many requests in a short time", "Try again later.")
        case status if status in _GAVE_UP or status >= _SERVER_ERROR:
            return _unknown_outcome(fault, "The provider could not process the call")
        case status if 200 <= status < 300:
            return _unknown_outcome(fault, "The answer does not hold what was asked for")
        case status if 300 <= status < 400:
            return _Verdict(UpstreamInvalid, "The provider answered with a redirect", _CHECK_BASE_URL)
        case 404 | 405 | 410:
            return _Verdict(UpstreamInvalid, "There is no such interface at this address", _CHECK_BASE_URL)
        case _:
            return _Verdict(UpstreamInvalid, "The request was refused", _CHECK_REQUEST)


def _unknown_outcome(fault: _Fault, what: str) -> _Verdict:
    if fault.creating:
        return _Verdict(UpstreamAmbiguous, f"{what}, so it is not known whether a task was created", _LOOK_UP)
    return _Verdict(UpstreamUnavailable, what, "Try again later.")


def _evidence(fault: _Fault) -> str:
    parts = [f"HTTP {fault.http_status}"]
    if fault.code is not None:
        parts.append(f"code {fault.code}")
    parts.append(f"the provider says: {fault.message!r}" if fault.message else "without a message")
    if fault.request_id is not None:
        parts.append(f"request id {fault.request_id}")
    return ", ".join(parts)


def _retry_after(value: str | None) -> float | None:
    """Return seconds from now; the header gives them, or a date (RFC 9110 10.2.3)."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
