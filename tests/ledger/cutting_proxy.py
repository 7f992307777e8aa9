"""A proxy that loses the connection to PostgreSQL at the moment of a commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

#: The simple query `COMMIT;`, as the driver sends it.
_COMMIT = b"COMMIT;\x00"


class CuttingProxy:
    """Forwards all until :attr:`cut` is set to ``before`` or ``after``: the next commit is then lost, or its answer."""

    def __init__(self, server: Path) -> None:
        self.cut = ""
        self.cuts = 0
        self._server = server
        self._connections: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(asyncio.create_task(self._serve(reader, writer)))

    async def end(self) -> None:
        """Wait for the clients, who are about to leave."""
        await asyncio.gather(*self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server_reader, to_server = await asyncio.open_unix_connection(str(self._server))
        back = asyncio.create_task(_forward(to_server_reader, writer))
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.cut and _COMMIT in data:
                    cut, self.cut = self.cut, ""
                    self.cuts += 1
                    back.cancel()
                    await asyncio.wait([back])
                    if cut == "after":
                        to_server.write(data)
                        await to_server.drain()
                        # Its answer: now it is on disk.
                        await to_server_reader.read(1)
                    break
                to_server.write(data)
                await to_server.drain()
        back.cancel()
        with suppress(asyncio.CancelledError):
            await back
        for end in (to_server, writer):
            end.close()
            with suppress(OSError):
                await end.wait_closed()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def cutting_proxy(server: Path, folder: Path, port: int) -> AsyncIterator[CuttingProxy]:
    """A proxy on a socket in ``folder`` whose name is the one for ``port``."""
    proxy = CuttingProxy(server)
    async with await asyncio.start_unix_server(proxy.accept, str(folder / f".s.PGSQL.{port}")):
        yield proxy
        await proxy.end()
