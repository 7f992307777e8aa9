"""Enqueues a workflow per line of stdin (https://docs.dbos.dev/python/reference/client)."""

import asyncio
import os

from dbos import DBOSClient
from jobs import accepted, jobs


async def enqueue(client: DBOSClient, job: dict) -> None:
    options = {"workflow_name": "video", "queue_name": "videos", "workflow_id": job["job"]}
    await client.enqueue_async(options, **job)
    accepted(job["job"])


async def main() -> None:
    client = DBOSClient(system_database_url=os.environ["POSTGRES_URL"])
    async with asyncio.TaskGroup() as enqueues:
        async for job in jobs():
            enqueues.create_task(enqueue(client, job))
    client.destroy()


asyncio.run(main())
