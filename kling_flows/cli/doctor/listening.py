"""Whether anybody listens at an address."""

from __future__ import annotations

import asyncio
from typing import Final

from kling_flows.settings import split_address

UNIX: Final = "unix:"

_SECONDS: Final = 5.0


async def somebody_listens(address: str) -> bool:
    """Whether a connection to ``host:port`` or ``unix:path`` is taken.

    Raises:
        ConfigurationError: it is no such address.
    """
    try:
        async with asyncio.timeout(_SECONDS):
            if address.startswith(UNIX):
                _, writer = await asyncio.open_unix_connection(address.removeprefix(UNIX))
            else:
                host, port = split_address("KLING_FLOWS_LISTEN", address)
                if port == 0:
                    return False
                _, writer = await asyncio.open_connection(_reachable(host), port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _reachable(host: str) -> str:
    """Where what listens on ``host`` can be called from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound to


def address_of(host: str, port: int) -> str:
    """As an address is written."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
