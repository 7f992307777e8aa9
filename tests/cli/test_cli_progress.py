from __future__ import annotations

import asyncio
import os
import pty
import sys

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from kling_flows.v1.video_task_pb2 import FlowRun, Upstream

from .front import Front, message, returns, streams, task


async def test_a_terminal_shows_a_live_picture(front: Front) -> None:
    now = Timestamp()
    now.GetCurrentTime()
    processing = task(
        "PROCESSING",
        3,
        upstream=Upstream(task_id="up-7", submit_time=now),
        flow_run=FlowRun(url="http://127.0.0.1:4200/runs/1"),
        typical_duration=Duration(seconds=90),
    )
    processing.error.message = "the provider was not reachable"
    front.answers = [returns(task())]
    end = asyncio.Event()

    async def stop(request: object, context: object) -> None:
        await end.wait()

    front.streams = [
        streams(message(processing, token="a", synced=True), then=stop),
        streams(message(task("FAILED", 4))),
    ]
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "kling_flows.cli",
        "generate",
        "a fox",
        "--server",
        front.address,
        stdout=asyncio.subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "30"},
    )
    os.close(theirs)
    seen = b""
    async with asyncio.timeout(30):
        while b"of about 1:30" not in seen:
            seen += await asyncio.to_thread(os.read, ours, 65_536)
        end.set()
        out, _ = await process.communicate()
    seen += await asyncio.to_thread(os.read, ours, 65_536)
    os.close(ours)
    text = seen.decode()
    for words in ("vt-1", "PROCESSING", "at the provider 0:0", "upstream up-7", "http://127.0.0.1:4200/runs/1"):
        assert words in text
    assert "the provider was not reachable" in text
    assert "error: " in text
    assert "vt-1 is FAILED" in text
    assert (process.returncode, out) == (10, b"")
