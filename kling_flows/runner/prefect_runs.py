"""What people did to flow runs in Prefect, and what becomes of those whose runner is gone.

Flow-run state is read for one purpose: to learn what a person wants. What was spent is in the ledger alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import structlog
from prefect import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled, Crashed

from kling_flows.engine.engine import Engine
from kling_flows.errors import LedgerUnavailable
from kling_flows.flows.runs import CALL_SECONDS, CANCELLED_IN_PREFECT, IDS_PER_CALL, cancel_video_tasks, show
from kling_flows.ledger import VideoTask

log = structlog.get_logger(__name__)


async def read_runs(ids: Sequence[str], *types: StateType) -> list[FlowRun]:
    """Those of the flow runs that Prefect knows; with ``types`` those that are in such a state."""
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))) if types else None
    runs: list[FlowRun] = []
    async with get_client() as client:
        for begin in range(0, len(ids), IDS_PER_CALL):
            wanted = [UUID(flow_run_id) for flow_run_id in ids[begin : begin + IDS_PER_CALL]]
            runs += await client.read_flow_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=wanted), state=state),
                # Prefect's client sends null for what is not given here, and its server refuses that.
                sort=FlowRunSort.EXPECTED_START_TIME_ASC,
                limit=IDS_PER_CALL,
            )
    return runs


class EarlierRuns:
    """Looks at the runs that carried video tasks before, whose runner is gone, and closes them.

    Args:
        engine: Holds the tasks.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # What Prefect could not be asked about, by flow run.
        self._open: dict[str, list[str]] = {}

    async def settle(self, tasks: Sequence[VideoTask], *, now: bool) -> set[str]:
        """Look at the earlier runs of tasks that are about to be carried on; later, unless ``now``.

        Returns:
            The tasks that somebody has cancelled through their run meanwhile: they are CANCELLED now.
        """
        for task in tasks:
            if task.flow_run is not None:
                self._open.setdefault(task.flow_run.id, []).append(task.id)
        return await self.settle_rest() if now else set()

    async def settle_rest(self) -> set[str]:
        """Go on with what could not be settled before."""
        if not self._open:
            return set()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                runs = {str(run.id): run for run in await read_runs(list(self._open))}
        except Exception as error:
            log.info("earlier flow runs cannot be looked at yet", runs=len(self._open), error=repr(error))
            return set()
        gone: set[str] = set()
        for flow_run_id, ids in list(self._open.items()):
            run = runs.get(flow_run_id)
            state = None if run is None else run.state
            # A run of ours that ends CANCELLED leaves no task to carry on: this was somebody else.
            if state is not None and (state.is_cancelling() or state.is_cancelled()):
                try:
                    ended = await cancel_video_tasks(self._engine.ledger, ids)
                except LedgerUnavailable as error:
                    log.warning("a cancel in Prefect has to wait", flow_run=flow_run_id, error=error.message)
                    continue
                gone.update(task.id for task in ended if not task.active)
                log.info("cancelled in Prefect while no runner was there", flow_run=flow_run_id, video_tasks=len(ended))
            if run is None or (state is not None and state.is_final()):
                self._open.pop(flow_run_id, None)
            elif await _close(run, user_cancelled=state is not None and state.is_cancelling()):
                log.info("closed an earlier flow run", flow_run=flow_run_id)
                self._open.pop(flow_run_id, None)
        return gone


async def _close(run: FlowRun, *, user_cancelled: bool) -> bool:
    state = (
        Cancelled(message=CANCELLED_IN_PREFECT)
        if user_cancelled
        else Crashed(message="its runner is gone; another flow run carries the video tasks on")
    )
    try:
        await show(run.id, state)
    except Exception as error:
        log.warning("an earlier flow run cannot be closed yet", flow_run=str(run.id), error=repr(error))
        return False
    return True
