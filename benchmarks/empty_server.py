"""``python -m benchmarks.empty_server FILE``: gRPC and nothing else, the measure for creates and for watches."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import grpc

from kling_flows.processes import new_event_loop, watch_parent
from kling_flows.v1.video_task_pb2 import VideoTask
from kling_flows.v1.video_task_service_pb2 import (
    DESCRIPTOR,
    CancelVideoTaskRequest,
    CreateVideoTaskRequest,
    WatchVideoTasksRequest,
    WatchVideoTasksResponse,
)


class _Empty:
    """Answers a create at once, and tells all watches of a cancel."""

    def __init__(self) -> None:
        self._watches: set[asyncio.Future[None]] = set()

    async def create(self, request: CreateVideoTaskRequest, _context: Any) -> VideoTask:
        return request.video_task

    async def cancel(self, request: CancelVideoTaskRequest, _context: Any) -> VideoTask:
        watches, self._watches = self._watches, set()
        for told in watches:
            told.set_result(None)
        return VideoTask(name=request.name)

    async def watch(self, request: WatchVideoTasksRequest, context: Any) -> None:
        await context.write(WatchVideoTasksResponse(synced=True).SerializeToString())
        message = WatchVideoTasksResponse(video_tasks=[VideoTask(name=request.names[0])]).SerializeToString()
        while True:
            told = asyncio.get_running_loop().create_future()
            self._watches.add(told)
            try:
                await told
            finally:
                self._watches.discard(told)
            await context.write(message)


async def _serve(ready: Path) -> None:
    server = grpc.aio.server()
    empty = _Empty()
    methods = {
        "CreateVideoTask": grpc.unary_unary_rpc_method_handler(
            empty.create, CreateVideoTaskRequest.FromString, VideoTask.SerializeToString
        ),
        "CancelVideoTask": grpc.unary_unary_rpc_method_handler(
            empty.cancel, CancelVideoTaskRequest.FromString, VideoTask.SerializeToString
        ),
        "WatchVideoTasks": grpc.unary_stream_rpc_method_handler(empty.watch, WatchVideoTasksRequest.FromString),
    }
    service = DESCRIPTOR.services_by_name["VideoTaskService"].full_name
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ready.write_text(f"127.0.0.1:{port}")
    await server.wait_for_termination()


def main(ready: Path) -> None:
    """Serve until a signal or the end of the parent; writes the address into ``ready``."""
    watch_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(ready))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
