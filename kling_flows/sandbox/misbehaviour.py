"""Turns a fault rule into the answer that the client gets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.responses import Response

from kling_flows.sandbox.answers import kling_error
from kling_flows.sandbox.delivery import (
    Delayed,
    Dropped,
    Hanging,
    Interrupted,
    Overstated,
    Truncated,
    gateway_page,
)
from kling_flows.sandbox.errors import Refusal
from kling_flows.sandbox.faults import Fault, Rule
from kling_flows.upstream.constants import KlingCode

#: Makes the true answer.
Answer = Callable[[], Awaitable[Response]]
#: Makes an error of the surface itself from an HTTP status and headers.
GatewayError = Callable[[int, dict[str, str] | None], Response]


async def misbehave(rule: Rule, answer: Answer, gateway_error: GatewayError) -> Response:
    """The answer under a fault.

    Args:
        rule: The rule that hit the call.
        answer: Makes the true answer; not called where the fault needs none.
        gateway_error: Makes the error of an ``http_error`` that names no code of Kling's.
    """
    match rule.fault:
        case Fault.ACCEPT_THEN_DROP | Fault.DROP_BEFORE_ACCEPT:
            return Dropped()
        case Fault.HANG:
            return Hanging(rule.seconds)
        case Fault.SLOW:
            return Delayed(answer, rule.delay)
        case Fault.RESET_MID_BODY:
            return Interrupted(await answer())
        case Fault.TRUNCATED_JSON | Fault.VIDEO_TRUNCATED:
            return Truncated(await answer())
        case Fault.VIDEO_WRONG_LENGTH:
            return Overstated(await answer())
        case Fault.EMPTY:
            return Response(status_code=rule.status or 200)
        case Fault.HTML:
            return _page(rule.status or 502)
        case Fault.VIDEO_HTML:
            return _page(rule.status or 200)
        case Fault.VIDEO_EXPIRED:
            return _page(403)
        case Fault.CONCURRENCY:
            return _error(rule, KlingCode.CONCURRENCY_EXCEEDED)
        case Fault.THROTTLE:
            return _error(rule, KlingCode.TOO_FAST)
        case Fault.HTTP_ERROR:
            if rule.code is not None:
                return _error(rule, rule.code)
            return gateway_error(rule.status or 500, _headers(rule))
        case Fault.SUCCEED_WITHOUT_URL:
            # Shows inside of a true answer; whoever makes the answer asks for it there.
            return await answer()


def _error(rule: Rule, code: int) -> Response:
    refusal = Refusal(code, status=rule.status)
    return kling_error(refusal.code, refusal.message, refusal.status, _headers(rule))


def _headers(rule: Rule) -> dict[str, str] | None:
    return None if rule.retry_after is None else {"retry-after": str(rule.retry_after)}


def _page(status: int) -> Response:
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    return gateway_page(status, title)
