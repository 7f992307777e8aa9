"""One deployment of each flow, as `kling-flows deploy` makes them and as ``deployments/prefect.yaml`` lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from prefect import Flow

from kling_flows.flows import audit, reconcile, retention, text_to_video, text_to_videos

#: Of every deployment of ours.
TAG: Final = "kling-flows"

#: The type of work pool whose workers run many flow runs in one process.
OUR_TYPE: Final = "kling-flows"

#: How many flow runs a pool of another type carries at a time; each takes some 90 MiB with a stock process worker.
POOL_LIMIT: Final = 20


class Queue(StrEnum):
    """The work queues of the pool, by what goes first."""

    VIDEOS = "videos"
    BATCHES = "batches"
    UPKEEP = "upkeep"


#: 1 goes first.
PRIORITIES: Final[Mapping[Queue, int]] = {Queue.VIDEOS: 1, Queue.BATCHES: 2, Queue.UPKEEP: 3}


@dataclass(frozen=True, slots=True)
class Planned:
    """A deployment.

    Args:
        flow: What runs.
        name: Behind the flow's name and a slash.
        description: For people.
        queue: Which work queue.
        cron: When, in UTC; None: when it is asked for.
        parameters: What is not as the flow has it by default.
        concurrency_limit: Most runs at a time; None: any.
        paused: The schedule waits until somebody starts it.
    """

    flow: Flow[..., Any]
    name: str
    description: str
    queue: Queue
    cron: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=lambda: dict[str, Any]())
    concurrency_limit: int | None = None
    paused: bool = False


DEPLOYMENTS: Final = (
    Planned(
        text_to_video,
        "on-demand",
        "One video. Start it from Prefect's page, the API or an automation.",
        Queue.VIDEOS,
    ),
    Planned(
        text_to_videos,
        "on-demand",
        "Many videos from a list or a table. The same table again makes only what is missing.",
        Queue.BATCHES,
        concurrency_limit=2,
    ),
    Planned(
        text_to_video,
        "daily",
        "One video every morning. Paused until somebody has read what it costs.",
        Queue.VIDEOS,
        cron="0 6 * * *",
        parameters={"request": {"prompt": "Morning mist over a quiet river, a paper boat drifts by", "duration": 5}},
        concurrency_limit=1,
        paused=True,
    ),
    Planned(
        reconcile,
        "hourly",
        "Adopts paid videos that the ledger missed, carries on what nobody carries, closes dead flow runs.",
        Queue.UPKEEP,
        cron="17 * * * *",
        parameters={"days": 2},
        concurrency_limit=1,
    ),
    Planned(
        retention,
        "nightly",
        "Fetches videos again that the archive has lost. Prunes nothing unless prune_after_days says so.",
        Queue.UPKEEP,
        cron="43 2 * * *",
        concurrency_limit=1,
    ),
    Planned(
        audit,
        "weekly",
        "Compares the provider's tasks with the ledger; fails if anything is amiss.",
        Queue.UPKEEP,
        cron="7 5 * * 1",
        concurrency_limit=1,
    ),
)
