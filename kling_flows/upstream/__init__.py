"""Kling's HTTP API, as Kling and CometAPI speak it: requests, their rules, calls, answers and errors."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kling_flows.upstream.account import Account, account_name, base_url_of
from kling_flows.upstream.account_usage import Deduction, DeductionKind, ResourcePack
from kling_flows.upstream.auth import ApiKeyCredentials, Credentials, JwtCredentials
from kling_flows.upstream.body import UnreadableAnswer
from kling_flows.upstream.callbacks import parse_callback
from kling_flows.upstream.capabilities import (
    Abilities,
    CapabilityMap,
    ModelCapabilities,
    ModelStatus,
    capability_map,
    lay_over_capabilities,
    require_dialect,
)
from kling_flows.upstream.catalogue import ModelInfo, ModePrice, models
from kling_flows.upstream.codec import CursorPage, DialectFeatures
from kling_flows.upstream.constants import DEFAULT_BASE_URLS, REGIONS, Dialect, KlingCode, Provider, StatusWord
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
from kling_flows.upstream.pricing import Quote, lay_over_prices, price_list, quote
from kling_flows.upstream.request import (
    CameraConfig,
    CameraControl,
    Shot,
    TextToVideoRequest,
    Voice,
    WatermarkInfo,
    parse_request,
)
from kling_flows.upstream.task import Charge, UpstreamStatus, UpstreamTask, UpstreamVideo
from kling_flows.upstream.validation import check, validate
from kling_flows.upstream.vocabulary import RESOLUTIONS, CameraMovement, Mode, Rule, ShotType, Sound

if TYPE_CHECKING:
    from kling_flows.upstream.client import UpstreamClient
    from kling_flows.upstream.transport import OnCall

__all__ = [
    "DEFAULT_BASE_URLS",
    "REGIONS",
    "RESOLUTIONS",
    "Abilities",
    "Account",
    "ApiKeyCredentials",
    "CameraConfig",
    "CameraControl",
    "CameraMovement",
    "CapabilityMap",
    "Charge",
    "Credentials",
    "CursorPage",
    "Deduction",
    "DeductionKind",
    "Dialect",
    "DialectFeatures",
    "ErrorClass",
    "JwtCredentials",
    "KlingCode",
    "Mode",
    "ModePrice",
    "ModelCapabilities",
    "ModelInfo",
    "ModelStatus",
    "OnCall",
    "Provider",
    "Quote",
    "ResourcePack",
    "Rule",
    "Shot",
    "ShotType",
    "Sound",
    "StatusWord",
    "TextToVideoRequest",
    "UnreadableAnswer",
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
    "base_url_of",
    "capability_map",
    "check",
    "lay_over_capabilities",
    "lay_over_prices",
    "models",
    "parse_callback",
    "parse_request",
    "price_list",
    "quote",
    "require_dialect",
    "validate",
]


def __getattr__(name: str) -> Any:
    # On demand: whoever only checks requests, as the front does, need not wait for the HTTP client.
    if name in ("OnCall", "UpstreamClient"):
        return getattr(import_module("kling_flows.upstream.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
