"""Where the front may listen for HTTP."""

from __future__ import annotations

from typing import Final

from kling_flows.errors import ConfigurationError
from kling_flows.settings import is_loopback, split_address

SETTING: Final = "KLING_FLOWS_HTTP_LISTEN"


def http_address(configured: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        ConfigurationError: it is malformed, or reachable from other machines.
    """
    host, port = split_address(SETTING, configured)
    if host == "localhost":
        host = "127.0.0.1"
    if not is_loopback(host):
        raise ConfigurationError(
            SETTING,
            f"{configured!r} can be reached from other machines without TLS; listen on 127.0.0.1:<port> and let a "
            "reverse proxy pass /callbacks/ on to it",
        )
    return host, port
