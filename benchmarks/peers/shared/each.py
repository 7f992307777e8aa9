"""A coroutine for every job that comes, and a result for every job, whatever becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
from jobs import accepted, jobs
from kling import AsyncKling, report

Make = Callable[[AsyncKling, str, str, int], Awaitable[Path]]


async def make_each(make: Make) -> None:
    """Call ``make`` for each job, all at once, until stdin has ended and all are done."""
    kling = AsyncKling()

    async def run(job: str, prompt: str, seconds: int) -> None:
        try:
            report(job, await make(kling, job, prompt, seconds))
        except (httpx.HTTPError, RuntimeError, TimeoutError) as error:
            print(f"{job}: {error!r}", flush=True)
            report(job, None)

    async with asyncio.TaskGroup() as group:
        async for job in jobs():
            group.create_task(run(**job))
            accepted(job["job"])
