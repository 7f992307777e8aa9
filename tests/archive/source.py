"""A real HTTP server that holds one file and follows a script: one reply per request, the last one for the rest."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

#: The sandbox's own clip; the sandbox itself is not needed here.
CLIP = (Path(__file__).parents[2] / "kling_flows/sandbox/tiny.mp4").read_bytes()
ETAG = '"clip"'

Headers = Mapping[str, str]
Reply = Callable[[Headers, asyncio.StreamWriter], Awaitable[None]]


def box(kind: str, body: bytes) -> bytes:
    return (8 + len(body)).to_bytes(4, "big") + kind.encode() + body


def video(size: int) -> bytes:
    """An MP4 of so many bytes, by its boxes."""
    head = box("ftyp", b"isom" * 4) + box("moov", bytes(range(200)))
    return head + box("mdat", bytes(n * 7 % 251 for n in range(1 << 16)) * (size >> 16))


def serves(body: bytes, **headers: str) -> Reply:
    """The body, or the range that was asked for."""
    return _reply(body, len(body), headers)


def cut_after(size: int, body: bytes, **headers: str) -> Reply:
    """So many bytes of what was promised, then the connection is reset."""
    return _reply(body, size, headers, end=_reset)


def stalls_after(size: int, body: bytes) -> Reply:
    """So many bytes of what was promised, then silence."""
    return _reply(body, size, {}, end=_stall)


def answers(status: int, body: bytes = b"", **headers: str) -> Reply:
    """Any other answer, whole."""

    async def reply(_: Headers, writer: asyncio.StreamWriter) -> None:
        await _write(writer, status, {"Content-Length": str(len(body)), **headers}, body)

    return reply


def unframed(body: bytes) -> Reply:
    """A body without a length, ended by the connection's end."""

    async def reply(_: Headers, writer: asyncio.StreamWriter) -> None:
        await _write(writer, 200, {"Connection": "close"}, body)
        writer.close()

    return reply


@dataclass
class Source:
    url: str = ""
    requests: list[Headers] = field(default_factory=list[Headers])
    stalled: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def serving(*replies: Reply, encrypted: ssl.SSLContext | None = None) -> AsyncGenerator[Source]:
    source = Source()
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}
                number = len(source.requests)
                source.requests.append(headers)
                await replies[min(number, len(replies) - 1)](headers, writer)
                source.stalled.set()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=encrypted)
    source.url = (
        f"{'https' if encrypted else 'http'}://127.0.0.1:{listening.sockets[0].getsockname()[1]}/video.mp4?sign=secret"
    )
    try:
        yield source
    finally:
        listening.close()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


def _reply(body: bytes, size: int, changed: Headers, end: Reply | None = None) -> Reply:
    async def reply(request: Headers, writer: asyncio.StreamWriter) -> None:
        first = int(request.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if first >= len(body):
            await _write(writer, 416, {"Content-Length": "0"}, b"")
            return
        headers = {"Content-Length": str(len(body) - first), "Content-Type": "video/mp4", "ETag": ETAG, **changed}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        await _write(writer, 206 if first else 200, headers, body[first : first + size])
        if end is not None:
            await end(request, writer)

    return reply


async def _reset(_: Headers, writer: asyncio.StreamWriter) -> None:
    writer.close()
    raise ConnectionResetError


async def _stall(_: Headers, writer: asyncio.StreamWriter) -> None:
    """The next request never comes on this connection."""


async def _write(writer: asyncio.StreamWriter, status: int, headers: Headers, body: bytes) -> None:
    lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    await writer.drain()
