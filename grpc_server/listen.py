"""Where the front may listen."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc

from grpc_server.auth.access_file import SETTING as ACCESS_FILE
from grpc_server.auth.tls import TlsFiles
from kling_flows.errors import ConfigurationError
from kling_flows.settings import Settings, is_loopback, split_address

SETTING: Final = "KLING_FLOWS_LISTEN"
_UNIX: Final = "unix:"

#: What others than the socket's owner may not: read, write and execute.
_OWNER_ONLY: Final = 0o177


def listen_address(settings: Settings) -> str:
    """The address as gRPC takes it.

    Raises:
        ConfigurationError: it is malformed, or reachable from other machines without what protects it there.
    """
    configured = settings.listen
    if configured.startswith(_UNIX):
        if settings.fronts > 1:
            raise ConfigurationError(
                "KLING_FLOWS_FRONTS", f"must be 1 to listen on {configured}: a socket file has one process behind it"
            )
        return configured
    host, port = split_address(SETTING, configured)
    if host == "localhost":
        # Of two addresses of one name, one could be taken without the server noticing.
        host = "127.0.0.1"
    if not is_loopback(host):
        _check_protected(settings)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def tls_files(settings: Settings) -> TlsFiles | None:
    """The server's TLS, if there is any.

    Raises:
        ConfigurationError: a file is missing, or cannot be used.
    """
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None and key is None:
        if settings.tls_client_ca is not None:
            raise ConfigurationError("KLING_FLOWS_TLS_CLIENT_CA", "needs KLING_FLOWS_TLS_CERT and KLING_FLOWS_TLS_KEY")
        return None
    if cert is None or key is None:
        missing = "CERT" if cert is None else "KEY"
        raise ConfigurationError(f"KLING_FLOWS_TLS_{missing}", "is missing; a certificate and its key go together")
    return TlsFiles(cert, key, settings.tls_client_ca)


def _check_protected(settings: Settings) -> None:
    reachable = f"{settings.listen!r} can be reached from other machines"
    if settings.access_file is None:
        raise ConfigurationError(
            ACCESS_FILE,
            f"is not set, and {reachable}: name the file that says who may call (`kling-flows token` makes its "
            "entries), or listen on 127.0.0.1:<port>, [::1]:<port> or unix:<path>",
        )
    if settings.tls_cert is None and not settings.insecure:
        raise ConfigurationError(
            "KLING_FLOWS_TLS_CERT",
            f"is not set, and {reachable}, where tokens could be read on the way: name a certificate and its key, or "
            "set KLING_FLOWS_INSECURE if something in front of this server ends TLS",
        )


def bind(server: grpc.aio.Server, address: str, tls: TlsFiles | None = None, *, shared: bool = False) -> str:
    """Open the port; answer the address with the port that was given, if 0 was asked for.

    Args:
        server: Opens it.
        address: Of `listen_address`. A socket file is its owner's only.
        tls: Served there, if any.
        shared: Whether other fronts listen there as well.

    Raises:
        ConfigurationError: the port cannot be opened.
    """
    try:
        _try(address, shared=shared)
        with _owner_only():
            port = (
                server.add_insecure_port(address) if tls is None else server.add_secure_port(address, tls.credentials())
            )
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(
            SETTING,
            f"{address} cannot be opened ({getattr(error, 'strerror', None) or error}); stop what listens there, or "
            "listen elsewhere, for example on 127.0.0.1:0 for any free port",
        ) from None
    return address if address.startswith(_UNIX) else f"{address.rpartition(':')[0]}:{port}"


def _try(address: str, *, shared: bool) -> None:
    # gRPC would print its own lines about a port that is taken, and not say why. A socket file it would even take away
    # from whoever listens there.
    if address.startswith(_UNIX):
        _try_file(Path(address.removeprefix(_UNIX)))
        return
    host, port = split_address(SETTING, address)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        probe.bind((host, port))


def _try_file(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


@contextmanager
def _owner_only() -> Generator[None]:
    before = os.umask(_OWNER_ONLY)
    try:
        yield
    finally:
        os.umask(before)
