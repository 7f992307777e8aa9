"""``python -m benchmarks.front.client``: one process of load; orders come as lines of JSON, and so do the answers.

Times are of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from kling_flows.processes import new_event_loop
from kling_flows.v1.text_to_video_pb2 import TextToVideo
from kling_flows.v1.video_task_pb2 import VideoTask
from kling_flows.v1.video_task_service_pb2 import (
    CreateVideoTaskRequest,
    GetVideoTaskRequest,
    WatchVideoTasksRequest,
    WatchVideoTasksResponse,
)
from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceStub

_SERVICE = "/kling_flows.v1.VideoTaskService/"
_CALL_SECONDS = 60.0
#: Streams that are opened at a time, so that opening them is no burst.
_OPENING = 100
_PROBE_PAUSE = 0.005
#: The tag of the first field of a WatchVideoTasksResponse, ``video_tasks``: a heartbeat begins with another one.
_TASKS = b"\x0a"


class Client:
    """What the orders are about."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._calls: list[Any] = []
        self._readers: set[asyncio.Task[None]] = set()
        self._ended = 0
        self._told = 0
        self._last = 0.0
        self._all_told = asyncio.Event()

    async def create(self, address: str, label: str, count: int, in_flight: int, seconds: float) -> dict[str, Any]:
        """Create until so many are made or the time is over, with so many calls in flight."""
        stub: Any = VideoTaskServiceStub(self._channel(address))
        latencies: list[float] = []
        refused: Counter[str] = Counter()
        numbers = iter(range(count))
        began = time.monotonic()

        async def work() -> None:
            for number in numbers:
                started = time.monotonic()
                if started - began > seconds:
                    return
                try:
                    await stub.CreateVideoTask(_create_request(label, number), timeout=_CALL_SECONDS)
                except grpc.aio.AioRpcError as error:
                    refused[error.code().name] += 1
                else:
                    latencies.append(time.monotonic() - started)

        await asyncio.gather(*(work() for _ in range(in_flight)))
        return {"began": began, "ended": time.monotonic(), "latencies": latencies, "refused": refused}

    async def watch(self, address: str, name: str, count: int, heartbeat: float) -> dict[str, Any]:
        """Open so many watches on one task; answers when all of them are live."""
        # Without a deserialiser: what is measured is the server.
        method = self._channel(address).unary_stream(
            f"{_SERVICE}WatchVideoTasks", WatchVideoTasksRequest.SerializeToString
        )
        request = WatchVideoTasksRequest(names=[name], heartbeat_interval=Duration(seconds=int(heartbeat)))
        for start in range(0, count, _OPENING):
            calls = [method(request) for _ in range(min(_OPENING, count - start))]
            await asyncio.gather(*(_until_synced(call) for call in calls))
            self._calls.extend(calls)
        for call in self._calls[-count:]:
            reader = asyncio.create_task(self._read(call))
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)
        return {"watching": len(self._calls)}

    async def expect(self) -> dict[str, Any]:
        """Begin to count deliveries anew."""
        self._told = 0
        self._all_told.clear()
        return {}

    async def told(self) -> dict[str, Any]:
        """Answers when every watch has had a delivery since `expect`."""
        async with asyncio.timeout(_CALL_SECONDS):
            await self._all_told.wait()
        return {"last": self._last, "ended": self._ended}

    async def close(self) -> dict[str, Any]:
        """End all watches."""
        for call in self._calls:
            call.cancel()
        self._calls.clear()
        await asyncio.gather(*self._readers)
        return {}

    async def probe(self, address: str, name: str, seconds: float) -> dict[str, Any]:
        """Get one task again and again; answers how long each call took."""
        stub: Any = VideoTaskServiceStub(self._channel(address))
        latencies: list[float] = []
        end = time.monotonic() + seconds
        while (started := time.monotonic()) < end:
            await stub.GetVideoTask(GetVideoTaskRequest(name=name), timeout=_CALL_SECONDS)
            latencies.append(time.monotonic() - started)
            await asyncio.sleep(_PROBE_PAUSE)
        return {"latencies": latencies}

    async def _read(self, call: Any) -> None:
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                if message.startswith(_TASKS):
                    self._last = time.monotonic()
                    self._told += 1
                    if self._told == len(self._calls):
                        self._all_told.set()
        except asyncio.CancelledError:
            return
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.CANCELLED:
                return
        self._ended += 1

    def _channel(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            options = [("grpc.enable_http_proxy", 0)]
            self._channels[address] = grpc.aio.insecure_channel(address, options=options)
        return self._channels[address]


def _create_request(label: str, number: int) -> CreateVideoTaskRequest:
    return CreateVideoTaskRequest(
        video_task=VideoTask(
            text_to_video=TextToVideo(prompt=f"Number {number} of many paper boats on a river at dusk"),
            labels={"benchmark": label},
        ),
        request_id=f"{label}-{number}",
    )


async def _until_synced(call: Any) -> None:
    while not WatchVideoTasksResponse.FromString(await call.read()).synced:
        pass


async def _serve() -> None:
    client = Client()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with asyncio.TaskGroup() as group:
        async for line in reader:
            order = json.loads(line)
            group.create_task(_carry_out(client, order.pop("number"), order.pop("do"), order))


async def _carry_out(client: Client, number: int, what: str, arguments: dict[str, Any]) -> None:
    answer = await getattr(client, what)(**arguments)
    print(json.dumps({"number": number, **answer}), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve())
