"""The plain poller: what a user writes first, one loop per task, as the quickstarts do it.

It creates its tasks at the sandbox and asks for each, every interval, until it has ended; nothing is stored, nothing is
archived. ``python -m benchmarks.plain_poller URL --tasks N --interval SECONDS --output FILE`` writes JSON: ``ended``,
when it saw each task end in seconds since the epoch, by external id; and ``cpu``, the seconds of CPU that it took.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from kling_flows.upstream.constants import SANDBOX_API_KEY, STANDARD_SUCCEEDED, StatusWord

#: What an external id begins with, so that nobody takes these tasks for the product's.
PREFIX: Final = "plain-"

#: One model, as each dialect names it.
_LEGACY_MODEL: Final = "kling-v3"
_STANDARD_MODEL: Final = "kling-3.0"
_CALLS_IN_FLIGHT: Final = 64
_ENDED: Final = (StatusWord.SUCCEED, STANDARD_SUCCEEDED, StatusWord.FAILED)


class PlainPoller:
    """One loop per task.

    Args:
        client: Of the provider.
        dialect: ``legacy`` or ``standard``.
        interval: Seconds between two looks at a task.
    """

    def __init__(self, client: httpx.AsyncClient, dialect: str, interval: float) -> None:
        self.ended: dict[str, float] = {}
        self._client = client
        self._standard = dialect == "standard"
        self._interval = interval
        self._creating = asyncio.Semaphore(_CALLS_IN_FLIGHT)

    async def make(self, number: int) -> None:
        """Create a task and look at it until it has ended."""
        external = f"{PREFIX}{number}"
        async with self._creating:
            task_id = await self._create(f"Number {number} of many paper boats on a river at dusk", external)
        while await self._status(task_id) not in _ENDED:
            await asyncio.sleep(self._interval)
        self.ended[external] = time.time()

    async def _create(self, prompt: str, external: str) -> str:
        if self._standard:
            body = {"prompt": prompt, "options": {"external_task_id": external}}
            return (await self._data("POST", f"/text-to-video/{_STANDARD_MODEL}", json=body))["id"]
        body = {"model_name": _LEGACY_MODEL, "prompt": prompt, "external_task_id": external}
        return (await self._data("POST", "/v1/videos/text2video", json=body))["task_id"]

    async def _status(self, task_id: str) -> str:
        if self._standard:
            [task] = await self._data("GET", "/tasks", params={"task_ids": task_id})
            return task["status"]
        return (await self._data("GET", f"/v1/videos/text2video/{task_id}"))["task_status"]

    async def _data(self, method: str, path: str, **more: Any) -> Any:
        return (await self._client.request(method, path, **more)).raise_for_status().json()["data"]


async def _run(options: argparse.Namespace) -> dict[str, float]:
    headers = {"Authorization": f"Bearer {SANDBOX_API_KEY}"}
    limits = httpx.Limits(max_connections=_CALLS_IN_FLIGHT)
    async with httpx.AsyncClient(
        base_url=options.url, headers=headers, limits=limits, timeout=60, trust_env=False
    ) as client:
        poller = PlainPoller(client, options.dialect, options.interval)
        async with asyncio.TaskGroup() as group:
            for number in range(options.tasks):
                group.create_task(poller.make(number))
    return poller.ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the tasks and write when each was seen to end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plain_poller")
    parser.add_argument("url")
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--dialect", choices=("legacy", "standard"), default="legacy")
    parser.add_argument("--interval", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    ended = asyncio.run(_run(options))
    part = options.output.with_suffix(".part")
    part.write_text(json.dumps({"ended": ended, "cpu": time.process_time()}))
    part.rename(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
