"""Where the front may listen for HTTP."""

from __future__ import annotations

from typing import Final

from kling_flows.settings import split_loopback_address

SETTING: Final = "KLING_FLOWS_HTTP_LISTEN"


def http_address(configured: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        ConfigurationError: it is malformed, or reachable from other machines.
    """
    return split_loopback_address(
        SETTING,
        configured,
        " without TLS; listen on 127.0.0.1:<port> and let a reverse proxy pass /callbacks/ on to it",
    )
