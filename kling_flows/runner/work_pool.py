"""Dispatch by a work pool: each claimed video task becomes a flow run of a deployment, for a worker to take.

The claim is the one of every runner, with its places, priorities and fairness, under a lease whose holder only hands
on (`HANDS_ON`): a task stays under it, with its place at the provider, until a worker takes it. A dispatcher that dies
frees what it held, and the next one hands it on again: the flow run's idempotency key is the video task's id, so that
the same run is found and not made twice.

A video task whose run has ended without it, or whose worker is gone, gets another run. Its key names the run that it
follows: the whole line of runs can be walked again after a crash at any point of it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Final
from uuid import UUID

import httpx
import structlog
from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from kling_flows.engine.engine import Engine
from kling_flows.engine.leases import LeaseKeeper
from kling_flows.engine.retries import REDISPATCH_SECONDS, redispatch_seconds
from kling_flows.errors import LeaseLost, LedgerUnavailable, VideoTaskNotFound
from kling_flows.flows.names import run_name
from kling_flows.flows.runs import CALL_SECONDS, cancel_video_tasks, ending_state, show
from kling_flows.ledger import VideoTask
from kling_flows.runner.dispatch import InProcessDispatch
from kling_flows.runner.prefect_health import AWAY_SECONDS, PrefectHealth
from kling_flows.runner.prefect_runs import EarlierRuns, read_runs
from kling_flows.runner.worker_runs import LEDGER_LABEL, runner_of
from kling_flows.shown.words import tags_of

log = structlog.get_logger(__name__)

#: Most video tasks that wait for a worker at a time: what comes later and is more urgent still goes before the rest.
_MOST_SENT: Final = 500

#: Seconds between two looks at which tasks were taken, and after which a run that was not is looked at itself.
_LOOK_SECONDS: Final = 2.0
_LATE_SECONDS: Final = 5.0

#: Seconds between two tries while Prefect or the ledger does not do what is asked.
_RETRY_SECONDS: Final = 1.0

#: Seconds between two complaints of the same kind.
_COMPLAIN_SECONDS: Final = 60.0

#: How long a run of a worker of another type may take from its start to the first step: it may pull an image first.
_UNHEARD: Final = timedelta(seconds=300)

#: Seconds after which a run that was interrupted is followed by the next one.
_INTERRUPTED_SECONDS: Final = 2.0


class _Fate(Enum):
    """What a flow run means for the video task that nobody has taken from here yet."""

    OPEN = auto()
    CANCELLED = auto()
    OVER = auto()
    DEAD = auto()


@dataclass(frozen=True, slots=True)
class _Sent:
    task: VideoTask
    flow_run: UUID
    since: float


class WorkPoolDispatch:
    """Makes flow runs of the deployment that the settings name, one at a time.

    Args:
        engine: Carries tasks itself only while Prefect is away.
        lease: Holds the tasks until a worker takes them.
        here: Carries tasks in this process while Prefect is away.
        health: Says whether flow runs can be made, and is told when one could not.
        earlier: Asked before tasks are handed on that had a flow run already.
    """

    def __init__(
        self, engine: Engine, lease: LeaseKeeper, here: InProcessDispatch, health: PrefectHealth, earlier: EarlierRuns
    ) -> None:
        self._engine = engine
        self._lease = lease
        self._here = here
        self._health = health
        self._earlier = earlier
        self._deployment: UUID | None = None
        self._waiting: deque[VideoTask] = deque()
        self._arrived = asyncio.Event()
        # The task that is being handed on.
        self._sending = 0
        self._sent: dict[str, _Sent] = {}
        self._failing_since: float | None = None
        self._complained: dict[str, float] = {}

    @property
    def runner_id(self) -> str:
        """Under whose lease tasks are claimed."""
        return self._lease.runner_id

    @property
    def in_flight(self) -> int:
        """Video tasks that wait to be taken by a worker, or are carried here."""
        return len(self._waiting) + self._sending + len(self._sent) + self._here.in_flight

    @property
    def room(self) -> int:
        """How many more video tasks may be claimed."""
        return min(self._engine.settings.max_in_flight, _MOST_SENT) - self.in_flight

    def put(self, tasks: Sequence[VideoTask]) -> None:
        """Take claimed tasks in."""
        for task in tasks:
            # Freed and claimed anew since it was handed on.
            self._sent.pop(task.id, None)
            self._waiting.append(task)
        if self._waiting:
            self._arrived.set()

    async def run(self) -> None:
        """Hand tasks on until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_forever(), name="work-pool-send")
            group.create_task(self._look_forever(), name="work-pool-look")
            group.create_task(self._here.run(), name="work-pool-here")

    async def drain(self, seconds: float) -> None:
        """End what is carried here; what waits for a worker goes on waiting, in nobody's hands."""
        await self._here.drain(seconds)

    async def _send_forever(self) -> None:
        while True:
            await self._arrived.wait()
            if self._health.away:
                await self._carry_here()
                await asyncio.sleep(0 if not self._waiting else _RETRY_SECONDS)
                continue
            task = self._waiting.popleft()
            if not self._waiting:
                self._arrived.clear()
            self._sending = 1
            try:
                await self._send(task)
                self._failing_since = None
            except ObjectNotFound:
                self._deployment = None
                self._complain(
                    "there is no such deployment; kling-flows deploy makes it",
                    deployment=self._engine.settings.work_pool_deployment,
                )
                await self._again(task)
            except LedgerUnavailable as error:
                self._complain("video tasks cannot be handed on yet", error=error.message)
                await self._again(task)
            except (TimeoutError, httpx.HTTPError) as error:
                self._failed(f"{type(error).__name__}: {error}")
                await self._again(task)
            finally:
                self._sending = 0

    async def _again(self, task: VideoTask) -> None:
        self._waiting.appendleft(task)
        self._sending = 0
        self._arrived.set()
        await asyncio.sleep(_RETRY_SECONDS)

    def _failed(self, error: str) -> None:
        # It may be that Prefect answers looks and still makes no flow run.
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        elif now - self._failing_since >= AWAY_SECONDS:
            self._health.start_failed(error)
        self._complain("a flow run could not be made", error=error)

    async def _send(self, task: VideoTask) -> None:
        """See to it that there is a flow run that takes the task, or settle why there is to be none."""
        task = await self._engine.ledger.get(task.id)
        if not task.active or task.id in await self._earlier.settle([task], now=True):
            return
        leases = {lease.runner_id for lease in await self._engine.ledger.read_leases()}
        key = task.id if task.flow_run is None else f"{task.id}/{task.flow_run.id}"
        while True:
            run = await self._flow_run(task, key)
            key = f"{task.id}/{run.id}"
            if run.labels.get(LEDGER_LABEL) != self._engine.ledger.ledger_id:
                # Of another ledger's task of the same id.
                continue
            fate = _fate(run, leases)
            if fate is _Fate.OPEN:
                self._sent[task.id] = _Sent(task, run.id, time.monotonic())
                return
            if fate is _Fate.CANCELLED:
                [task] = await cancel_video_tasks(self._engine.ledger, [task.id])
                log.info("cancelled in Prefect", flow_run=str(run.id), video_tasks=1)
                if not task.active:
                    return
            elif fate is _Fate.DEAD:
                log.warning("a flow run's worker is gone", flow_run=str(run.id), video_task=task.id)
                await show(run.id, Crashed(message="its worker is gone; another flow run carries the video task on"))
            elif (seconds := _pause(run, task)) > 0:
                await self._engine.ledger.release_after([task.id], self.runner_id, seconds)
                return

    async def _flow_run(self, task: VideoTask, key: str) -> FlowRun:
        """The flow run of that key; made if there is none."""
        async with asyncio.timeout(CALL_SECONDS), get_client() as client:
            if self._deployment is None:
                name = self._engine.settings.work_pool_deployment
                self._deployment = (await client.read_deployment_by_name(name)).id
            return await client.create_flow_run_from_deployment(
                self._deployment,
                parameters={
                    "request": task.request.model_dump(mode="json", exclude_defaults=True),
                    "task_id": task.id,
                },
                name=run_name(task.id),
                tags=tags_of(task),
                idempotency_key=key,
                labels={LEDGER_LABEL: self._engine.ledger.ledger_id},
            )

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if not self._sent:
                continue
            try:
                await self._look()
            except LedgerUnavailable as error:
                self._complain("what was handed on cannot be looked at", error=error.message)
            except (TimeoutError, httpx.HTTPError) as error:
                log.info("what was handed on cannot be looked at", error=f"{type(error).__name__}: {error}")

    async def _look(self) -> None:
        held = await self._engine.ledger.held_by(self.runner_id)
        for task_id in self._sent.keys() - held:
            await self._taken(self._sent.pop(task_id))
        if self._health.away:
            await self._carry_here()
            return
        now = time.monotonic()
        late = [sent for sent in self._sent.values() if now - sent.since >= _LATE_SECONDS]
        if not late:
            return
        async with asyncio.timeout(CALL_SECONDS):
            runs = {run.id: run for run in await read_runs([str(sent.flow_run) for sent in late])}
        leases = {lease.runner_id for lease in await self._engine.ledger.read_leases()}
        for sent in late:
            run = runs.get(sent.flow_run)
            if (run is None or _fate(run, leases) is not _Fate.OPEN) and self._sent.pop(sent.task.id, None):
                self.put([sent.task])
        waiting = [run for run in runs.values() if run.state is not None and run.state.is_scheduled()]
        if waiting and now - min(sent.since for sent in late) >= _COMPLAIN_SECONDS:
            self._complain(
                "flow runs wait for a worker; prefect worker start, with the pool's name and type, starts one",
                deployment=self._engine.settings.work_pool_deployment,
                flow_runs=len(waiting),
            )

    async def _taken(self, sent: _Sent) -> None:
        """A task is no longer held here: a worker has it, or it has ended while it waited for one."""
        try:
            task = await self._engine.ledger.get(sent.task.id)
        except VideoTaskNotFound:
            return
        if task.active:
            self._engine.measures.flow_run_started("single", 1)
        elif task.flow_run is None:
            # So that no worker starts it for nothing.
            await show(sent.flow_run, ending_state([task]))

    async def _carry_here(self) -> None:
        """Carry on all that no worker can learn of while Prefect is away."""
        tasks = [*self._waiting, *(sent.task for sent in self._sent.values())]
        engine = self._engine
        taken: list[VideoTask] = []
        try:
            for task in tasks:
                try:
                    taken.append(
                        await engine.ledger.claim_one(task.id, engine.runner_id, account=engine.client.account.name)
                    )
                except (LeaseLost, VideoTaskNotFound) as gone:
                    log.debug("a video task goes on elsewhere", video_task=task.id, error=gone.message)
        except LedgerUnavailable as error:
            self._complain("video tasks cannot be carried here yet", error=error.message)
            return
        finally:
            self._here.put([task for task in taken if task.active])
        self._waiting.clear()
        self._sent.clear()
        self._arrived.clear()

    def _complain(self, words: str, **facts: object) -> None:
        now = time.monotonic()
        if now - self._complained.get(words, -_COMPLAIN_SECONDS) >= _COMPLAIN_SECONDS:
            self._complained[words] = now
            log.warning(words, **facts)


def _fate(run: FlowRun, leases: Collection[str]) -> _Fate:
    state = run.state
    if state is None or state.is_scheduled() or state.is_paused():
        return _Fate.OPEN
    if state.is_cancelling() or state.is_cancelled():
        return _Fate.CANCELLED
    if state.is_final():
        return _Fate.OVER
    runner = runner_of(run)
    if runner is not None:
        return _Fate.OPEN if runner in leases else _Fate.DEAD
    return _Fate.OPEN if datetime.now(UTC) - state.timestamp < _UNHEARD else _Fate.DEAD


def _pause(run: FlowRun, task: VideoTask) -> float:
    """Seconds until a run may be followed by the next one."""
    assert run.state is not None
    if run.start_time is None:
        # Whoever was to start it cannot: its settings are wrong, or the flow is not there.
        seconds = REDISPATCH_SECONDS
    else:
        seconds = redispatch_seconds(task) if run.state.is_failed() else _INTERRUPTED_SECONDS
    return seconds - (datetime.now(UTC) - run.state.timestamp).total_seconds()
