"""The way to the server that the command line's settings name: its address, its TLS, and who calls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc

from kling_flows.cli.client import Patience, VideoTaskClient
from kling_flows.cli.options import Shared
from kling_flows.cli.output import Output
from kling_flows.errors import ConfigurationError

if TYPE_CHECKING:
    from kling_flows.settings import Settings

_TOKEN: Final = "KLING_FLOWS_TOKEN"  # noqa: S105 - the name of a variable


def connect(shared: Shared, output: Output, *, patience: Patience | None = None) -> VideoTaskClient:
    """A client of the server that the options or the settings name; nothing is sent yet.

    Raises:
        ConfigurationError: a setting is malformed, or a token would travel where others can read it.
    """
    settings = shared.settings()
    address: str = shared.values.get("server") or settings.listen
    token = None if settings.token is None else settings.token.get_secret_value()
    credentials = _credentials(settings)
    if token is not None and credentials is None and not _is_local(address) and not settings.insecure:
        raise ConfigurationError(
            _TOKEN,
            f"would travel to {address} where others can read it: set KLING_FLOWS_SERVER_TLS, or KLING_FLOWS_INSECURE "
            "if the way is safe",
        )
    return VideoTaskClient(address, patience=patience, notice=output.note, token=token, credentials=credentials)


def _credentials(settings: Settings) -> grpc.ChannelCredentials | None:
    ca, cert, key = settings.server_ca, settings.client_cert, settings.client_key
    if not settings.server_tls and ca is None:
        if cert is not None or key is not None:
            raise ConfigurationError("KLING_FLOWS_CLIENT_CERT", "needs KLING_FLOWS_SERVER_TLS or KLING_FLOWS_SERVER_CA")
        return None
    if (cert is None) is not (key is None):
        missing = "CERT" if cert is None else "KEY"
        raise ConfigurationError(f"KLING_FLOWS_CLIENT_{missing}", "is missing; a certificate and its key go together")
    return grpc.ssl_channel_credentials(
        _read("KLING_FLOWS_SERVER_CA", ca), _read("KLING_FLOWS_CLIENT_KEY", key), _read("KLING_FLOWS_CLIENT_CERT", cert)
    )


def _read(setting: str, path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(setting, f"{path} cannot be read ({error.strerror})") from None


def _is_local(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    return address.startswith("unix:") or host in ("localhost", "::1") or host.startswith("127.")
