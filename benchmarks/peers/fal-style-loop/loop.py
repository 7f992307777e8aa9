"""What ``fal_client.subscribe_async`` does, at Kling: submit, look at the status, fetch the result.

Every call, the one that submits too, is tried up to ten times with a growing, random pause, as fal's client does
(https://github.com/fal-ai/fal/tree/main/projects/fal_client; https://docs.fal.ai/model-apis/client). Its interval is
0.1 s by default; here it is 0.5 s, then half as much again each time, up to the interval of the others.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import httpx
from each import make_each
from kling import CAREFUL, POLL_SECONDS, AsyncKling

T = TypeVar("T")

TRIES = 10
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
FIRST_INTERVAL, GROWTH = 0.5, 1.5


async def tried(call: Callable[[], Awaitable[T]]) -> T:
    for attempt in range(TRIES):
        try:
            return await call()
        except httpx.HTTPError as error:
            known = isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500
            if known or attempt + 1 == TRIES:
                raise
        await asyncio.sleep(min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE) * random.uniform(0.5, 1.5))
    raise AssertionError


async def subscribe(kling: AsyncKling, job: str, prompt: str, seconds: int) -> Path:
    if CAREFUL:
        task_id = await kling.create_carefully(job, prompt, seconds, again=True)
    else:
        task_id = await tried(lambda: kling.create(job, prompt, seconds))
    interval = FIRST_INTERVAL
    while (url := await tried(lambda: kling.url(task_id))) is None:
        await asyncio.sleep(interval)
        interval = min(interval * GROWTH, POLL_SECONDS)
    if not url:
        raise RuntimeError(f"{job} has failed")
    return await tried(lambda: kling.download(job, url))


asyncio.run(make_each(subscribe))
