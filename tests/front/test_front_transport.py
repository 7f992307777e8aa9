"""What gRPC itself does with calls: how long they may take, how large they are, and when their connection ends."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from grpc_server.server import OPTIONS
from grpc_server.service import SERVICE_NAME
from kling_flows.v1 import video_task_service_pb2 as rpc

from .rig import PATIENCE, Rig, Served

#: Bytes that one message may have.
MOST_BYTES = 8 * 1024 * 1024


async def test_a_call_whose_deadline_passes_is_given_up_here_too(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    async def never(*_: object, **__: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(served.ledger, "get", never)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.GetVideoTask(rpc.GetVideoTaskRequest(name="videoTasks/a"), timeout=0.5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(ended.wait(), PATIENCE)


@pytest.mark.parametrize(
    ("size", "code"),
    [(MOST_BYTES, grpc.StatusCode.INVALID_ARGUMENT), (MOST_BYTES + 1, grpc.StatusCode.RESOURCE_EXHAUSTED)],
)
async def test_a_message_of_eight_mebibytes_is_read_and_a_larger_one_is_not(
    served: Served, size: int, code: grpc.StatusCode
) -> None:
    call: Any = served.channel.unary_unary(f"/{SERVICE_NAME}/BatchCreateVideoTasks")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"\xff" * size)
    # What is read is no message.
    assert caught.value.code() is code


async def test_a_watch_that_its_connections_age_ends_goes_on_over_the_next_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    young = {"grpc.max_connection_age_ms": 200, "grpc.max_connection_age_grace_ms": 200}
    monkeypatch.setattr("grpc_server.server.OPTIONS", tuple({**dict(OPTIONS), **young}.items()))
    served = await rig.serve()
    watch = served.watch()
    assert await watch.until_synced() == []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.ended()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    name = (await served.create()).name
    again = served.watch(resume_token=watch.token)
    assert [task.name for task in await again.until_synced()] == [name]
    again.cancel()
