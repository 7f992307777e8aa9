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


class Dialect(StrEnum):
    """Generation of the provider's API (fact sheet 0)."""

    LEGACY = "legacy"
    STANDARD = "standard"


#: Base URL of each provider, without a trailing slash (fact sheet 1.1). CometAPI serves Kling's paths below ``/kling``.
DEFAULT_BASE_URLS: Final[Mapping[Provider, str]] = MappingProxyType(
    {
        Provider.KLING: "https://api-singapore.klingai.com",
        Provider.COMETAPI: "https://api.cometapi.com/kling",
        Provider.SANDBOX: "http://127.0.0.1:8791",
    }
)

#: Kling's hosts by region (fact sheet 1.1). Keys belong to one region. ``global`` is the host before 2026, announced as
#: replaced by ``singapore`` and seen to answer until 2026-10-04.
REGIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "singapore": "https://api-singapore.klingai.com",
        "beijing": "https://api-beijing.klingai.com",
        "global": "https://api.klingai.com",
    }
)

#: Legacy: path of create (POST), list (GET) and, with ``/{task_id or external_task_id}`` behind it, query
#: (fact sheet 2.1, 4).
TEXT_TO_VIDEO_PATH: Final = "/v1/videos/text2video"

#: Standard: path of create (POST) with ``/{model}`` behind it (fact sheet 2.3).
STANDARD_TEXT_TO_VIDEO_PATH: Final = "/text-to-video"
#: Standard: path of query by ids (GET) and list by cursor (POST), for tasks of all products (fact sheet 4.4).
TASKS_PATH: Final = "/tasks"
#: Resource packs of an account (GET), the same in both dialects (fact sheet 8.3).
ACCOUNT_COSTS_PATH: Final = "/account/costs"
#: Deductions from packs, one per task (POST, by cursor) (fact sheet 8.3).
BILLING_PACKAGE_PATH: Final = "/account/billing/package"
#: Deductions from the cash balance, one per task (POST, by cursor) (fact sheet 8.3).
BILLING_BALANCE_PATH: Final = "/account/billing/balance"

#: Most ids of one standard query (fact sheet 4.4).
MAX_TASK_IDS: Final = 20
#: Largest ``limit`` of the standard list and of the billing lists (fact sheet 4.4, 8.3).
MAX_CURSOR_LIMIT: Final = 500

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


#: ``status`` of the standard dialect for a task that has ended well; its other words are those of `StatusWord`.
STANDARD_SUCCEEDED: Final = "succeeded"
