"""What surrounds every RPC: errors become statuses, and those that are ours to mend are logged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from grpc_server.errors import internal_status, is_public, new_incident, status_of
from kling_flows.errors import InvalidRequest, KlingFlowsError, Violation

log = structlog.get_logger(__name__)

# The package has no types.
_status_library: Final[Any] = rpc_status

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Context = grpc.aio.ServicerContext[Any, Any]


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns every exception of our service's RPCs into a status; nothing of an unforeseen one reaches the caller."""

    def __init__(self, service_name: str) -> None:
        self._prefix = f"/{service_name}/"
        self._wrapped: dict[str, _Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Answer the method's handler, wrapped once for all calls."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None or not method.startswith(self._prefix):
            return handler
        self._wrapped[method] = wrapped = _wrap(handler, method)
        return wrapped


def _wrap(handler: _Handler, method: str) -> _Handler:
    # Requests come as bytes, so that those which are no message at all are refused here like any other.
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(
            _guarded(handler.unary_stream, handler.request_deserializer, method), None, handler.response_serializer
        )
    return grpc.unary_unary_rpc_method_handler(
        _guarded(handler.unary_unary, handler.request_deserializer, method), None, handler.response_serializer
    )


def _guarded(behavior: Any, decode: Any, method: str) -> Any:
    async def guarded(encoded: bytes, context: _Context) -> Any:
        try:
            return await behavior(_decoded(encoded, decode), context)
        except Exception as error:
            await _abort(context, method, error)

    return guarded


def _decoded(encoded: bytes, decode: Callable[[bytes], Any]) -> Any:
    try:
        return decode(encoded)
    except DecodeError:
        raise InvalidRequest(
            [
                Violation(
                    "request", "MALFORMED", "cannot be decoded; is it made from the same protos, and all text UTF-8?"
                )
            ]
        ) from None


async def _abort(context: _Context, method: str, error: Exception) -> None:
    if isinstance(error, KlingFlowsError) and is_public(error):
        log.debug("rpc refused", method=method, reason=error.reason)
        status = status_of(error)
    else:
        incident = new_incident()
        log.error("rpc failed", method=method, incident=incident, exc_info=error)
        status = internal_status(incident)
    await context.abort_with_status(_status_library.to_status(status))
