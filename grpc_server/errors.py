"""Errors as callers get them: ``google.rpc.Status`` with ErrorInfo always, and what else helps to react."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from typing import Final

import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status

from grpc_server.names import name_of, shown_metadata
from kling_flows.engine.identity import public_text
from kling_flows.errors import (
    ERROR_DOMAIN,
    BudgetExceeded,
    InvalidRequest,
    KlingFlowsError,
    QueueFull,
    RateLimited,
    RequestIdReused,
    VideoTaskExists,
    VideoTaskNotFound,
    Violation,
)
from kling_flows.upstream import UpstreamError
from kling_flows.v1.error_reason_pb2 import ErrorReason

#: Seconds after which a caller may try again.
RETRY_SECONDS: Final = 1
QUEUE_FULL_RETRY_SECONDS: Final = 5

MOST_VIOLATIONS: Final = 50

# All of an error travels in the trailer, twice in part, and clients drop trailers of more than about 8 kB: the caller
# would see RESOURCE_EXHAUSTED instead.
_MESSAGE_BYTES: Final = 600
_VIOLATIONS_BYTES: Final = 4_000
_METADATA_VALUE_BYTES: Final = 256

_INTERNAL: Final = "INTERNAL"
_PREFIX: Final = "ERROR_REASON_"
_REASONS: Final = frozenset(name.removeprefix(_PREFIX) for name in ErrorReason.keys())  # noqa: SIM118 - not a mapping
_RESOURCE_ERRORS: Final = (VideoTaskNotFound, VideoTaskExists, RequestIdReused)


def is_public(error: BaseException) -> bool:
    """Whether the error is meant for callers; the message of any other one never leaves the server."""
    return isinstance(error, KlingFlowsError) and error.reason in _REASONS and error.reason != _INTERNAL


def status_of(error: KlingFlowsError) -> Status:
    """The status that tells a caller of an error that is public."""
    metadata = {key: _cut(value, _METADATA_VALUE_BYTES) for key, value in shown_metadata(error.metadata).items()}
    extra: list[Message] = []
    if isinstance(error, InvalidRequest):
        metadata["violations"] = str(len(error.violations))
        extra.append(_bad_request(error.violations))
    if isinstance(error, _RESOURCE_ERRORS) and "video_task" in error.metadata:
        extra.append(
            ResourceInfo(resource_type="kling_flows.v1.VideoTask", resource_name=name_of(error.metadata["video_task"]))
        )
    if isinstance(error, BudgetExceeded | RateLimited):
        extra.append(quota_failure(error.subject, error.message))
    elif isinstance(error, UpstreamError) and error.quota_subject is not None:
        extra.append(quota_failure(error.quota_subject, error.message))
    seconds = _retry_seconds(error)
    if seconds:
        retry = RetryInfo()
        retry.retry_delay.seconds = seconds
        extra.append(retry)
    return _status(grpc.StatusCode[error.grpc_code], public_text(error.message), error.reason, metadata, extra)


def quota_failure(subject: str, message: str) -> QuotaFailure:
    """What has run out, and what to do about it."""
    quota = QuotaFailure()
    quota.violations.add(subject=subject, description=_cut(message, _MESSAGE_BYTES))
    return quota


def new_incident() -> str:
    """A name by which a caller's report finds the traceback in the log."""
    return secrets.token_hex(6)


def internal_status(incident: str) -> Status:
    """The status that tells a caller of a bug of ours, and nothing about it."""
    message = f"internal error; incident {incident} in the server's log says more"
    return _status(grpc.StatusCode.INTERNAL, message, _INTERNAL, {"incident": incident}, [])


def _status(
    code: grpc.StatusCode, message: str, reason: str, metadata: dict[str, str], extra: Sequence[Message]
) -> Status:
    status = Status(code=code.value[0], message=_cut(message, _MESSAGE_BYTES))
    status.details.add().Pack(ErrorInfo(domain=ERROR_DOMAIN, reason=reason, metadata=metadata))
    for message_ in extra:
        status.details.add().Pack(message_)
    return status


def _bad_request(violations: Sequence[Violation]) -> BadRequest:
    result = BadRequest()
    for violation in violations[:MOST_VIOLATIONS]:
        result.field_violations.add(
            field=violation.field, description=_cut(violation.message, _MESSAGE_BYTES), reason=violation.rule
        )
        if len(result.field_violations) > 1 and result.ByteSize() > _VIOLATIONS_BYTES:
            del result.field_violations[-1]
            break
    return result


def _retry_seconds(error: KlingFlowsError) -> int:
    if isinstance(error, QueueFull):
        return QUEUE_FULL_RETRY_SECONDS
    if isinstance(error, RateLimited):
        return math.ceil(error.retry_after)
    if isinstance(error, UpstreamError):
        return math.ceil(error.retry_delay or 0)
    return RETRY_SECONDS if error.grpc_code == grpc.StatusCode.UNAVAILABLE.name else 0


def _cut(text: str, size: int) -> str:
    encoded = text.encode()
    if len(encoded) <= size:
        return text
    return encoded[: size - 3].decode(errors="ignore") + "…"
