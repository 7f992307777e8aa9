"""The optional channelz service: sockets, streams and flow control as gRPC itself sees them in this process.

Of the package ``grpcio-channelz`` only the messages are used. Its servicer fails where the core of a newer ``grpcio``
tells of more than they have fields for (measured: GetSocket of 1.81.1 beside 1.85.1), and the two cannot always be of
one version, because it is bound to protobuf releases as ``grpcio`` is not. Here such fields are left out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any, Final

import grpc
from google.protobuf import json_format

from kling_flows.errors import ConfigurationError

CHANNELZ_SERVICE_NAME: Final = "grpc.channelz.v1.Channelz"

_SETTING: Final = "KLING_FLOWS_CHANNELZ"

_Context = grpc.aio.ServicerContext[Any, Any]


def add_channelz(server: grpc.aio.Server) -> None:
    """Serve it on ``server``.

    Raises:
        ConfigurationError: the extra ``channelz`` is not installed.
    """
    try:
        from grpc_channelz.v1 import channelz_pb2
    except ImportError as error:
        raise ConfigurationError(
            _SETTING, f"channelz needs {error.name}: pip install 'kling-flows[channelz]', or unset the variable"
        ) from None
    pb: Any = channelz_pb2
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            _answering(read, getattr(pb, f"{method}Response")),
            getattr(pb, f"{method}Request").FromString,
            getattr(pb, f"{method}Response").SerializeToString,
        )
        for method, read in _readers().items()
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(CHANNELZ_SERVICE_NAME, handlers)])


def _readers() -> dict[str, Callable[[Any], str | bytes]]:
    """For each method what gRPC's core says to a request, as JSON; ValueError if there is no such thing."""
    # Where the package's own servicer has it from: there is no public way.
    core: Any = import_module("grpc._cython.cygrpc")
    return {
        "GetTopChannels": lambda request: core.channelz_get_top_channels(request.start_channel_id),
        "GetServers": lambda request: core.channelz_get_servers(request.start_server_id),
        "GetServer": lambda request: core.channelz_get_server(request.server_id),
        "GetServerSockets": lambda request: core.channelz_get_server_sockets(
            request.server_id, request.start_socket_id, request.max_results
        ),
        "GetChannel": lambda request: core.channelz_get_channel(request.channel_id),
        "GetSubchannel": lambda request: core.channelz_get_subchannel(request.subchannel_id),
        "GetSocket": lambda request: core.channelz_get_socket(request.socket_id),
    }


def _answering(
    read: Callable[[Any], str | bytes], response: Callable[[], Any]
) -> Callable[[Any, _Context], Awaitable[Any]]:
    async def answer(request: Any, context: _Context) -> Any:
        try:
            found = read(request)
        except ValueError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        return json_format.Parse(found, response(), ignore_unknown_fields=True)

    return answer
