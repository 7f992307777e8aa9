"""Defers a job per line of stdin (https://procrastinate.readthedocs.io/en/stable/howto/basics/defer.html)."""

import asyncio

from app import app, make
from jobs import accepted, jobs


async def defer(job: dict) -> None:
    await make.defer_async(**job)
    accepted(job["job"])


async def main() -> None:
    async with app.open_async(), asyncio.TaskGroup() as group:
        async for job in jobs():
            group.create_task(defer(job))


asyncio.run(main())
