"""A real HTTP server on a free port that follows a script, one reply for each request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def token(self) -> str:
        return self.headers["authorization"].removeprefix("Bearer ")


Reply = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    base_url: str = ""
    seen: list[Seen] = field(default_factory=list[Seen])
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


def answer(status: int, body: object, headers: Mapping[str, str] | None = None) -> Reply:
    """Reply with JSON, or with text or bytes as they are."""
    if isinstance(body, bytes):
        raw = body
    elif isinstance(body, str):
        raw = body.encode()
    else:
        raw = json.dumps(body).encode()

    async def reply(_: Seen, writer: asyncio.StreamWriter) -> None:
        await _write(writer, status, raw, len(raw), headers)

    return reply


def echo(status: int, make: Callable[[Seen], Any]) -> Reply:
    """Reply with what ``make`` makes of the request."""

    async def reply(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await answer(status, make(seen))(seen, writer)

    return reply


def hang_up() -> Reply:
    """Close the connection instead of answering."""

    async def reply(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    return reply


def hang_up_within(status: int, start: bytes) -> Reply:
    """Promise more than what is sent, then close the connection."""

    async def reply(_: Seen, writer: asyncio.StreamWriter) -> None:
        await _write(writer, status, start, len(start) + 1000, None)

    return reply


def stall() -> Reply:
    """Never answer."""

    async def reply(_: Seen, writer: asyncio.StreamWriter) -> None:
        await writer.wait_closed()

    return reply


def flood(status: int, chunk: bytes, times: int) -> Reply:
    """Reply without a length, for as long as the client reads."""

    async def reply(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status} X\r\nConnection: close\r\n\r\n".encode())
        for _turn in range(times):
            writer.write(chunk)
            await writer.drain()

    return reply


@asynccontextmanager
async def serve(*replies: Reply) -> AsyncGenerator[Server]:
    server = Server()
    script = iter(replies)
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            seen = await _read(reader)
            server.seen.append(seen)
            server.arrived.set()
            await next(script)(seen, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()[:2]
    server.base_url = f"http://{host}:{port}"
    try:
        yield server
    finally:
        listening.close()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(method, target, headers, body)


async def _write(
    writer: asyncio.StreamWriter, status: int, raw: bytes, length: int, headers: Mapping[str, str] | None
) -> None:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {length}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + raw)
    await writer.drain()
