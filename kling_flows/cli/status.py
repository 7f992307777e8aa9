"""What a gRPC error says, decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from kling_flows.errors import ERROR_DOMAIN, Violation


@dataclass(frozen=True, slots=True)
class StatusDetails:
    """The details of a ``google.rpc.Status``.

    Args:
        reason: ``ErrorInfo.reason``; empty if the error is not one of ours but of the transport.
        metadata: ``ErrorInfo.metadata``.
        violations: Of ``BadRequest``.
        retry_after: Seconds of ``RetryInfo``.
    """

    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    violations: tuple[Violation, ...] = ()
    retry_after: float | None = None


def details_of(error: grpc.aio.AioRpcError) -> StatusDetails:
    """The details that the server attached; empty ones if it attached none."""
    try:
        # It asks for a call and reads only what an error has as well.
        status = cast(Status | None, rpc_status.from_call(cast(grpc.Call, error)))  # pyright: ignore[reportUnknownMemberType]
    except ValueError:
        # A status that contradicts itself was not made by our server.
        return StatusDetails()
    return StatusDetails() if status is None else decode(status)


def decode(status: Status) -> StatusDetails:
    """Read the details that this client knows; others are passed over."""
    info = ErrorInfo()
    request = BadRequest()
    retry = RetryInfo()
    retry_after = None
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(request)
        if detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return StatusDetails(
        reason=info.reason if info.domain == ERROR_DOMAIN else "",
        metadata=dict(info.metadata),
        violations=tuple(Violation(item.field, item.reason, item.description) for item in request.field_violations),
        retry_after=retry_after,
    )
