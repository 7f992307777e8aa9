"""Claims video tasks and has them carried, until told to stop."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final, Protocol

import structlog

from kling_flows.engine.engine import Engine
from kling_flows.engine.leases import LeaseKeeper
from kling_flows.errors import LedgerUnavailable
from kling_flows.ledger import VideoTask
from kling_flows.runner.dispatch import InProcessDispatch
from kling_flows.runner.metrics import InFlight, runner_measures
from kling_flows.runner.prefect_client import shared_prefect_clients
from kling_flows.runner.prefect_health import PrefectHealth
from kling_flows.runner.prefect_runs import EarlierRuns
from kling_flows.runner.prefect_watch import PrefectWatch
from kling_flows.runner.work_pool import WorkPoolDispatch
from kling_flows.settings import Settings
from kling_flows.shown.events import told_events
from kling_flows.telemetry.otlp import exporting

log = structlog.get_logger(__name__)

#: In traces, unless ``OTEL_SERVICE_NAME`` says otherwise.
SERVICE_NAME: Final = "kling-flows-runner"

#: Most tasks that one claim takes.
_CLAIM_LIMIT: Final = 500

#: Seconds for which commits are gathered before the queue is looked at again.
_GATHER_SECONDS: Final = 0.03

#: Longest time between two looks at the queue.
_LOOK_SECONDS: Final = 5.0

#: Seconds that steps get to come to a safe point.
_DRAIN_SECONDS: Final = 10.0


class Dispatch(Protocol):
    """Has claimed video tasks carried."""

    @property
    def runner_id(self) -> str:
        """Under whose lease tasks are claimed."""
        ...

    @property
    def in_flight(self) -> int:
        """Video tasks that were put and are not done with."""
        ...

    @property
    def room(self) -> int:
        """How many more may be claimed."""
        ...

    def put(self, tasks: Sequence[VideoTask]) -> None:
        """Take claimed tasks in."""
        ...

    async def run(self) -> None:
        """Work until cancelled."""
        ...

    async def drain(self, seconds: float) -> None:
        """Let what is carried in this process come to a safe point, then end it."""
        ...


async def run(settings: Settings, stop: asyncio.Event) -> int:
    """Carry video tasks until ``stop`` is set, then drain.

    Returns:
        0, or 75 (try again) if peers have declared this runner dead and it has to come back under another identity.

    Raises:
        ConfigurationError: something that the settings name cannot be used.
    """
    async with AsyncExitStack() as stack:
        in_flight = InFlight()
        measures = stack.enter_context(runner_measures(settings, in_flight))
        await stack.enter_async_context(exporting(SERVICE_NAME))
        engine = await stack.enter_async_context(Engine.open(settings, measures))
        await stack.enter_async_context(shared_prefect_clients())
        health, earlier = PrefectHealth(), EarlierRuns(engine)
        here = InProcessDispatch(engine, settings.group_limit, health, earlier)
        dispatch: Dispatch = here
        lost = [engine.lease.lost]
        if settings.dispatch == "work-pool":
            lease = LeaseKeeper(engine.ledger, settings.state_dir, hands_on=True)
            await stack.enter_async_context(lease.held())
            lost.append(lease.lost)
            dispatch = WorkPoolDispatch(engine, lease, here, health, earlier)
        in_flight.ask = lambda: dispatch.in_flight
        watching = asyncio.create_task(PrefectWatch(engine, here, health, earlier).run(), name="prefect-watch")
        stack.push_async_callback(_end, watching)
        if not await _prefect_is_known(health, stop):
            return 0
        if settings.prefect_events:
            await stack.enter_async_context(told_events(engine.ledger, lambda: not health.away))
        await engine.lease.free_dead_peers()
        log.info(
            "carrying video tasks",
            runner=dispatch.runner_id,
            provider=str(engine.client.account.provider),
            dispatch=settings.dispatch,
        )
        gc.collect()
        gc.freeze()
        starting = asyncio.create_task(dispatch.run(), name="dispatch")
        claiming = asyncio.create_task(_claim_forever(engine, dispatch), name="claim")
        ending = [asyncio.create_task(event.wait()) for event in (stop, *lost)]
        await asyncio.wait([*ending, starting, claiming], return_when=asyncio.FIRST_COMPLETED)
        log.info("draining", video_tasks=dispatch.in_flight)
        engine.drain()
        for task in (claiming, starting, watching, *ending):
            task.cancel()
        outcomes = await asyncio.gather(claiming, starting, return_exceptions=True)
        await dispatch.drain(_DRAIN_SECONDS)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return 75 if any(event.is_set() for event in lost) else 0


async def _prefect_is_known(health: PrefectHealth, stop: asyncio.Event) -> bool:
    """Wait until Prefect has answered or is taken for away; false if the runner is to stop meanwhile."""
    waiting = [asyncio.create_task(event.wait()) for event in (health.known, stop)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    return not stop.is_set()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


async def _claim_forever(engine: Engine, dispatch: Dispatch) -> None:
    ledger, account, slots = engine.ledger, engine.client.account.name, engine.settings.slots
    while True:
        # What this runner writes itself gives it nothing to claim, unless something waits for a place.
        changes, line = ledger.changes_by_others(), ledger.line_moves()
        sleep = _LOOK_SECONDS
        try:
            room = dispatch.room
            start = await ledger.claimable_from(account=account, slots=slots)
            now = time.time()
            if start is not None and start <= now and room > 0:
                limit = min(room, _CLAIM_LIMIT)
                dispatch.put(await ledger.claim(dispatch.runner_id, limit, account=account, slots=slots))
                sleep = 0.0
            elif start is not None:
                sleep = min(max(start - now, _GATHER_SECONDS), _LOOK_SECONDS)
                if start > now:
                    changes = line
        except LedgerUnavailable as error:
            log.warning("the queue cannot be read", error=error.message)
        await changes.wait(sleep)
        await asyncio.sleep(_GATHER_SECONDS)
