"""A front that has no time for anything for longer than gRPC lets calls wait by default."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceStub
from tests.front.rig import PATIENCE, Rig, create_request

#: Seconds; after 30 gRPC would cancel calls that nobody has taken up, and no client repeats those.
_BUSY = 33.0


@pytest.mark.full
async def test_calls_that_wait_longer_than_half_a_minute_for_their_turn_are_answered(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        served = await Rig(tmp_path, stack).serve()
        threads = stack.enter_context(ThreadPoolExecutor())
        stub: Any = VideoTaskServiceStub(stack.enter_context(grpc.insecure_channel(served.front.address)))
        await asyncio.wrap_future(threads.submit(stub.CreateVideoTask, create_request(), timeout=PATIENCE))
        calls = [threads.submit(stub.CreateVideoTask, create_request(), timeout=2 * PATIENCE) for _ in range(8)]
        # In the server's own loop.
        time.sleep(_BUSY)
        for call in calls:
            assert (await asyncio.wrap_future(call)).revision == 1
