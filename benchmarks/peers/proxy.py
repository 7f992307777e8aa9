"""A TCP proxy that cuts: once per connection after so many bytes, or all connections when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final

_PIECE: Final = 256 * 1024


class CuttingProxy:
    """Passes on what comes, and counts it.

    Args:
        target: Port of 127.0.0.1 behind it.
        cut_after: Bytes of one answer after which the connection is cut, the first time that so many come; None never.
    """

    def __init__(self, target: int, cut_after: int | None = None) -> None:
        self.port = 0
        #: Bytes that came from behind it.
        self.passed = 0
        self._target = target
        self._cut_after = cut_after
        self._open: set[asyncio.StreamWriter] = set()

    @classmethod
    @asynccontextmanager
    async def running(cls, target: int, cut_after: int | None = None) -> AsyncGenerator[CuttingProxy]:
        """A proxy on a free port."""
        proxy = cls(target, cut_after)
        server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            proxy.cut_all()
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await server.wait_closed()

    def cut_all(self) -> int:
        """Reset every connection; answers how many there were."""
        count = len(self._open)
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()
        return count

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            async with asyncio.TaskGroup() as group:
                to_client = group.create_task(self._pass(there, writer, answer=True))
                to_server = group.create_task(self._pass(reader, back, answer=False))
                await asyncio.wait((to_client, to_server), return_when=asyncio.FIRST_COMPLETED)
                to_client.cancel()
                to_server.cancel()
        finally:
            self._open.discard(writer)
            for end in (writer, back):
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answer: bool) -> None:
        passed = 0
        with suppress(OSError):
            while piece := await reader.read(_PIECE):
                if answer:
                    passed += len(piece)
                    if self._cut_after is not None and passed > self._cut_after:
                        self._cut_after = None
                        return
                    self.passed += len(piece)
                writer.write(piece)
                await writer.drain()
            # What was written before the end has to leave before the connection is aborted.
            writer.write_eof()
            async with asyncio.timeout(10):
                while writer.transport.get_write_buffer_size():
                    await asyncio.sleep(0.005)
