"""Watches what people do to flow runs in Prefect's UI, and has it mean something.

There is no worker behind an in-process run that would act on a cancel or a retry. So the runner looks, one or two cheap
calls a tick: a cancel cancels the run's video tasks in the ledger, a retry carries them on in the same flow run. The
same calls tell whether Prefect is there at all.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import httpx
import structlog
from prefect import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled, Crashed, Pending

from kling_flows.engine.engine import Engine
from kling_flows.errors import LedgerUnavailable
from kling_flows.flows import text_to_video, text_to_videos
from kling_flows.flows.runs import (
    CALL_SECONDS,
    CANCELLED_IN_PREFECT,
    IDS_PER_CALL,
    cancel_video_tasks,
    ending_state,
    known_video_tasks,
    show,
)
from kling_flows.ledger import State
from kling_flows.runner.dispatch import InProcessDispatch
from kling_flows.runner.prefect_health import PrefectHealth
from kling_flows.runner.prefect_runs import EarlierRuns

log = structlog.get_logger(__name__)

#: Seconds between two looks: while Prefect has not answered yet, while runs are carried, and otherwise.
_FIRST_SECONDS: Final = 0.25
_BUSY_SECONDS: Final = 2.5
_IDLE_SECONDS: Final = 5.0

#: Seconds between looks for runs that nobody carries, and how old their state has to be.
_SWEEP_SECONDS: Final = 30.0
_FORGOTTEN: Final = timedelta(seconds=30)

_OUR_FLOWS: Final = FlowFilter(name=FlowFilterName(any_=[text_to_video.name, text_to_videos.name]))


class PrefectWatch:
    """Run :meth:`run` in the context of the shared Prefect client.

    Args:
        engine: Holds the tasks.
        dispatch: Knows which runs are carried here, and resumes retried ones.
        health: Told of every answer and of every failure.
        earlier: Asked to go on whenever Prefect answers.
    """

    def __init__(
        self, engine: Engine, dispatch: InProcessDispatch, health: PrefectHealth, earlier: EarlierRuns
    ) -> None:
        self._engine = engine
        self._dispatch = dispatch
        self._health = health
        self._earlier = earlier
        self._swept = 0.0

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self._tick()
            if not self._health.known.is_set():
                await asyncio.sleep(_FIRST_SECONDS)
            else:
                await asyncio.sleep(_BUSY_SECONDS if self._dispatch.in_flight else _IDLE_SECONDS)

    async def _tick(self) -> None:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                runs = await self._look()
        except Exception as error:
            self._health.failed(f"{type(error).__name__}: {error}")
            return
        if self._health.answered():
            self._swept = 0.0
        try:
            await self._earlier.settle_rest()
            for run in runs:
                await self._act(run)
            if time.monotonic() - self._swept >= _SWEEP_SECONDS:
                await self._sweep()
                self._swept = time.monotonic()
        except LedgerUnavailable as error:
            # Whatever was not done is seen again at the next look.
            log.warning("what was asked for in Prefect has to wait", error=error.message)
        except (TimeoutError, httpx.HTTPError) as error:
            log.info("what was asked for in Prefect has to wait", error=f"{type(error).__name__}: {error}")
        except Exception:
            # Without this loop nobody would notice a cancel any more.
            log.exception("Prefect's flow runs cannot be looked after")

    async def _look(self) -> list[FlowRun]:
        carried = [UUID(flow_run_id) for flow_run_id in self._dispatch.carried]
        runs = await _read(StateType.CANCELLING, StateType.SCHEDULED)
        for begin in range(0, len(carried), IDS_PER_CALL):
            runs += await _read(StateType.CANCELLED, ids=FlowRunFilterId(any_=carried[begin : begin + IDS_PER_CALL]))
        return runs

    async def _act(self, run: FlowRun) -> None:
        if run.state is None:
            return
        if run.state.is_scheduled():
            await self._resume(run)
        else:
            await self._cancel(run)

    async def _cancel(self, run: FlowRun) -> None:
        carried = self._dispatch.carried.get(str(run.id))
        if run.state is None or (carried.cancelled if carried else run.state.is_cancelled()):
            # Done already; or it has ended since the look, and whoever takes its tasks up looks at it again.
            return
        tasks = await known_video_tasks(self._engine, run)
        if not tasks:
            # Of another ledger, or cancelled before it has made its video task: that is up to whoever runs it.
            return
        tasks = await cancel_video_tasks(self._engine.ledger, [task.id for task in tasks])
        log.info("cancelled in Prefect", flow_run=str(run.id), video_tasks=len(tasks))
        if carried is not None:
            carried.cancelled = True
        if run.state.is_cancelling():
            whole = any(task.state is State.CANCELLED for task in tasks)
            await show(run.id, Cancelled(message=CANCELLED_IN_PREFECT) if whole else ending_state(tasks))

    async def _resume(self, run: FlowRun) -> None:
        if run.state is None or run.empirical_policy.retry_type == "in_process":
            # Whoever runs it repeats it there.
            return
        due = run.state.state_details.scheduled_time
        if due is not None and due > datetime.now(UTC):
            return
        tasks = await known_video_tasks(self._engine, run)
        if not tasks:
            return
        async with asyncio.timeout(CALL_SECONDS), get_client() as client:
            # Exclusive: of several runners one is answered with ACCEPT.
            answer = await client.set_flow_run_state(run.id, Pending(message="taken up by a runner"))
        if answer.status is not SetStateStatus.ACCEPT:
            return
        if self._dispatch.carries(task.id for task in tasks):
            await show(run.id, Crashed(message="another flow run carries the video tasks on already"))
            return
        log.info("retried in Prefect", flow_run=str(run.id), video_tasks=len(tasks))
        await self._dispatch.resume(run, tasks)

    async def _sweep(self) -> None:
        """Close runs that nobody ends any more: their runner is gone, or could not tell Prefect of the end."""
        not_ours = FlowRunFilterId(not_any_=[UUID(flow_run_id) for flow_run_id in self._dispatch.carried])
        async with asyncio.timeout(CALL_SECONDS):
            runs = await _read(StateType.RUNNING, StateType.PENDING, ids=not_ours)
        long_ago = datetime.now(UTC) - _FORGOTTEN
        for run in runs:
            if run.state is None or run.state.timestamp > long_ago or str(run.id) in self._dispatch.carried:
                continue
            tasks = await known_video_tasks(self._engine, run)
            if not tasks:
                continue
            if all(not task.active and task.end_time is not None and task.end_time < long_ago for task in tasks):
                await show(run.id, ending_state(tasks))
            elif all(task.flow_run is not None and task.flow_run.id != str(run.id) for task in tasks):
                await show(run.id, Crashed(message="another flow run carries the video tasks on"))


async def _read(*types: StateType, ids: FlowRunFilterId | None = None) -> list[FlowRun]:
    # Runs of a deployment have a worker that acts on what is done to them.
    wanted = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))),
        deployment_id=FlowRunFilterDeploymentId(is_null_=True),
        id=ids,
    )
    async with get_client() as client:
        return await client.read_flow_runs(
            flow_filter=_OUR_FLOWS, flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=IDS_PER_CALL
        )
