"""Names and numbers of Kling's HTTP API that both its client and a stand-in for it need.

Nothing here depends on any other module, so that a server can be written against the same words as the client.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final


class Provider(StrEnum):
    """Who is called."""

    KLING = "kling"
    COMETAPI = "cometapi"
    SANDBOX = "sandbox"


#: Base URL of each provider, without a trailing slash (fact sheet 1.1). CometAPI serves Kling's paths below ``/kling``.
DEFAULT_BASE_URLS: Final[Mapping[Provider, str]] = MappingProxyType(
    {
        Provider.KLING: "https://api-singapore.klingai.com",
        Provider.COMETAPI: "https://api.cometapi.com/kling",
        Provider.SANDBOX: "http://127.0.0.1:8791",
    }
)

#: Path of create (POST), list (GET) and, with ``/{task_id or external_task_id}`` behind it, query (fact sheet 2.1, 4).
TEXT_TO_VIDEO_PATH: Final = "/v1/videos/text2video"

#: Largest ``pageNum`` of the legacy list (fact sheet 4.3).
MAX_PAGE: Final = 1000
#: Largest ``pageSize`` of the legacy list (fact sheet 4.3).
MAX_PAGE_SIZE: Final = 500

#: Seconds from signing to ``exp`` of a JWT (fact sheet 1.2; the maximum that Kling accepts is not documented).
JWT_LIFETIME: Final = 1800
#: Seconds from ``nbf`` to signing of a JWT, the only allowance for clock skew (fact sheet 1.2).
JWT_SKEW: Final = 5

# The sandbox's credentials are published test values: they open nothing but the sandbox.
SANDBOX_ACCESS_KEY: Final = "sandbox-access-key"
SANDBOX_SECRET_KEY: Final = "sandbox-secret-key-published-for-tests-only"  # noqa: S105
SANDBOX_API_KEY: Final = "sandbox-api-key-published-for-tests-only"


class KlingCode(IntEnum):
    """``code`` of Kling's envelope (fact sheet 7.1)."""

    OK = 0
    AUTH_FAILED = 1000
    AUTH_EMPTY = 1001
    AUTH_INVALID = 1002
    AUTH_NOT_YET_VALID = 1003
    AUTH_EXPIRED = 1004
    ACCOUNT_ABNORMAL = 1100
    ACCOUNT_IN_ARREARS = 1101
    PACK_USED_UP = 1102
    NO_PERMISSION = 1103
    PARAMETERS_INVALID = 1200
    PARAMETER_VALUE_INVALID = 1201
    METHOD_INVALID = 1202
    RESOURCE_MISSING = 1203
    PLATFORM_POLICY = 1300
    CONTENT_POLICY = 1301
    TOO_FAST = 1302
    CONCURRENCY_EXCEEDED = 1303
    IP_NOT_ALLOWED = 1304
    INTERNAL_ERROR = 5000
    MAINTENANCE = 5001
    BACKLOG = 5002


class StatusWord(StrEnum):
    """``task_status`` of the legacy dialect (fact sheet 5)."""

    SUBMITTED = "submitted"
    PROCESSING = "processing"
    SUCCEED = "succeed"
    FAILED = "failed"
