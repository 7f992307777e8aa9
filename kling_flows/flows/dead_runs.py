"""Flow runs that nobody will ever end: the process that carried them is gone."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.runtime import flow_run as runtime
from prefect.states import Crashed

from kling_flows.engine.engine import Engine
from kling_flows.flows.runs import CALL_SECONDS, IDS_PER_CALL, ending_state, known_video_tasks, show
from kling_flows.ledger import VideoTask

_OURS = FlowFilter(name=FlowFilterName(any_=["text-to-video", "text-to-videos"]))


async def close_dead_runs(engine: Engine, age: timedelta) -> list[str]:
    """Close our flow runs that say that they run, and whose video tasks have ended or go on elsewhere.

    Args:
        engine: Knows the video tasks.
        age: A run whose state is younger is left alone, and so is one whose tasks have ended for less.

    Returns:
        The names of the closed runs.
    """
    long_ago = datetime.now(UTC) - age
    closed: list[str] = []
    for run in await _running():
        if run.state is None or run.state.timestamp > long_ago:
            continue
        tasks = await known_video_tasks(engine, run)
        if not tasks:
            # Of another ledger, or it has not made its video task yet.
            continue
        if all(_ended_before(task, long_ago) for task in tasks):
            await show(run.id, ending_state(tasks))
        elif all(task.flow_run is not None and task.flow_run.id != str(run.id) for task in tasks):
            await show(run.id, Crashed(message="another flow run carries the video tasks on"))
        else:
            continue
        closed.append(run.name)
    return closed


def _ended_before(task: VideoTask, moment: datetime) -> bool:
    return not task.active and task.end_time is not None and task.end_time < moment


async def _running() -> list[FlowRun]:
    this = runtime.get_id()
    wanted = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])),
        id=FlowRunFilterId(not_any_=[UUID(this)]) if this else None,
    )
    runs: list[FlowRun] = []
    async with get_client() as client:
        while True:
            async with asyncio.timeout(CALL_SECONDS):
                page = await client.read_flow_runs(
                    flow_filter=_OURS,
                    flow_run_filter=wanted,
                    sort=FlowRunSort.EXPECTED_START_TIME_ASC,
                    limit=IDS_PER_CALL,
                    offset=len(runs),
                )
            runs += page
            if len(page) < IDS_PER_CALL:
                return runs
