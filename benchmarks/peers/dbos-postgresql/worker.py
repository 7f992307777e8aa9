"""A queue worker: one durable workflow per video, with a step for each thing that touches the outside
(https://docs.dbos.dev/python/examples/queue-worker, https://docs.dbos.dev/python/tutorials/workflow-tutorial).
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from dbos import DBOS
from kling import POLL_SECONDS, AsyncKling, report

# 1 s and doubled, as the docs' example: https://docs.dbos.dev/python/tutorials/step-tutorial#configurable-retries
RETRIES = {"retries_allowed": True, "max_attempts": 10}

kling = AsyncKling()


@DBOS.step(**RETRIES)
async def create(job: str, prompt: str, seconds: int) -> str:
    # Again at any time: a step that a crash has interrupted is not told, when it runs again, that it ran before.
    return await kling.create(job, prompt, seconds, again=True)


@DBOS.step(**RETRIES)
async def look(task_id: str) -> str | None:
    return await kling.url(task_id)


@DBOS.step(**RETRIES)
async def download(job: str, url: str) -> str:
    return str(await kling.download(job, url))


@DBOS.step()
async def finish(job: str, path: str | None) -> None:
    report(job, path and Path(path))


@DBOS.workflow(name="video")
async def video(job: str, prompt: str, seconds: int) -> None:
    task_id = await create(job, prompt, seconds)
    while (url := await look(task_id)) is None:
        # Durable: after a restart it sleeps for the rest only.
        await DBOS.sleep_async(POLL_SECONDS)
    await finish(job, await download(job, url) if url else None)


if __name__ == "__main__":
    DBOS(config={"name": "videos", "system_database_url": os.environ["POSTGRES_URL"]})
    DBOS.launch()
    # Without a limit, which is the default; a workflow that waits is a coroutine.
    # https://docs.dbos.dev/python/reference/queues
    DBOS.register_queue("videos")
    print("READY", flush=True)
    threading.Event().wait()
