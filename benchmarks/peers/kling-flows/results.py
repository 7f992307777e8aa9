"""Watches all video tasks and writes what ends; with ``WATCH_BOOK`` also whether the watch skipped a change.

A job's time is that of the event by which it became final, as the server stamped it: the video is in the archive then.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from kling_flows.cli.client import FINAL_STATES, Patience, VideoTaskClient
from kling_flows.v1.video_task_pb2 import VideoTask

BOOK = os.environ["WATCH_BOOK"]


def report(task: VideoTask) -> None:
    at = task.update_time.ToNanoseconds() / 1e9
    line = json.dumps({"job": task.labels["job"], "ok": bool(task.artifacts), "at": at, "file": None})
    with open(os.environ["RESULTS"], "ab", buffering=0) as file:
        file.write(line.encode() + b"\n")


def note(events: int, missed: int) -> None:
    part = Path(f"{BOOK}.part")
    part.write_text(json.dumps({"events": events, "missed": missed}))
    part.rename(BOOK)


async def main() -> None:
    revisions: dict[str, int] = {}
    events = missed = 0
    patience = Patience(unreachable=120, unavailable=120)
    async with VideoTaskClient(f"127.0.0.1:{os.environ['WATCH_PORT']}", patience=patience) as client:
        print("READY", flush=True)
        async for seen in client.watch():
            task = seen.task
            events += 1
            missed += task.revision - revisions.get(task.name, 0) - 1
            revisions[task.name] = task.revision
            if task.state in FINAL_STATES:
                report(task)
            if BOOK:
                note(events, missed)


asyncio.run(main())
