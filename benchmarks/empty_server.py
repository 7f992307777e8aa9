"""``python -m benchmarks.empty_server FILE``: gRPC and nothing else, the measure for the latency of a create."""

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
from kling_flows.v1.video_task_service_pb2 import DESCRIPTOR, CreateVideoTaskRequest


async def _answer(request: CreateVideoTaskRequest, _context: Any) -> VideoTask:
    return request.video_task


async def _serve(ready: Path) -> None:
    server = grpc.aio.server()
    create = grpc.unary_unary_rpc_method_handler(
        _answer, CreateVideoTaskRequest.FromString, VideoTask.SerializeToString
    )
    service = DESCRIPTOR.services_by_name["VideoTaskService"].full_name
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"CreateVideoTask": create})])
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
