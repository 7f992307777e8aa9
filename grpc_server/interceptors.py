"""What surrounds every RPC: who calls is found out, limits are kept, and errors become statuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import ContextVar
from typing import Any, Final, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from grpc_server.auth.authenticator import Authenticator, Metadata, check_scope
from grpc_server.auth.identity import Scope, calling
from grpc_server.errors import internal_status, is_public, new_incident, status_of
from grpc_server.limits import TenantLimits
from grpc_server.observation import Observation
from kling_flows.errors import InvalidRequest, KlingFlowsError, ServerUnavailable, Violation

log = structlog.get_logger(__name__)

# The package has no types.
_status_library: Final[Any] = rpc_status

#: The status of what is not meant for callers.
_INTERNAL: Final = grpc.StatusCode.INTERNAL.name

# gRPC asks for an RPC's handler in the task that runs it, with the metadata; the context makes a new list each time.
_metadata: Final[ContextVar[Metadata]] = ContextVar("kling-flows-metadata", default=())

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Context = grpc.aio.ServicerContext[Any, Any]


#: What each method needs; a method that is not named here could be called by nobody.
SCOPES: Final[Mapping[str, Scope]] = {
    "CreateVideoTask": Scope.WRITE,
    "BatchCreateVideoTasks": Scope.WRITE,
    "GenerateVideo": Scope.WRITE,
    "CancelVideoTask": Scope.WRITE,
    "ResolveVideoTask": Scope.ADMIN,
    "RetryCallbackDelivery": Scope.ADMIN,
    "GetVideoTask": Scope.READ,
    "ListVideoTasks": Scope.READ,
    "WatchVideoTasks": Scope.READ,
    "DownloadVideo": Scope.READ,
    "ListModels": Scope.READ,
    "QuoteVideoTask": Scope.READ,
    "ListBudgets": Scope.READ,
    "ListCallbackDeliveries": Scope.READ,
}


class Guard(grpc.aio.ServerInterceptor):
    """Lets our service's RPCs run for callers that may, and turns every exception into a status.

    Nothing of an unforeseen one reaches the caller. Other services need a known caller too.

    Args:
        service_name: Ours.
        authenticator: Says who calls.
        limits: Of each tenant.
        observation: Told of every RPC of ours.
        open_services: Those that everybody may call: health, because probes have no credentials.
        admin_services: Those that need the scope ``admin``, because they show what is of all tenants.
    """

    def __init__(
        self,
        service_name: str,
        authenticator: Authenticator,
        limits: TenantLimits,
        observation: Observation,
        *,
        open_services: Collection[str],
        admin_services: Collection[str],
    ) -> None:
        self._prefix = f"/{service_name}/"
        self._authenticator = authenticator
        self._limits = limits
        self._observation = observation
        self._open = tuple(f"/{name}/" for name in open_services)
        self._admin = tuple(f"/{name}/" for name in admin_services)
        self._wrapped: dict[str, _Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Answer the method's handler, wrapped once for all calls."""
        method = handler_call_details.method
        metadata = handler_call_details.invocation_metadata or ()
        _metadata.set(metadata)
        if not method.startswith(self._open) and not self._authenticator.may_know(metadata):
            return self._refusing(method)
        wrapped = self._wrapped.get(method)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None or method.startswith(self._open):
            return handler
        if method.startswith(self._prefix):
            wrapped = self._wrap(handler, method)
        else:
            wrapped = self._wrap_foreign(handler, method)
        self._wrapped[method] = wrapped
        return wrapped

    def _refusing(self, method: str) -> _Handler:
        name = method.removeprefix(self._prefix)

        # As if a stream of requests came, of which none is read: no message of strangers is taken into memory.
        async def refuse(_requests: Any, context: _Context) -> None:
            with self._observation.of(name, _metadata.get(), streaming=False) as rpc:
                try:
                    self._authenticator.identify(context)
                    raise ServerUnavailable("who calls has become known at this moment only; try again")
                except KlingFlowsError as error:
                    rpc.code = error.grpc_code
                    await _abort(context, method, error)

        return grpc.stream_stream_rpc_method_handler(refuse)

    def _wrap(self, handler: _Handler, method: str) -> _Handler:
        # Requests come as bytes, so that those which are no message at all are refused here like any other.
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._guarded(handler.unary_stream, handler, method), None, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._guarded(handler.unary_unary, handler, method), None, handler.response_serializer
        )

    def _guarded(self, behavior: Any, handler: _Handler, method: str) -> Any:
        name = method.removeprefix(self._prefix)
        scope, streaming = SCOPES[name], handler.response_streaming
        decode: Any = handler.request_deserializer

        async def guarded(encoded: bytes, context: _Context) -> Any:
            with self._observation.of(name, _metadata.get(), streaming=streaming) as rpc:
                try:
                    identity = self._authenticator.identify(context)
                    check_scope(identity, scope, method)
                    with self._limits.call(identity.tenant, streaming=streaming), calling(identity):
                        rpc.answer = await behavior(_decoded(encoded, decode), context)
                        return rpc.answer
                except Exception as error:
                    rpc.code = error.grpc_code if isinstance(error, KlingFlowsError) and is_public(error) else _INTERNAL
                    await _abort(context, method, error)

        return guarded

    def _wrap_foreign(self, handler: _Handler, method: str) -> _Handler:
        """A library's: reflection streams both ways, channelz's methods are unary."""
        behavior: Any = handler.stream_stream or handler.unary_unary
        decode, encode = handler.request_deserializer, handler.response_serializer

        async def check(context: _Context) -> None:
            try:
                identity = self._authenticator.identify(context)
                if method.startswith(self._admin):
                    check_scope(identity, Scope.ADMIN, method)
            except KlingFlowsError as error:
                await _abort(context, method, error)

        async def stream(requests: Any, context: _Context) -> Any:
            await check(context)
            async for response in behavior(requests, context):
                yield response

        async def answer(request: Any, context: _Context) -> Any:
            await check(context)
            return await behavior(request, context)

        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(stream, decode, encode)
        return grpc.unary_unary_rpc_method_handler(answer, decode, encode)


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
