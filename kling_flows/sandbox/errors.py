"""A request that the sandbox refuses, in the words and codes of Kling."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from kling_flows.upstream.constants import KlingCode

#: HTTP status of each code (fact sheet 7.1).
STATUS_OF_CODE: Final[Mapping[int, int]] = MappingProxyType(
    {
        KlingCode.AUTH_FAILED: 401,
        KlingCode.AUTH_EMPTY: 401,
        KlingCode.AUTH_INVALID: 401,
        KlingCode.AUTH_NOT_YET_VALID: 401,
        KlingCode.AUTH_EXPIRED: 401,
        KlingCode.ACCOUNT_ABNORMAL: 429,
        KlingCode.ACCOUNT_IN_ARREARS: 429,
        KlingCode.PACK_USED_UP: 429,
        KlingCode.NO_PERMISSION: 403,
        KlingCode.PARAMETERS_INVALID: 400,
        KlingCode.PARAMETER_VALUE_INVALID: 400,
        KlingCode.METHOD_INVALID: 404,
        KlingCode.RESOURCE_MISSING: 404,
        KlingCode.PLATFORM_POLICY: 400,
        KlingCode.CONTENT_POLICY: 400,
        KlingCode.TOO_FAST: 429,
        KlingCode.CONCURRENCY_EXCEEDED: 429,
        KlingCode.IP_NOT_ALLOWED: 429,
        KlingCode.INTERNAL_ERROR: 500,
        KlingCode.MAINTENANCE: 503,
        KlingCode.BACKLOG: 504,
    }
)

#: Text of each code that is sent without a text of its own. Seen live: 1000, 1001, 1102, 1303 (fact sheet 1.4, 7); the
#: others word the meaning that the official table gives.
TEXT_OF_CODE: Final[Mapping[int, str]] = MappingProxyType(
    {
        KlingCode.AUTH_FAILED: "signature is invalid",
        KlingCode.AUTH_EMPTY: "Authorization is empty",
        KlingCode.AUTH_INVALID: "Authorization is invalid",
        KlingCode.AUTH_NOT_YET_VALID: "Authorization is not yet valid",
        KlingCode.AUTH_EXPIRED: "Authorization has expired",
        KlingCode.ACCOUNT_ABNORMAL: "Account exception",
        KlingCode.ACCOUNT_IN_ARREARS: "Account in arrears",
        KlingCode.PACK_USED_UP: "Account balance not enough",
        KlingCode.NO_PERMISSION: "No permission for the requested resource",
        KlingCode.PARAMETERS_INVALID: "Invalid request parameters",
        KlingCode.PARAMETER_VALUE_INVALID: "Invalid parameters",
        KlingCode.METHOD_INVALID: "The requested method is invalid",
        KlingCode.RESOURCE_MISSING: "The requested resource does not exist",
        KlingCode.PLATFORM_POLICY: "Trigger the platform's policy",
        KlingCode.CONTENT_POLICY: "Trigger the platform's content security policy",
        KlingCode.TOO_FAST: "Too many requests; rate limit exceeded",
        KlingCode.CONCURRENCY_EXCEEDED: "parallel task over resource pack limit",
        KlingCode.IP_NOT_ALLOWED: "The IP address is not in the whitelist",
        KlingCode.INTERNAL_ERROR: "Internal server error",
        KlingCode.MAINTENANCE: "Server temporarily unavailable",
        KlingCode.BACKLOG: "Server timeout",
    }
)


class Refusal(Exception):
    """The answer is an error.

    Args:
        code: Kling's code.
        message: Text for the caller; the code's usual text where none is given.
        status: HTTP status; the code's own where none is given.
    """

    def __init__(self, code: int, message: str | None = None, *, status: int | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = TEXT_OF_CODE.get(code, "Unknown error") if message is None else message
        self.status = STATUS_OF_CODE.get(code, 500) if status is None else status


def invalid(message: str) -> Refusal:
    """A parameter has a wrong value: 400/1201."""
    return Refusal(KlingCode.PARAMETER_VALUE_INVALID, message)
