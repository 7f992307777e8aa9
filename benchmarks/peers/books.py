"""What the sandbox has written down, by job: a job is recognised by its prompt, which everybody passes on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from benchmarks.books import READS

#: A job's id, as it stands in its prompt.
_JOB: Final = re.compile(r"\bjob-\d+\b")

_CALL_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Charge:
    """One paid video.

    Args:
        at: When the order was accepted, in seconds since the epoch.
        finished: When the video was there, in seconds since the epoch; None if it was not.
    """

    at: float
    finished: float | None


@dataclass(frozen=True, slots=True)
class Counts:
    """The sandbox's counters at one moment.

    Args:
        creates: Calls that create a task.
        reads: Calls that ask how tasks are.
        downloads: Calls for a video.
        tasks: Tasks that there are.
        in_flight: Those that have not ended.
        bytes_served: Bytes of videos sent.
    """

    creates: int
    reads: int
    downloads: int
    tasks: int
    in_flight: int
    bytes_served: int

    @classmethod
    def of(cls, stats: Mapping[str, Any]) -> Counts:
        """Those of ``GET /sandbox/stats``."""
        calls, tasks = stats["calls"], stats["tasks"]
        return cls(
            creates=calls["create"],
            reads=sum(calls[kind] for kind in READS),
            downloads=calls["download"],
            tasks=sum(tasks.values()),
            in_flight=tasks["submitted"] + tasks["processing"],
            bytes_served=stats["bytes_served"],
        )


class SandboxBooks:
    """Reads one sandbox.

    Args:
        client: With the sandbox's own URL.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def counts(self) -> Counts:
        """The counters."""
        return Counts.of(await self._read("stats"))

    async def charges(self) -> Mapping[str, Sequence[Charge]]:
        """All charges by job, in the order of acceptance."""
        charges = (await self._read("charges"))["charges"]
        tasks = (await self._read("tasks"))["tasks"]
        return charges_by_job(charges, tasks)

    async def misbehave(self, rules: Sequence[Mapping[str, object]]) -> None:
        """Put these fault rules in force."""
        (await self._client.put("/sandbox/faults", json=list(rules))).raise_for_status()

    async def _read(self, name: str) -> Any:
        answer = await self._client.get(f"/sandbox/{name}", timeout=_CALL_SECONDS)
        return answer.raise_for_status().json()


def charges_by_job(
    charges: Sequence[Mapping[str, Any]], tasks: Sequence[Mapping[str, Any]]
) -> Mapping[str, Sequence[Charge]]:
    """What was paid, by job.

    Args:
        charges: Of ``GET /sandbox/charges``.
        tasks: Of ``GET /sandbox/tasks``.
    """
    ends = {task["task_id"]: task["finished_at_ms"] for task in tasks}
    found: dict[str, list[Charge]] = {}
    for charge in charges:
        job = _JOB.search(charge["prompt"])
        if job is not None and not charge["refunded"]:
            end = ends.get(charge["task_id"])
            found.setdefault(job[0], []).append(Charge(charge["created_at"] / 1_000, end and end / 1_000))
    return found
