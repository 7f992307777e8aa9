"""A process that archives two videos and prints by how many bytes the second has raised its peak of memory.

Arguments: the URL and the length of the first, of the second, and the archive's folder.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from kling_flows.archive import VideoArchive
from kling_flows.outbound import policy_for
from kling_flows.processes import new_event_loop

CREATED = datetime(2026, 3, 31, tzinfo=UTC)


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux ru_maxrss begins with the peak of the process that started this one, which would hide all growth.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


async def _run(url: str, warm_up: int, size: int, folder: str) -> dict[str, float]:
    archive = VideoArchive.open(folder, policy=policy_for(url))
    await archive.store("warm-up", CREATED, archive.download(f"{url}/{warm_up}"), {})
    before, began = _peak(), time.monotonic()
    stored = await archive.store("vt-1", CREATED, archive.download(f"{url}/{size}"), {})
    seconds, after = time.monotonic() - began, _peak()
    await archive.close()
    return {"size": stored.size_bytes, "before": before, "growth": after - before, "seconds": seconds}


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        print(json.dumps(runner.run(_run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))))
