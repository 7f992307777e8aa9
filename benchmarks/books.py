"""What the sandbox has written down: the provider's side of the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

#: Calls that ask the provider how tasks are.
READS: Final = ("get", "list")


@dataclass(frozen=True, slots=True)
class Books:
    """The sandbox's books at one moment.

    Args:
        calls: Calls since its start, by kind.
        charged: The external id of each charge, in the order of acceptance.
        finished: When each task ended, in seconds since the epoch, by external id.
    """

    calls: Mapping[str, int]
    charged: Sequence[str]
    finished: Mapping[str, float]


async def read_books(sandbox: str) -> Books:
    """Read the books of the sandbox at that URL."""
    async with httpx.AsyncClient(base_url=sandbox, trust_env=False, timeout=30) as client:

        async def read(name: str) -> Any:
            return (await client.get(f"/sandbox/{name}")).raise_for_status().json()

        stats, charges, tasks = await read("stats"), await read("charges"), await read("tasks")
    return Books(
        calls=stats["calls"],
        charged=[charge["external_task_id"] or "" for charge in charges["charges"]],
        finished={
            task["external_task_id"]: task["finished_at_ms"] / 1000
            for task in tasks["tasks"]
            if task["finished_at_ms"] is not None
        },
    )
