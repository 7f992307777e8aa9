"""What a provider, or somebody who sits between it and us, may answer; and what a caller may send."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from grpc_server.server import OPTIONS
from kling_flows.upstream import UpstreamAmbiguous, UpstreamClient, UpstreamError, UpstreamInvalid
from kling_flows.upstream.client import CREATE_DEADLINE, READ_DEADLINE
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1 import video_task_service_pb2 as rpc

from ..front.rig import PATIENCE, Refusal, Rig, Served
from ..upstream.data import account, request
from ..upstream.server import Reply, Seen, answer, serve

#: Seconds that the client gets for each call here.
DEADLINE = 1.5

#: Bytes that a call may take at its worst: 64 KiB from the wire may be unpacked at a time, a thousandfold, and copied.
MOST_MEMORY = 48 << 20


@pytest.fixture(autouse=True)
def direct_connections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    # Nothing of the machine's own configuration.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


# --------------------------------------------------------------------------------------------------------- the provider


def raw(*pieces: bytes, again: bytes = b"", pause: float = 0.0, reset: bool = False) -> Reply:
    """Any bytes; then ``again`` without end, or the connection's end."""

    async def reply(_: Seen, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        while again:
            await asyncio.sleep(pause)
            writer.write(again)
            await writer.drain()
        if reset:
            writer.transport.abort()

    return reply


OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
TASK = json.dumps({"code": 0, "data": {"task_id": "850", "task_status": "submitted"}}).encode()


def whole(body: bytes, headers: bytes = b"") -> bytes:
    return OK + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


REPLIES: dict[str, Reply] = {
    "an endless body": raw(OK + b"\r\n", again=b" " * 65536),
    "an endless body of chunks": raw(
        OK + b"Transfer-Encoding: chunked\r\n\r\n", again=b"1000\r\n" + b"x" * 4096 + b"\r\n"
    ),
    "a drip": raw(OK + b"\r\n", again=b" ", pause=0.05),
    "a drip of headers": raw(OK, again=b"A: b\r\n", pause=0.05),
    "early hints without end": raw(again=b"HTTP/1.1 103 Early Hints\r\n\r\n", pause=0.01),
    "giant headers": raw(OK, b"".join(b"X-%d: %s\r\n" % (n, b"a" * 1000) for n in range(1024)), b"\r\n" + TASK),
    "one giant header": raw(OK + b"X: " + b"a" * (1 << 20) + b"\r\n\r\n" + TASK),
    "100,000 brackets": raw(whole(b"[" * 100_000)),
    "100,000 brackets that are closed": raw(whole(b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}")),
    "100,000 objects in each other": raw(whole(b'{"data":' * 100_000 + b"1" + b"}" * 100_000)),
    "a number of a million digits": raw(whole(b'{"code": 0, "data": {"task_id": ' + b"9" * 1_000_000 + b"}}")),
    "numbers that are none": raw(whole(b'{"code": NaN, "data": {"task_id": Infinity, "task_status": -Infinity}}')),
    "invalid UTF-8": raw(whole(b"\xff\xfe\xc3(" + TASK)),
    "invalid UTF-8 within the id": raw(whole(TASK.replace(b'"task_id": "8', b'"task_id": "\xff8'))),
    "UTF-16": raw(whole(TASK.decode().encode("utf-16"))),
    "nothing but zeros": raw(whole(bytes(100_000))),
    "a gzip bomb": raw(whole(gzip.compress(b" " * (64 << 20)), b"Content-Encoding: gzip\r\n")),
    "a gzip bomb in a gzip bomb": raw(
        whole(gzip.compress(gzip.compress(b" " * (64 << 20))), b"Content-Encoding: gzip, gzip\r\n")
    ),
    "gzip that is none": raw(whole(TASK, b"Content-Encoding: gzip\r\n")),
    "gzip that is cut": raw(whole(gzip.compress(TASK)[:40], b"Content-Encoding: gzip\r\n")),
    "JSON that is cut": raw(whole(TASK[:-10])),
    "a shorter length than the body": raw(OK + b"Content-Length: 20\r\n\r\n" + TASK),
    "a longer length than the body": raw(OK + b"Content-Length: 2000\r\n\r\n" + TASK),
    "two lengths": raw(OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + TASK),
    "a length below zero": raw(OK + b"Content-Length: -1\r\n\r\n" + TASK),
    "a chunk of a size without end": raw(CHUNKED, again=b"f" * 4096),
    "a reset within the body": raw(OK + b"Content-Length: 2000\r\n\r\n" + TASK[:20], reset=True),
    "a reset at once": raw(reset=True),
    "HTTP/0.9": raw(TASK),
    "another protocol": raw(b"SSH-2.0-OpenSSH_9.7\r\n"),
    "a status that is none": raw(b"HTTP/1.1 999999 X\r\n\r\n" + TASK),
    "a header that is none": raw(OK + b"\x00\xff: \x00\r\n\r\n" + TASK),
    "a switch of protocols": raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
}


async def _create(upstream: UpstreamClient) -> object:
    return await upstream.create(request(), "ext-0001")


async def _get(upstream: UpstreamClient) -> object:
    return await upstream.get("850000000000000001")


async def _fails(reply: Reply, call: Callable[[UpstreamClient], Awaitable[object]]) -> UpstreamError:
    """The error that the call ends with, in time and in bounds."""
    async with (
        serve(reply) as server,
        UpstreamClient(account(server.base_url), create_deadline=DEADLINE, read_deadline=DEADLINE) as upstream,
    ):
        tracemalloc.start()
        began = time.monotonic()
        try:
            with pytest.raises(UpstreamError) as caught:
                await call(upstream)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # A busy machine gets some time on top.
    assert time.monotonic() - began < DEADLINE + 30
    assert peak < MOST_MEMORY
    assert len(caught.value.message) < 1000
    return caught.value


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
async def test_a_create_with_such_an_answer_has_an_unknown_outcome(reply: Reply) -> None:
    # The request has arrived in each case: whether a task was made, and paid for, has to be looked up.
    assert isinstance(await _fails(reply, _create), UpstreamAmbiguous)


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
async def test_a_look_with_such_an_answer_is_a_missed_look(reply: Reply) -> None:
    error = await _fails(reply, _get)
    assert not isinstance(error, UpstreamAmbiguous)
    assert error.retryable


@pytest.mark.parametrize("location", ["/v1/videos/text2video", "http://169.254.169.254/latest", "file:///etc/passwd"])
@pytest.mark.parametrize("call", [_create, _get])
async def test_a_redirect_is_refused_and_never_followed(
    call: Callable[[UpstreamClient], Awaitable[object]], location: str
) -> None:
    # The server is there for one request only.
    error = await _fails(answer(307, b"", {"Location": location}), call)
    assert isinstance(error, UpstreamInvalid)


def test_calls_have_deadlines_by_themselves() -> None:
    assert 0 < READ_DEADLINE <= CREATE_DEADLINE <= 120


# ----------------------------------------------------------------------------------------------------------- the caller


@pytest.fixture
async def served(tmp_path: Path) -> AsyncGenerator[Served]:
    async with AsyncExitStack() as stack:
        yield await Rig(tmp_path, stack).serve()


def _call(served: Served, method: str, body: bytes, metadata: list[tuple[str, Any]] | None = None) -> Awaitable[bytes]:
    """A call with bytes that no stub would make."""
    call: Any = served.channel.unary_unary(f"/kling_flows.v1.VideoTaskService/{method}")
    return call(body, metadata=metadata)


async def _status(call: Awaitable[bytes]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, PATIENCE)
    assert "Traceback" not in (caught.value.details() or "")
    return caught.value.code()


async def _lives_on(served: Served) -> None:
    created = await served.create("still here")
    assert (await served.get(created.name)).text_to_video.prompt == "still here"


def _field(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


MALFORMED = {
    "not protobuf": b"{'prompt': 'a cat'}",
    "cut": rpc.CreateVideoTaskRequest(video_task=pb.VideoTask(labels={"a": "b"})).SerializeToString()[:-1],
    "a length without end": b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    "a length of more than there is": b"\x0a\xff\xff\xff\x7f",
    "a group that never ends": b"\x0b" * 10_000,
    "field zero": b"\x02\x00",
    "messages in each other": b"\x0a\x7f" * 1000,
    "invalid UTF-8": _field(2, b"\xff\xfe\xfd"),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
async def test_bytes_that_are_no_request_get_a_status(served: Served, body: bytes) -> None:
    # grpc itself answers INTERNAL for what it cannot read; nothing of ours has seen it.
    for method in ("CreateVideoTask", "GetVideoTask", "ListVideoTasks", "CancelVideoTask"):
        status = await _status(_call(served, method, body))
        assert status in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    await _lives_on(served)


#: Bytes of the longest request that the front takes.
LONGEST_REQUEST = dict(OPTIONS)["grpc.max_receive_message_length"]


async def test_a_message_that_is_too_large_is_refused(served: Served) -> None:
    assert LONGEST_REQUEST <= 16 << 20
    body = rpc.GetVideoTaskRequest(name="x" * LONGEST_REQUEST).SerializeToString()
    assert await _status(_call(served, "GetVideoTask", body)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    await _lives_on(served)


@pytest.mark.parametrize("metadata", [[("x", "a" * (1 << 20))], [(f"x-{n}", "a" * 100) for n in range(2000)]])
async def test_metadata_without_end_is_refused(served: Served, metadata: list[tuple[str, Any]]) -> None:
    body = rpc.GetVideoTaskRequest(name="videoTasks/vt-1").SerializeToString()
    status = await _status(_call(served, "GetVideoTask", body, metadata))
    assert status in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
    await _lives_on(served)


async def test_labels_without_end_are_refused(served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.create(labels={f"k{n}": "v" for n in range(100_000)})
    # Which of the two depends on the longest request that is taken.
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.create(labels={f"k{n}": "v" for n in range(10_000)})
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "labels" in "".join(Refusal.of(caught.value).fields)
    await _lives_on(served)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01" + bytes(500),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 5000,
    ],
    ids=["HTTP/1.1", "TLS", "frames that are none"],
)
async def test_a_connection_that_speaks_something_else_is_closed(served: Served, garbage: bytes) -> None:
    host, _, port = served.front.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(garbage)
    async with asyncio.timeout(PATIENCE):
        while await _more(reader):
            continue
    writer.close()
    await _lives_on(served)


async def _more(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(65536)
    except ConnectionError:
        return b""
