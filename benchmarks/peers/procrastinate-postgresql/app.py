"""One job per video, which runs on the worker's event loop until the video is there.

Retries: https://procrastinate.readthedocs.io/en/stable/howto/advanced/retry.html. Jobs of a killed worker stay "doing"
for ever unless somebody retries them; the careful variant has the periodic task of
https://procrastinate.readthedocs.io/en/stable/howto/production/retry_stalled_jobs.html.
"""

from __future__ import annotations

import asyncio
import os
from functools import cache

from kling import CAREFUL, POLL_SECONDS, AsyncKling, report
from procrastinate import App, JobContext, PsycopgConnector, RetryStrategy

app = App(connector=PsycopgConnector(conninfo=os.environ["POSTGRES_URL"]))


@cache
def kling() -> AsyncKling:
    return AsyncKling()


@app.task(retry=RetryStrategy(max_attempts=5, exponential_wait=2), pass_context=True)
async def make(context: JobContext, job: str, prompt: str, seconds: int) -> None:
    task_id = await kling().create(job, prompt, seconds, again=context.job.attempts > 0)
    while (url := await kling().url(task_id)) is None:
        await asyncio.sleep(POLL_SECONDS)
    report(job, await kling().download(job, url) if url else None)


if CAREFUL:
    # The sixth field is the seconds.
    @app.periodic(cron="* * * * * */10")
    @app.task(queueing_lock="retry_stalled_jobs", pass_context=True)
    async def retry_stalled_jobs(context: JobContext, timestamp: int) -> None:
        for job in await app.job_manager.get_stalled_jobs():
            await app.job_manager.retry_job(job)
