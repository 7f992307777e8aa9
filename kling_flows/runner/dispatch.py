"""Dispatch in this process: flow runs as asyncio tasks, and as many video tasks in one as have come to wait.

A flow run costs Prefect's server some 30 ms of CPU and each task run as much again. While the system is calm every
video task has a run of its own. When tasks queue up faster than runs start, or than `StartPace` lets them, a start
takes all that wait into one run of the batch flow, as group commit does with transactions: no latency is added when
idle, and the price per video falls as the load grows.

Prefect is allowed to fail: the ledger holds the tasks, and while Prefect is away they are carried without flow runs, so
that paid videos are archived before they expire.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Abort, CancelledRun, CrashedRun, FailedRun, Pause
from prefect.flow_engine import run_flow_async
from prefect.utilities.callables import get_call_parameters

from kling_flows.engine.carry import carry
from kling_flows.engine.engine import Engine
from kling_flows.engine.retries import REDISPATCH_SECONDS
from kling_flows.engine.session import engine_session, flow_started
from kling_flows.engine.tracing import trace_of
from kling_flows.errors import KlingFlowsError
from kling_flows.flows import text_to_video, text_to_videos
from kling_flows.flows.names import batch_run_name, run_name
from kling_flows.ledger import VideoTask
from kling_flows.runner.give_back import give_back
from kling_flows.runner.pace import StartPace
from kling_flows.runner.prefect_client import PlannedRun, planned_run
from kling_flows.runner.prefect_health import LATE_START_SECONDS, PrefectHealth
from kling_flows.runner.prefect_runs import EarlierRuns
from kling_flows.shown.words import tags_of
from kling_flows.telemetry.spans import Span, span
from kling_flows.telemetry.trace_context import TraceContext

log = structlog.get_logger(__name__)

#: Seconds until a task whose run has failed for a reason of Prefect's is started again.
_PREFECT_FAILED_SECONDS: Final = 5.0

#: The runner's requests were checked when they came in.
_one = text_to_video.with_options(validate_parameters=False)
_many = text_to_videos.with_options(validate_parameters=False)


@dataclass(slots=True)
class _Carrying:
    # One asyncio task and the video tasks that it carries; without a flow run if it has none planned.
    ids: Sequence[str]
    traces: Sequence[TraceContext]
    planned: PlannedRun | None = None
    started: asyncio.Event = field(default_factory=asyncio.Event)


class InProcessDispatch:
    """Starts flow runs for claimed video tasks, one start at a time.

    Args:
        engine: Holds the tasks.
        group_limit: Most video tasks in one flow run.
        health: Says whether flow runs can be started, and is told when one could not.
        earlier: Asked before tasks are carried on that had a flow run already.
    """

    def __init__(self, engine: Engine, group_limit: int, health: PrefectHealth, earlier: EarlierRuns) -> None:
        self._engine = engine
        self._group_limit = group_limit
        self._health = health
        self._earlier = earlier
        self._waiting: deque[VideoTask] = deque()
        # Taken out of those that wait, and not yet launched.
        self._starting: Sequence[VideoTask] = ()
        self._arrived = asyncio.Event()
        self._pace = StartPace()
        self._runs: dict[asyncio.Task[None], _Carrying] = {}

    @property
    def runner_id(self) -> str:
        """Under whose lease tasks are claimed."""
        return self._engine.runner_id

    @property
    def room(self) -> int:
        """How many more video tasks may be claimed."""
        return self._engine.settings.max_in_flight - self.in_flight

    @property
    def in_flight(self) -> int:
        """Video tasks that wait for their start or are carried."""
        # A copy, because metrics ask from another thread.
        return len(self._waiting) + len(self._starting) + sum(len(run.ids) for run in list(self._runs.values()))

    @property
    def carried(self) -> Mapping[str, PlannedRun]:
        """The flow runs that are carried here, by id."""
        planned = (run.planned for run in self._runs.values() if run.ids)
        return {str(run.id): run for run in planned if run is not None and run.id is not None}

    def carries(self, ids: Iterable[str]) -> bool:
        """Whether one of these video tasks is carried here, or waits for its start."""
        return not set(ids).isdisjoint(self._carried_ids() | {task.id for task in (*self._waiting, *self._starting)})

    def put(self, tasks: Sequence[VideoTask]) -> None:
        """Take claimed tasks in."""
        # One that is carried already was given back and taken up again by a retry in Prefect.
        carried = self._carried_ids()
        self._waiting.extend(task for task in tasks if task.id not in carried)
        if self._waiting:
            self._arrived.set()

    async def run(self) -> None:
        """Start flow runs until cancelled."""
        while True:
            await self._arrived.wait()
            if not self._health.away:
                # What arrives meanwhile shares the run.
                await asyncio.sleep(self._pace.delay())
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._group_limit))]
            if not self._waiting:
                self._arrived.clear()
            self._starting = group
            gone = await self._earlier.settle(group, now=not self._health.away)
            self._starting = ()
            group = [task for task in group if task.id not in gone]
            if group:
                await self._start(group)

    async def resume(self, flow_run: FlowRun, tasks: Sequence[VideoTask]) -> None:
        """Carry video tasks on in a flow run that exists and is Pending; returns when it has started."""
        ids = [task.id for task in tasks]
        if len(ids) == 1:
            parameters = get_call_parameters(_one.fn, (tasks[0].request, ids[0]), {})
            call = run_flow_async(_one, flow_run=flow_run, parameters=parameters)
        else:
            parameters = get_call_parameters(_many.fn, (None, ids), {})
            call = run_flow_async(_many, flow_run=flow_run, parameters=parameters)
        await self._flow_run(call, tasks, PlannedRun(flow_run.name, id=flow_run.id))

    async def drain(self, seconds: float) -> None:
        """Let the runs come to a safe point, then end those that have not within so many seconds."""
        runs = set(self._runs)
        if runs:
            _, late = await asyncio.wait(runs, timeout=seconds)
            for run in late:
                run.cancel()
            if late:
                await asyncio.wait(late, timeout=seconds)

    async def _start(self, group: Sequence[VideoTask]) -> None:
        ids = [task.id for task in group]
        tags = sorted({tag for task in group for tag in tags_of(task)})
        if self._health.away:
            self._go_without(group)
        elif len(ids) == 1:
            await self._flow_run(_one(group[0].request, task_id=ids[0]), group, PlannedRun(run_name(ids[0]), tags=tags))
        else:
            await self._flow_run(_many(task_ids=ids), group, PlannedRun(batch_run_name(ids), tags=tags))

    async def _flow_run(self, call: Coroutine[Any, Any, Any], tasks: Sequence[VideoTask], planned: PlannedRun) -> None:
        run = _Carrying([task.id for task in tasks], _traces(tasks), planned)
        self._engine.measures.flow_run_started("single" if len(tasks) == 1 else "batch", len(tasks))
        task = self._launch(call, run)
        waiting = asyncio.create_task(run.started.wait())
        try:
            await asyncio.wait({task, waiting}, timeout=LATE_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if run.started.is_set() or task.done():
            return
        # Not a line of the flow has run, so that nothing is in the air; Prefect may take a while to let go of it.
        self._health.start_failed(f"a flow run did not start within {LATE_START_SECONDS:.0f} s")
        run.ids = ()
        task.cancel()
        self._go_without(tasks)

    def _go_without(self, tasks: Sequence[VideoTask]) -> None:
        for task in tasks:
            self._engine.measures.flow_run_started("without", 1)
            self._launch(carry(self._engine, task.id, None), _Carrying((task.id,), _traces((task,))))

    def _launch(self, call: Coroutine[Any, Any, Any], run: _Carrying) -> asyncio.Task[None]:
        task = asyncio.create_task(self._carry(call, run), name=f"carry/{run.ids[0]}")
        self._runs[task] = run
        task.add_done_callback(lambda done: self._runs.pop(done, None))
        return task

    async def _carry(self, call: Coroutine[Any, Any, Any], run: _Carrying) -> None:
        delay = REDISPATCH_SECONDS
        facts = {"video_tasks": len(run.ids), "first": run.ids[0]}
        try:
            async with engine_session(self._engine):
                if run.planned is not None:
                    planned_run.set(run.planned)
                flow_started.set(run.started)
                with _span_of(run):
                    await call
        except (CancelledRun, CrashedRun, FailedRun, Abort, Pause) as ended:
            log.info("flow run ended without a video", **facts, reason=str(ended))
        except KlingFlowsError as error:
            log.info("video tasks could not be carried on", **facts, reason=error.reason, error=error.message)
        except Exception as error:
            # Prefect's own trouble: the tasks are where they were, and the ledger knows where that is.
            words = f"{type(error).__name__}: {error}"
            if run.planned is not None and not run.started.is_set():
                self._health.start_failed(words)
            elif self._health.away:
                log.debug("flow run could not be kept", **facts, error=words)
            else:
                log.warning("flow run could not be kept", **facts, error=words)
            delay = _PREFECT_FAILED_SECONDS
        finally:
            await asyncio.shield(give_back(self._engine, run.ids, delay))

    def _carried_ids(self) -> set[str]:
        return {task_id for run in self._runs.values() for task_id in run.ids}


def _traces(tasks: Iterable[VideoTask]) -> list[TraceContext]:
    return [place for place in map(trace_of, tasks) if place is not None]


def _span_of(run: _Carrying) -> AbstractContextManager[Span]:
    """One video task's run is a part of its trace; a batch is in none of its tasks' traces, and linked with all."""
    name = "carry" if run.planned is None else "flow run"
    attributes = {} if run.planned is None else {"kling_flows.flow_run": run.planned.name}
    if len(run.ids) > 1:
        return span(name, root=True, links=run.traces, attributes=attributes)
    return span(name, parent=next(iter(run.traces), None), root=True, attributes=attributes)
