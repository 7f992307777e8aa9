"""Where the front may listen."""

from __future__ import annotations

import ipaddress
import socket
from typing import Final

import grpc

from kling_flows.errors import ConfigurationError
from kling_flows.settings import split_address

SETTING: Final = "KLING_FLOWS_LISTEN"
_UNIX: Final = "unix:"


def listen_address(configured: str) -> str:
    """The address as gRPC takes it.

    Raises:
        ConfigurationError: it is malformed, or reachable from other machines.
    """
    if configured.startswith(_UNIX):
        return configured
    host, port = split_address(SETTING, configured)
    if host == "localhost":
        # Of two addresses of one name, one could be taken without the server noticing.
        host = "127.0.0.1"
    if not _is_loopback(host):
        raise ConfigurationError(
            SETTING,
            f"{configured!r} can be reached from other machines, and TLS and access tokens are not part of this "
            "release; listen on 127.0.0.1:<port>, [::1]:<port> or unix:<path>",
        )
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind(server: grpc.aio.Server, address: str) -> str:
    """Open the port; answer the address with the port that was given, if 0 was asked for.

    Raises:
        ConfigurationError: the port cannot be opened.
    """
    try:
        if not address.startswith(_UNIX):
            _try(address)
        port = server.add_insecure_port(address)
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(
            SETTING,
            f"{address} cannot be opened ({getattr(error, 'strerror', None) or error}); stop what listens there, or "
            "listen elsewhere, for example on 127.0.0.1:0 for any free port",
        ) from None
    return address if address.startswith(_UNIX) else f"{address.rpartition(':')[0]}:{port}"


def _try(address: str) -> None:
    # gRPC would print its own lines about a port that is taken, and not say why.
    host, port = split_address(SETTING, address)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
