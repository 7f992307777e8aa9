"""Addresses that have to be known before whoever listens there has started."""

from __future__ import annotations

import socket

from kling_flows.errors import ConfigurationError
from kling_flows.settings import split_address


def free_address(setting: str, address: str) -> tuple[str, int]:
    """Host and port of ``address``, with a free port in place of 0.

    Raises:
        ConfigurationError: somebody listens there, or nobody can; ``setting`` is named.
    """
    host, port = split_address(setting, address)
    with _socket(host) as probe:
        return host, _bound(probe, setting, host, port)


def shared_address(setting: str, address: str) -> tuple[socket.socket, str]:
    """An address at which several processes can listen, with a free port in place of 0.

    Returns:
        What keeps the port ours while it is open, and ``host:port``.

    Raises:
        ConfigurationError: somebody listens there, or nobody can; ``setting`` is named.
    """
    # Without sharing at first: a stranger who shares it too would take part of our calls.
    host, port = free_address(setting, address)
    holder = _socket(host)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port = _bound(holder, setting, host, port)
    except BaseException:
        holder.close()
        raise
    return holder, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _socket(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)


def _bound(probe: socket.socket, setting: str, host: str, port: int) -> int:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((host, port))
    except OSError as error:
        raise ConfigurationError(
            setting, f"{host}:{port} cannot be used ({error.strerror}); name another one, for example {host}:0"
        ) from error
    return probe.getsockname()[1]
