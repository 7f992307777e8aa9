"""The worker (https://procrastinate.readthedocs.io/en/stable/howto/basics/worker.html)."""

import asyncio
import os
from pathlib import Path

from app import app

#: A job waits for its video, so as many run at a time as there may be videos.
CONCURRENCY = 10_000


async def main() -> None:
    async with app.open_async():
        applied = Path(os.environ["STATE"]) / "schema"
        if not applied.exists():
            await app.schema_manager.apply_schema_async()
            applied.touch()
        print("READY", flush=True)
        await app.run_worker_async(concurrency=CONCURRENCY)


asyncio.run(main())
