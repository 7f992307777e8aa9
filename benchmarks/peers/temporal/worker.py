"""The worker (https://docs.temporal.io/develop/python/workers/run-worker-process)."""

import asyncio
import os

from activities import Activities
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker
from workflows import Video


async def namespace(client: Client) -> None:
    """A new server answers before it knows its namespace."""
    while True:
        try:
            await client.count_workflows()
        except RPCError:
            await asyncio.sleep(0.5)
        else:
            return


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    await namespace(client)
    activities = Activities()
    worker = Worker(
        client,
        task_queue="videos",
        workflows=[Video],
        activities=[activities.create, activities.wait, activities.download, activities.finish],
        # An activity waits for each video; the default would let 100 wait at once.
        max_concurrent_activities=20_000,
    )
    async with worker:
        print("READY", flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
