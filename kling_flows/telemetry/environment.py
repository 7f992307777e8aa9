"""Whether traces are sent: those ``OTEL_*`` variables that OpenTelemetry's SDK does not read, or takes unchecked."""

from __future__ import annotations

import os
from typing import Final
from urllib.parse import urlsplit

from kling_flows.errors import ConfigurationError

_PREFIX: Final = "OTEL_EXPORTER_OTLP_"
_TRACES: Final = "OTEL_EXPORTER_OTLP_TRACES_"

#: What the exporter for OTLP over HTTP speaks; another package speaks gRPC.
_PROTOCOL: Final = "http/protobuf"

_FILES: Final = ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")


def traces_wanted() -> bool:
    """Whether the environment says where traces are to be sent.

    Raises:
        ConfigurationError: it says so in a way that cannot be used; the message never holds an address.
    """
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "")
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return False
    if exporter not in ("", "otlp"):
        raise ConfigurationError("OTEL_TRACES_EXPORTER", f"{exporter!r} is not known here; set otlp, or none")
    name, endpoint = _either("ENDPOINT")
    if endpoint:
        _check_address(name, endpoint)
    elif not exporter:
        return False
    _check_protocol()
    for file in _FILES:
        _check_readable(*_either(file))
    return True


def _either(name: str) -> tuple[str, str]:
    """The variable for traces, else the one for all signals: its name and its value."""
    for prefix in (_TRACES, _PREFIX):
        value = os.environ.get(prefix + name, "")
        if value:
            return prefix + name, value
    return _PREFIX + name, ""


def _check_address(name: str, address: str) -> None:
    try:
        parts = urlsplit(address)
        # Asked for its port as well: one that is none shows only then.
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(name, "is not an http address; for example http://127.0.0.1:4318")


def _check_protocol() -> None:
    name, value = _either("PROTOCOL")
    if value and value != _PROTOCOL:
        raise ConfigurationError(
            name, f"{value!r} is not spoken here; set {name}={_PROTOCOL} and the collector's HTTP port (4318)"
        )


def _check_readable(name: str, path: str) -> None:
    if not path:
        return
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        raise ConfigurationError(name, f"{path} cannot be read ({error.strerror}); name a PEM file that can") from None
