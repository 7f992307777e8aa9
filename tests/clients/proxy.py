"""A way to a server that keeps breaking."""

from __future__ import annotations

import asyncio
import math
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

#: How a connection ends: with a reset, with a close, or with the end of one direction only.
ENDS = ("reset", "close", "half-close of the answers", "half-close of the requests")


@dataclass(frozen=True)
class Fate:
    """When and how a connection ends.

    Args:
        answers: After so many bytes of answers, wherever in a message that is.
        seconds: At the latest after so many seconds.
        end: One of ``ENDS``.
    """

    answers: float = math.inf
    seconds: float = math.inf
    end: str = "reset"


@dataclass
class Proxy:
    """Passes bytes on to a server; every connection has a fate, until there are none left."""

    target: str
    fates: list[Fate] = field(default_factory=list)
    #: Connections that were broken, and all that were made.
    cuts: int = 0
    connections: int = 0
    #: Whether whoever connects is turned away.
    closed: bool = False

    async def __aenter__(self) -> Proxy:
        self._running: set[asyncio.Task[None]] = set()
        self._listener = await asyncio.start_server(self._start, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._listener.wait_closed()

    def cut(self) -> None:
        """Break what is connected, at once."""
        for task in self._running:
            task.cancel()

    def _start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connect(reader, writer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        # Also if it is cancelled before it has begun, or while it connects.
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.closed:
            writer.transport.abort()
            return
        fate = self.fates.pop(0) if self.fates else None
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target.rsplit(":", 1))
        except OSError:
            writer.transport.abort()
            return
        allowed = math.inf if fate is None else fate.answers
        requests = asyncio.create_task(_pass_on(reader, far_writer))
        answers = asyncio.create_task(_pass_on(far_reader, writer, allowed))
        try:
            timeout = None if fate is None or fate.seconds == math.inf else fate.seconds
            done, _ = await asyncio.wait([requests, answers], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if fate is not None and requests not in done:
                self.cuts += 1
                await self._cut(fate, writer, far_writer, requests, answers)
            elif fate is not None:
                # The client was first: its next connection meets that fate, or breaks now if it is there already.
                others = self._running - {asyncio.current_task()}
                if others:
                    self.cuts += 1
                    for other in others:
                        other.cancel()
                else:
                    self.fates.append(fate)
        except asyncio.CancelledError:
            if fate is not None:
                self.fates.append(fate)
            raise
        finally:
            # Before anything that a second cancellation could interrupt.
            writer.transport.abort()
            far_writer.transport.abort()
            for task in (requests, answers):
                task.cancel()
            await asyncio.gather(requests, answers, return_exceptions=True)

    async def _cut(
        self,
        fate: Fate,
        near: asyncio.StreamWriter,
        far: asyncio.StreamWriter,
        requests: asyncio.Task[None],
        answers: asyncio.Task[None],
    ) -> None:
        if fate.end == "reset":
            linger = struct.pack("ii", 1, 0)
            with suppress(OSError):
                near.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        elif fate.end.startswith("half-close"):
            ended = near if fate.end.endswith("answers") else far
            answers.cancel() if ended is near else requests.cancel()
            with suppress(OSError):
                ended.write_eof()
            # The other direction goes on, until the peer has noticed.
            await asyncio.wait([requests, answers], timeout=1.0)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, allowed: float = math.inf) -> None:
    with suppress(ConnectionError):
        while allowed > 0 and (data := await reader.read(65_536)):
            data = data[: int(min(allowed, len(data)))]
            allowed -= len(data)
            writer.write(data)
            await writer.drain()


def random_fates(seed: int) -> Iterator[Fate]:
    """Ends at random moments: some before the first answer, some within a message, some in silence."""
    chance = random.Random(seed)
    while True:
        end = chance.choice(ENDS)
        kinds = ("at once", "in the handshake", "within a message", "by time")
        [kind] = chance.choices(kinds, weights=(1, 1, 2, 2))
        match kind:
            case "at once":
                yield Fate(answers=0, end=end)
            case "in the handshake":
                yield Fate(answers=chance.randint(1, 80), seconds=0.3, end=end)
            case "within a message":
                yield Fate(answers=chance.randint(80, 3_000), seconds=0.3, end=end)
            case _:
                yield Fate(seconds=chance.uniform(0, 0.3), end=end)
