"""Answers that are bad for whoever reads them without care: endless, huge, deep, or no text at all."""

from __future__ import annotations

import asyncio
import functools
import struct
import zlib
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from kling_flows.sandbox.answers import envelope, json_response, to_json
from kling_flows.sandbox.delivery import client_left

#: Bytes of the header of :class:`GiantHeader`.
GIANT_HEADER_BYTES: Final = 1024 * 1024
#: Bytes that :class:`GzipBomb` expands to.
BOMB_BYTES: Final = 1024 * 1024 * 1024
#: Arrays inside of each other in :func:`deep`.
DEEP_LEVELS: Final = 100_000

_PADDING: Final = b"x" * GIANT_HEADER_BYTES
_BOMB_BLOCK_BYTES: Final = 1024 * 1024
_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_LAST_EMPTY_BLOCK: Final = b"\x03\x00"
_NO_UTF8: Final = b"\xff\xfe"


class Dripping(Response):
    """An answer that never ends: a whole one, then blanks, until the client or the server goes.

    Args:
        whole: The true answer.
        interval: Seconds between blanks.
    """

    def __init__(self, whole: Response, interval: float) -> None:
        super().__init__()
        self._whole = whole
        self._interval = interval

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message["headers"]))
                del headers["content-length"]
                await send({**message, "headers": headers.raw})
            else:
                await send({**message, "more_body": True})

        await self._whole(scope, receive, send_on)
        while not await client_left(scope, receive, self._interval):
            await send({"type": "http.response.body", "body": b" ", "more_body": True})


class GiantHeader(Response):
    """An answer behind a header of 1 MiB.

    Args:
        whole: The true answer.
    """

    def __init__(self, whole: Response) -> None:
        super().__init__()
        self._whole = whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [(b"x-padding", _PADDING), *message["headers"]]}
            await send(message)

        await self._whole(scope, receive, send_on)


class GzipBomb(Response):
    """About 1 MB that expands to 1 GiB of blanks.

    Args:
        status: HTTP status.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status_code=status)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        # The checksum reads the whole gibibyte, without holding it or Python's lock.
        block, trailer = await asyncio.to_thread(_bomb)
        repeats = BOMB_BYTES // _BOMB_BLOCK_BYTES
        length = len(_GZIP_HEADER) + repeats * len(block) + len(_LAST_EMPTY_BLOCK) + len(trailer)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-encoding", b"gzip"),
            (b"content-length", str(length).encode()),
        ]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        body = _GZIP_HEADER + block * repeats + _LAST_EMPTY_BLOCK + trailer
        await send({"type": "http.response.body", "body": body})


def missing_data() -> Response:
    """Kling's envelope with code 0 and nothing in it."""
    return json_response(envelope())


def deep() -> Response:
    """Kling's envelope around arrays in arrays."""
    nested = "[" * DEEP_LEVELS + "]" * DEEP_LEVELS
    return Response(f'{to_json(envelope())[:-1]},"data":{nested}}}', media_type="application/json")


def with_invalid_utf8(whole: Response) -> Response:
    """The same answer with bytes in its first text that are no UTF-8."""
    head, found, tail = bytes(whole.body).partition(b':"')
    body = head + found + _NO_UTF8 + tail
    headers = {name: value for name, value in whole.headers.items() if name != "content-length"}
    return Response(body, whole.status_code, headers)


@functools.cache
def _bomb() -> tuple[bytes, bytes]:
    """What is repeated in a bomb, and its trailer."""
    blanks = b" " * _BOMB_BLOCK_BYTES
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # After a full flush a block neither looks back nor ends within a byte, so that it can be repeated.
    block = packer.compress(blanks) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    for _ in range(BOMB_BYTES // _BOMB_BLOCK_BYTES):
        checksum = zlib.crc32(blanks, checksum)
    return block, struct.pack("<II", checksum, BOMB_BYTES % 2**32)
