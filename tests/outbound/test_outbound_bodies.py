"""Bodies that unpack to more than anybody wants."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import httpx
import pytest

from kling_flows.outbound import policy_for
from kling_flows.outbound.bodies import BodyTooLarge, read_body
from kling_flows.outbound.client import guarded_client

from ..archive.source import Reply, answers, serving

HERE = policy_for("http://127.0.0.1")
LIMIT = 1 << 20


async def _read(reply: Reply, limit: int = LIMIT) -> bytes:
    async with (
        serving(reply) as source,
        guarded_client(HERE, timeout=10) as http,
        http.stream("GET", source.url) as response,
    ):
        return await read_body(response, limit)


def packed(body: bytes, encoding: str = "gzip") -> Reply:
    return answers(200, body, Content_Encoding=encoding)


@pytest.mark.parametrize(
    "reply",
    [answers(200, b"x" * LIMIT), packed(gzip.compress(b"x" * LIMIT)), packed(zlib.compress(b"x" * LIMIT), "deflate")],
    ids=["plain", "gzip", "deflate"],
)
async def test_a_body_of_the_greatest_length_is_read(reply: Reply) -> None:
    assert await _read(reply) == b"x" * LIMIT
    with pytest.raises(BodyTooLarge):
        await _read(reply, LIMIT - 1)


async def test_an_empty_body_is_read() -> None:
    assert await _read(answers(200)) == b""
    assert await _read(packed(gzip.compress(b""))) == b""


@pytest.mark.parametrize(
    "reply",
    [
        packed(b"not packed"),
        packed(gzip.compress(bytes(1000))[:-9]),
        packed(b""),
        packed(b"x", "br"),
        packed(gzip.compress(gzip.compress(b"x")), "gzip, gzip"),
    ],
    ids=["not packed", "cut", "nothing", "another way", "twice"],
)
async def test_what_cannot_be_unpacked_is_refused(reply: Reply) -> None:
    with pytest.raises(httpx.DecodingError):
        await _read(reply)


async def test_a_bomb_takes_no_more_memory_than_a_body_may() -> None:
    bomb = gzip.compress(bytes(256 << 20), 1)
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            await _read(packed(bomb))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(bomb) + 5 * LIMIT
