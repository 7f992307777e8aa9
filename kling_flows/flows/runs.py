"""What flow runs have to do with video tasks: which they carry, and how they end.

Flow-run state is never read to learn what was spent: that is in the ledger alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import structlog
from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.objects import State as PrefectState
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed, Failed

from kling_flows.engine.cancel import cancelled
from kling_flows.engine.engine import Engine
from kling_flows.errors import VideoTaskNotFound
from kling_flows.ledger import Ledger, State, VideoTask
from kling_flows.shown.words import tenants_of
from kling_flows.steps import known_task

log = structlog.get_logger(__name__)

#: Longest conversation with Prefect before something is done without it, in seconds.
CALL_SECONDS: Final = 5.0

#: Most flow runs that one call asks for: Prefect answers with 200 at most.
IDS_PER_CALL: Final = 200

#: Why a task or a run has ended that somebody cancelled there.
CANCELLED_IN_PREFECT: Final = "cancelled in Prefect"


def video_task_ids(run: FlowRun) -> list[str]:
    """The video tasks of a run of one of our flows, as its parameters name them."""
    parameters: Mapping[str, Any] = run.parameters
    if "request" in parameters:
        return [str(parameters.get("task_id") or f"vt-{run.id}")]
    new = [f"vt-{run.id}-{number}" for number in range(len(parameters.get("requests") or ()))]
    return [*new, *map(str, parameters.get("task_ids") or ())]


async def known_video_tasks(engine: Engine, run: FlowRun) -> list[VideoTask]:
    """Those of a run's video tasks that are in the engine's ledger."""
    return await video_tasks_in(engine.ledger, run, engine.settings.tenant)


async def video_tasks_in(ledger: Ledger, run: FlowRun, tenant: str) -> list[VideoTask]:
    """Those of a run's video tasks that are in a ledger.

    Args:
        ledger: The ledger.
        run: Names them by their ids there, or as a tenant does: this one, or one that the run's tags tell of.
        tenant: The tenant of this process.
    """
    tenants = dict.fromkeys((tenant, *tenants_of(run.tags)))
    named = [await known_task(ledger, name, tenants, str(run.id)) for name in video_task_ids(run)]
    return list({task.id: task for task in named if task is not None}.values())


async def cancel_video_tasks(ledger: Ledger, ids: Iterable[str]) -> list[VideoTask]:
    """Cancel those that have not ended; returns all of them that are in this ledger, as they are then."""

    def change(before: VideoTask) -> VideoTask:
        return before if before.state.final else cancelled(before, CANCELLED_IN_PREFECT)

    tasks: list[VideoTask] = []
    for task_id in ids:
        try:
            tasks.append(await ledger.advance(task_id, change))
        except VideoTaskNotFound:
            continue
    return tasks


def ending_state(tasks: Sequence[VideoTask]) -> PrefectState[Any]:
    """How a run of video tasks that have all ended is shown."""
    states = {task.state for task in tasks}
    if State.SUCCEEDED in states:
        return Completed(message=f"{sum(task.state is State.SUCCEEDED for task in tasks)} of {len(tasks)} SUCCEEDED")
    words = next((task.error.message for task in tasks if task.error is not None), "ended without a video")
    return Cancelled(message=words) if states == {State.CANCELLED} else Failed(message=words)


async def show(flow_run_id: UUID, state: PrefectState[Any]) -> None:
    """Set what Prefect shows of a run; one that was deleted stays so."""
    async with asyncio.timeout(CALL_SECONDS), get_client() as client:
        try:
            await client.set_flow_run_state(flow_run_id, state, force=True)
        except ObjectNotFound:
            log.debug("a flow run is no longer there", flow_run=str(flow_run_id))
