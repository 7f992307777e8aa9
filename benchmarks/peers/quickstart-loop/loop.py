"""The loop of Kling's quickstarts, once per video on one event loop: create, sleep and ask until it has ended, fetch.

https://apidoc.cometapi.com/quickstarts/video/kling-api sleeps 5 s between two looks, 60 times, and retries nothing.
The careful variant asks for a job's ``external_task_id`` before it creates it again, also after it was started again.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from each import make_each
from kling import CAREFUL, POLL_SECONDS, AsyncKling

LOOKS = 60


async def make(kling: AsyncKling, job: str, prompt: str, seconds: int) -> Path:
    if CAREFUL:
        task_id = await kling.create_carefully(job, prompt, seconds, again=True)
    else:
        task_id = await kling.create(job, prompt, seconds)
    for _ in range(LOOKS):
        url = await kling.url(task_id)
        if url:
            return await kling.download(job, url)
        if url is not None:
            raise RuntimeError(f"{job} has failed")
        await asyncio.sleep(POLL_SECONDS)
    raise TimeoutError(f"{job} did not finish in time")


asyncio.run(make_each(make))
