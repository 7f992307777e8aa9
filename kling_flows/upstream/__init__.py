"""Kling's HTTP API, as Kling and CometAPI speak it: requests, their rules, calls, answers and errors."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kling_flows.upstream.account import Account, account_name
from kling_flows.upstream.auth import ApiKeyCredentials, Credentials, JwtCredentials
from kling_flows.upstream.capabilities import CapabilityMap, ModelCapabilities, ModelStatus, capability_map
from kling_flows.upstream.constants import DEFAULT_BASE_URLS, KlingCode, Provider, StatusWord
from kling_flows.upstream.errors import (
    ErrorClass,
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
from kling_flows.upstream.request import (
    CameraConfig,
    CameraControl,
    Shot,
    TextToVideoRequest,
    Voice,
    WatermarkInfo,
    parse_request,
)
from kling_flows.upstream.task import UpstreamStatus, UpstreamTask, UpstreamVideo
from kling_flows.upstream.validation import check, validate
from kling_flows.upstream.vocabulary import CameraMovement, Mode, Rule, ShotType, Sound

if TYPE_CHECKING:
    from kling_flows.upstream.client import OnCall, UpstreamClient

__all__ = [
    "DEFAULT_BASE_URLS",
    "Account",
    "ApiKeyCredentials",
    "CameraConfig",
    "CameraControl",
    "CameraMovement",
    "CapabilityMap",
    "Credentials",
    "ErrorClass",
    "JwtCredentials",
    "KlingCode",
    "Mode",
    "ModelCapabilities",
    "ModelStatus",
    "OnCall",
    "Provider",
    "Rule",
    "Shot",
    "ShotType",
    "Sound",
    "StatusWord",
    "TextToVideoRequest",
    "UpstreamAlreadyExists",
    "UpstreamAmbiguous",
    "UpstreamAuth",
    "UpstreamBilling",
    "UpstreamClient",
    "UpstreamConcurrency",
    "UpstreamError",
    "UpstreamInvalid",
    "UpstreamNotFound",
    "UpstreamPermission",
    "UpstreamPolicy",
    "UpstreamStatus",
    "UpstreamTask",
    "UpstreamThrottled",
    "UpstreamUnavailable",
    "UpstreamVideo",
    "Voice",
    "WatermarkInfo",
    "account_name",
    "capability_map",
    "check",
    "parse_request",
    "validate",
]


def __getattr__(name: str) -> Any:
    # On demand: whoever only checks requests, as the front does, need not wait for the HTTP client.
    if name in ("OnCall", "UpstreamClient"):
        return getattr(import_module("kling_flows.upstream.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
