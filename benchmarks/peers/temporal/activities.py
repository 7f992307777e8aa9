"""What touches the outside. The wait is the docs' frequent polling, a loop that sends a heartbeat each time round
(https://docs.temporal.io/design-patterns/polling, polling/frequent in https://github.com/temporalio/samples-python).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import httpx
from kling import POLL_SECONDS, AsyncKling, report
from temporalio import activity


@dataclass
class Job:
    job: str
    prompt: str
    seconds: int


class Activities:
    """They share one client."""

    def __init__(self) -> None:
        self._kling = AsyncKling()

    @activity.defn
    async def create(self, job: Job) -> str:
        return await self._kling.create(job.job, job.prompt, job.seconds, again=activity.info().attempt > 1)

    @activity.defn
    async def wait(self, task_id: str) -> str:
        while True:
            try:
                if (url := await self._kling.url(task_id)) is not None:
                    return url
            except httpx.HTTPError:
                activity.logger.warning("the service is down", exc_info=True)
            activity.heartbeat()
            await asyncio.sleep(POLL_SECONDS)

    @activity.defn
    async def download(self, job: Job, url: str) -> str:
        # As custom_decorator in samples-python does it.
        beats = asyncio.create_task(_beat())
        try:
            return str(await self._kling.download(job.job, url))
        finally:
            beats.cancel()

    @activity.defn
    async def finish(self, job: Job, path: str | None) -> None:
        report(job.job, path and Path(path))


async def _beat() -> None:
    while True:
        await asyncio.sleep(POLL_SECONDS)
        activity.heartbeat()
