"""Turns a fault rule into the answer that the client gets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, Protocol

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
from kling_flows.sandbox.hostile import Dripping, GiantHeader, GzipBomb, deep, missing_data, with_invalid_utf8
from kling_flows.upstream.constants import KlingCode

#: Makes the true answer.
Answer = Callable[[], Awaitable[Response]]


class GatewayError(Protocol):
    """Makes an error of the surface itself."""

    def __call__(
        self, status: int, headers: dict[str, str] | None, message: str | None = None, code: str = ""
    ) -> Response:
        """The answer; ``message`` and ``code`` count where the surface's envelope has a place for them."""
        ...


#: Seconds between the bytes of an endless answer.
_DRIP_SECONDS: Final = 0.05


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
        case Fault.VIDEO_WRONG_LENGTH | Fault.WRONG_LENGTH:
            return Overstated(await answer())
        case Fault.DRIP:
            return Dripping(await answer(), _DRIP_SECONDS if rule.seconds is None else rule.seconds)
        case Fault.GIANT_HEADERS:
            return GiantHeader(await answer())
        case Fault.GZIP_BOMB:
            return GzipBomb(rule.status or 200)
        case Fault.MISSING_DATA:
            return missing_data()
        case Fault.DEEP_JSON:
            return deep()
        case Fault.INVALID_UTF8:
            return with_invalid_utf8(await answer())
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
            if isinstance(rule.code, int):
                return _error(rule, rule.code)
            return gateway_error(rule.status or 500, _headers(rule), rule.message, rule.code or "")
        case _:
            # It shows inside of a true answer; whoever makes the answer asks for it there.
            return await answer()


def _error(rule: Rule, code: int) -> Response:
    refusal = Refusal(code, rule.message, status=rule.status)
    return kling_error(refusal.code, refusal.message, refusal.status, _headers(rule))


def _headers(rule: Rule) -> dict[str, str] | None:
    return None if rule.retry_after is None else {"retry-after": str(rule.retry_after)}


def _page(status: int) -> Response:
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    return gateway_page(status, title)
