"""Jobs from stdin, as they come."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator


async def jobs() -> AsyncIterator[dict]:
    """The jobs, until stdin ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield json.loads(line)


def accepted(job: str) -> None:
    print(json.dumps({"job": job}), flush=True)
