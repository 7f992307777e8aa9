"""Reading an answer that may unpack to anything."""

from __future__ import annotations

import zlib
from typing import Final

import httpx

_PACKED: Final = frozenset({"gzip", "x-gzip", "deflate"})

#: zlib's word for gzip or zlib, whichever the header says, with the largest window.
_ANY_HEADER: Final = 32 + zlib.MAX_WBITS


class BodyTooLarge(httpx.DecodingError):
    """An answer is longer than its reader takes."""


async def read_body(response: httpx.Response, max_bytes: int) -> bytes:
    """The body of a streamed answer, unpacked; never holds much more than ``max_bytes``.

    httpx unpacks what the network delivers in one piece, a thousandfold for gzip and a thousandfold more for each gzip
    inside it: 64 KiB on the wire may become 64 GiB in memory before anybody sees their length.

    Args:
        response: Not yet read.
        max_bytes: Longest body that is taken, unpacked.

    Raises:
        BodyTooLarge: there is more.
        httpx.DecodingError: it is packed in another way than gzip or deflate, twice, or is not what it says.
        httpx.TransportError: it did not arrive whole.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return await _read_plain(response, max_bytes)
    if encoding not in _PACKED:
        raise httpx.DecodingError("the answer is packed in a way that nobody asked for", request=response.request)
    return await _read_packed(response, max_bytes)


async def _read_plain(response: httpx.Response, max_bytes: int) -> bytes:
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > max_bytes:
            raise _too_large(response, max_bytes)
    return bytes(body)


async def _read_packed(response: httpx.Response, max_bytes: int) -> bytes:
    body, unpacker = bytearray(), zlib.decompressobj(_ANY_HEADER)
    try:
        async for piece in response.aiter_raw():
            if unpacker.eof:
                raise httpx.DecodingError("the packed answer goes on behind its end", request=response.request)
            # One byte more than is taken shows that there is more.
            body += unpacker.decompress(piece, max_bytes + 1 - len(body))
            if len(body) > max_bytes:
                raise _too_large(response, max_bytes)
    except zlib.error as error:
        raise httpx.DecodingError("the answer is not packed as it says", request=response.request) from error
    if not unpacker.eof:
        raise httpx.DecodingError("the packed answer has no end", request=response.request)
    return bytes(body)


def _too_large(response: httpx.Response, max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the answer is longer than {max_bytes} bytes", request=response.request)
