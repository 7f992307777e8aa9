"""Dispatch in this process: flow runs as asyncio tasks, and as many video tasks in one as have come to wait.

A flow run costs Prefect's server some 30 ms of CPU and each task run as much again. While the system is calm every
video task has a run of its own. When tasks queue up faster than runs start, a start takes all that wait into one run
of the batch flow, as group commit does with transactions: no latency is added when idle, and the price per video falls
as the load grows.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any, Final
from uuid import UUID

import structlog
from prefect import get_client
from prefect.exceptions import CancelledRun, CrashedRun, ObjectNotFound
from prefect.states import Crashed

from kling_flows.engine.engine import Engine
from kling_flows.engine.retries import REDISPATCH_SECONDS
from kling_flows.engine.session import engine_session, flow_started
from kling_flows.errors import KlingFlowsError, LedgerUnavailable
from kling_flows.flows import text_to_video, text_to_videos
from kling_flows.flows.names import batch_run_name, run_name
from kling_flows.ledger import VideoTask
from kling_flows.runner.prefect_client import planned_run_name

log = structlog.get_logger(__name__)

#: Seconds until a task whose run has failed for a reason of Prefect's is started again.
_PREFECT_FAILED_SECONDS: Final = 5.0

#: The runner's requests were checked when they came in.
_one = text_to_video.with_options(validate_parameters=False)
_many = text_to_videos.with_options(validate_parameters=False)


class InProcessDispatch:
    """Starts flow runs for claimed video tasks, one start at a time.

    Args:
        engine: Holds the tasks.
        group_limit: Most video tasks in one flow run.
    """

    def __init__(self, engine: Engine, group_limit: int) -> None:
        self._engine = engine
        self._group_limit = group_limit
        self._waiting: deque[VideoTask] = deque()
        self._arrived = asyncio.Event()
        self._runs: dict[asyncio.Task[None], Sequence[str]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        """Video tasks that wait for their start or are carried."""
        return len(self._waiting) + sum(len(ids) for ids in self._runs.values())

    def put(self, tasks: Sequence[VideoTask]) -> None:
        """Take claimed tasks in."""
        self._waiting.extend(tasks)
        if tasks:
            self._arrived.set()

    async def run(self) -> None:
        """Start flow runs until cancelled."""
        while True:
            await self._arrived.wait()
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._group_limit))]
            if not self._waiting:
                self._arrived.clear()
            self._close_earlier_runs(group)
            await self._start(group)

    async def drain(self, seconds: float) -> None:
        """Let the runs come to a safe point, then end those that have not within so many seconds."""
        runs = set(self._runs)
        if runs:
            _, late = await asyncio.wait(runs, timeout=seconds)
            for run in late:
                run.cancel()
            if late:
                await asyncio.wait(late, timeout=seconds)
        for closing in self._closing:
            closing.cancel()

    async def _start(self, group: Sequence[VideoTask]) -> None:
        ids = [task.id for task in group]
        call: Coroutine[Any, Any, Any] = (
            _one(group[0].request, task_id=ids[0]) if len(group) == 1 else _many(task_ids=ids)
        )
        planned_run_name.set(run_name(ids[0]) if len(ids) == 1 else batch_run_name(ids))
        started = asyncio.Event()
        run = asyncio.create_task(self._carry(call, ids, started), name=f"flow-run/{ids[0]}")
        self._runs[run] = ids
        run.add_done_callback(lambda done: self._runs.pop(done, None))
        waiting = asyncio.create_task(started.wait())
        try:
            await asyncio.wait({run, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()

    async def _carry(self, call: Coroutine[Any, Any, Any], ids: Sequence[str], started: asyncio.Event) -> None:
        delay = REDISPATCH_SECONDS
        try:
            async with engine_session(self._engine):
                flow_started.set(started)
                await call
        except (CancelledRun, CrashedRun) as ended:
            log.info("flow run ended early", video_tasks=len(ids), reason=str(ended))
        except KlingFlowsError as error:
            log.info("flow run failed", video_tasks=len(ids), first=ids[0], reason=error.reason, error=error.message)
        except Exception as error:
            # Prefect's own trouble: the tasks are where they were, and the ledger knows where that is.
            log.warning("flow run could not be kept", video_tasks=len(ids), error=f"{type(error).__name__}: {error}")
            delay = _PREFECT_FAILED_SECONDS
        finally:
            await asyncio.shield(self._give_back(ids, delay))

    async def _give_back(self, ids: Sequence[str], delay: float) -> None:
        # Whatever is neither final nor carried on has to be started again, by whoever comes first.
        while True:
            try:
                held = (await self._engine.ledger.held_by(self._engine.runner_id)).intersection(ids)
                if held:
                    await self._engine.ledger.release_after(sorted(held), self._engine.runner_id, delay)
                return
            except LedgerUnavailable as error:
                log.warning("tasks cannot be given back yet", video_tasks=len(ids), error=error.message)
                await asyncio.sleep(1.0)

    def _close_earlier_runs(self, group: Sequence[VideoTask]) -> None:
        earlier = {task.flow_run.id for task in group if task.flow_run is not None}
        if earlier:
            closing = asyncio.create_task(_close_as_crashed(sorted(earlier)))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


async def _close_as_crashed(flow_run_ids: Sequence[str]) -> None:
    """Tell Prefect what it cannot see: whoever ran these runs is gone, and others carry the video tasks on."""
    async with get_client() as client:
        for flow_run_id in flow_run_ids:
            try:
                run = await client.read_flow_run(UUID(flow_run_id))
                if run.state is None or not run.state.is_final():
                    crashed = Crashed(message="its runner is gone; another flow run carries the video tasks on")
                    await client.set_flow_run_state(UUID(flow_run_id), crashed, force=True)
            except ObjectNotFound:
                continue
            except Exception as error:
                log.warning("an earlier flow run cannot be closed", flow_run=flow_run_id, error=str(error))
