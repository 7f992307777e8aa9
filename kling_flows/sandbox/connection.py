"""The TCP connection under a call, within reach of the code that answers it, so that answers can be cut."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final

from starlette.types import Receive, Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

#: Key of the connection in the ASGI scope's ``state``.
_STATE_KEY: Final = "sandbox_connection"
#: ``struct linger`` with a timeout of 0: closing sends RST, and not FIN.
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
#: Seconds to wait for a slow reader before its connection is cut all the same.
_FLUSH_SECONDS: Final = 1.0


class Connection:
    """One client's connection.

    Args:
        transport: Its transport.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        #: A call on it waits on purpose and will not end by itself soon.
        self.stalled = False

    @classmethod
    def of(cls, scope: Scope) -> Connection:
        """The connection of a call."""
        return scope["state"][_STATE_KEY]

    def cut(self, *, reset: bool = False) -> None:
        """Close it at once, with FIN, or with RST if ``reset``."""
        if reset:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    async def flush(self) -> None:
        """Wait until everything written has left."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _FLUSH_SECONDS
        # A transport tells its protocol about high and low water only, and nobody about an empty buffer.
        while self._transport.get_write_buffer_size() and loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


class ConnectionProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1 protocol that shows its connection to the application.

    ``app_state`` is what uvicorn copies into every scope's ``state``, and each protocol object serves one connection: a
    copy with the connection in it reaches exactly the calls on that connection.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:
        """See :class:`asyncio.Protocol`."""
        self.app_state = {**self.app_state, _STATE_KEY: Connection(transport)}
        super().connection_made(transport)

    def shutdown(self) -> None:
        """The server stops: end a call that waits on purpose, let every other finish."""
        connection: Connection = self.app_state[_STATE_KEY]
        if connection.stalled:
            connection.cut()
        else:
            super().shutdown()


async def disconnected(receive: Receive) -> None:
    """Wait until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
