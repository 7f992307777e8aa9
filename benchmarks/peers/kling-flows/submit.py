"""Creates a video task per line of stdin over gRPC, 64 at a time; a job is accepted once it is durable."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from kling_flows.cli.client import Patience, VideoTaskClient
from kling_flows.v1.text_to_video_pb2 import TextToVideo
from kling_flows.v1.video_task_pb2 import VideoTask
from kling_flows.v1.video_task_service_pb2 import CreateVideoTaskRequest

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

from jobs import accepted, jobs

CALLS = 64
PATIENCE = Patience(unreachable=120, unavailable=120)


async def main() -> None:
    calls = asyncio.Semaphore(CALLS)

    async def create(job: str, prompt: str, seconds: int) -> None:
        task = VideoTask(text_to_video=TextToVideo(prompt=prompt), labels={"job": job})
        async with calls:
            await client.create(CreateVideoTaskRequest(video_task=task, request_id=job))
        accepted(job)

    address = f"127.0.0.1:{os.environ['PEER_PORT_1']}"
    async with VideoTaskClient(address, patience=PATIENCE) as client, asyncio.TaskGroup() as group:
        async for job in jobs():
            group.create_task(create(**job))


asyncio.run(main())
