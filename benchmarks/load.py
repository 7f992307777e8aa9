"""Calls at the pace of a scenario, each timed from the client's side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import grpc

from benchmarks.scenarios import Scenario
from benchmarks.watching import LABEL
from kling_flows.v1.text_to_video_pb2 import TextToVideo
from kling_flows.v1.video_task_pb2 import VideoTask
from kling_flows.v1.video_task_service_pb2 import CreateVideoTaskRequest

if TYPE_CHECKING:
    from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceAsyncStub

_CALL_SECONDS: Final = 60.0


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to a server on this machine; a context manager."""
    # A proxy from the environment cannot reach this machine's own addresses, and gRPC would ask it all the same.
    return grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])


class Caller:
    """Creates video tasks with one label, and notes the seconds that each call took."""

    def __init__(self, stub: VideoTaskServiceAsyncStub, label: str) -> None:
        self.latencies: list[float] = []
        self._stub = stub
        self._label = label

    async def create(self, number: int) -> None:
        """Create one."""
        request = CreateVideoTaskRequest(
            video_task=VideoTask(
                text_to_video=TextToVideo(prompt=f"Number {number} of many paper boats on a river at dusk"),
                labels={LABEL: self._label},
            ),
            request_id=f"{self._label}-{number}",
        )
        began = time.perf_counter()
        await self._stub.CreateVideoTask(request, timeout=_CALL_SECONDS)
        self.latencies.append(time.perf_counter() - began)


async def prepare(scenario: Scenario, empty: Caller) -> None:
    """What comes before the load: a burst would disturb the empty handler, so that one gets its burst first."""
    if scenario.rate is None:
        await flood(scenario.tasks, scenario.calls_in_flight, empty.create)


async def drive(scenario: Scenario, product: Caller, empty: Caller) -> float:
    """Create all tasks; answers the seconds from the first call's begin to the last one's end."""
    began = time.perf_counter()
    if scenario.rate is None:
        await flood(scenario.tasks, scenario.calls_in_flight, product.create)
    else:
        await _pace(scenario.tasks, scenario.rate, _pairs(product, empty))
    return time.perf_counter() - began


def _pairs(product: Caller, empty: Caller) -> Callable[[int], Coroutine[Any, Any, None]]:
    async def call_both(number: int) -> None:
        # Whoever comes second finds a client that is awake, so each comes second in turn.
        for caller in (product, empty) if number % 2 else (empty, product):
            await caller.create(number)

    return call_both


async def _pace(count: int, rate: float, action: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    # A slow call does not hold up the next one.
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(began + number / rate - loop.time())
            group.create_task(action(number))


async def flood(count: int, in_flight: int, action: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    """Call ``action`` with each number below ``count``, so many at a time."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await action(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())
