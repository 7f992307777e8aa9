"""Starts a workflow per line of stdin (https://docs.temporal.io/develop/python/client/temporal-client)."""

import asyncio
import os

from activities import Job
from jobs import accepted, jobs
from temporalio.client import Client
from workflows import Video


async def start(client: Client, job: Job) -> None:
    await client.start_workflow(Video.run, job, id=job.job, task_queue="videos")
    accepted(job.job)


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with asyncio.TaskGroup() as starts:
        async for job in jobs():
            starts.create_task(start(client, Job(**job)))


asyncio.run(main())
