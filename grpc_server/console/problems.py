"""Errors as browsers get them: RFC 9457 problem details that hold the same status as gRPC's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import structlog
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from starlette.responses import JSONResponse

from grpc_server.console.documents import document
from grpc_server.errors import internal_status, is_public, new_incident, status_of
from kling_flows.errors import KlingFlowsError

log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"

#: As google/rpc/code.proto maps them.
_HTTP: Final[Mapping[int, int]] = {
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}


def problem_of(error: Exception, method: str) -> JSONResponse:
    """The response that tells of an error; nothing of an unforeseen one reaches the browser.

    Args:
        error: What was raised.
        method: In which RPC, for the log.
    """
    if isinstance(error, KlingFlowsError) and is_public(error):
        log.debug("console request refused", method=method, reason=error.reason)
        return _response(status_of(error), error.reason)
    incident = new_incident()
    log.error("console request failed", method=method, incident=incident, exc_info=error)
    return _response(internal_status(incident), "INTERNAL")


def _response(status: Status, reason: str) -> JSONResponse:
    code = _HTTP.get(status.code, 500)
    content = {"status": code, "title": reason, "detail": status.message, "error": document(status)}
    headers: dict[str, str] = {}
    if code == 401:
        headers["www-authenticate"] = "Bearer"
    retry = RetryInfo()
    for detail in status.details:
        if detail.Unpack(retry):
            headers["retry-after"] = str(retry.retry_delay.seconds)
    return JSONResponse(content, code, headers, MEDIA_TYPE)
