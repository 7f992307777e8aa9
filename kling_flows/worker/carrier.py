"""Carries flow runs on a thread and an event loop of its own, with one engine for all of them.

On the main thread Prefect would take over SIGTERM for every run, and a flow that blocks would stop the worker's own
loop. One engine means one lease, one poll planner per account and one set of connections for hundreds of runs.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final, TypeVar
from uuid import UUID

import httpx
import structlog
from prefect import Flow
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import Abort, Pause
from prefect.flow_engine import run_flow_async

from kling_flows.engine.engine import Engine
from kling_flows.engine.session import Holder, engine_session, holder
from kling_flows.errors import ConfigurationError, LedgerUnavailable, RunnerDraining
from kling_flows.flows import text_to_video, text_to_videos
from kling_flows.flows.runs import CALL_SECONDS, cancel_video_tasks, known_video_tasks
from kling_flows.processes import new_event_loop
from kling_flows.runner.give_back import give_back
from kling_flows.runner.prefect_client import shared_prefect_clients
from kling_flows.runner.prefect_runs import read_runs
from kling_flows.runner.worker_runs import LEDGER_LABEL
from kling_flows.settings import Settings
from kling_flows.shown.events import told_events
from kling_flows.worker.runs import CarriedRun, WorkerPrefectClient, carried_run

T = TypeVar("T")

log = structlog.get_logger(__name__)

_OURS: Final = frozenset({text_to_video.name, text_to_videos.name})

#: Seconds between two looks at what people have cancelled.
_LOOK_SECONDS: Final = 2.0

#: Seconds that a run of ours gets to end by itself once its video tasks are cancelled.
_CANCEL_SECONDS: Final = 15.0

#: Seconds that steps get to come to a safe point, and what is ended then to end.
_DRAIN_SECONDS: Final = 10.0

#: Seconds until a ledger that could not be opened is tried again.
_RETRY_SECONDS: Final = 2.0

#: Seconds that a run may keep others from starting.
_START_SECONDS: Final = 15.0


class Carrier:
    """Open with :meth:`start`, close with :meth:`stop`; both, and :meth:`carry`, from the worker's own loop.

    Args:
        settings: Of the engine.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = new_event_loop()
        self._thread: threading.Thread | None = None
        # What the runs' contexts are copies of: Prefect's clients are in it.
        self._context = contextvars.copy_context()
        self._stopping = asyncio.Event()
        self._engine: Engine | None = None
        self._engine_open = asyncio.Event()
        self._holders: dict[str, Holder] = {}
        self._runs: dict[UUID, CarriedRun] = {}

    async def start(self) -> None:
        """Start the thread, and wait until the engine is open.

        Raises:
            ConfigurationError: something that the settings name cannot be used.
        """
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        here = asyncio.get_running_loop()

        def work() -> None:
            try:
                with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                    runner.run(self._serve())
            except Exception as error:
                log.error("no flow run can be carried any more", error=f"{type(error).__name__}: {error}")
                here.call_soon_threadsafe(_settle, failed, error)

        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(work,), name="carrier", daemon=True)
        self._thread.start()
        opening = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._opened(), self._loop))
        await asyncio.wait({failed, opening}, return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            opening.cancel()
            failed.result()

    async def carry(self, flow: Flow[..., Any], flow_run: FlowRun, started: asyncio.Future[str]) -> bool:
        """Carry a Pending run to its end.

        Args:
            flow: Its flow, which is async.
            flow_run: As Prefect knows it.
            started: Of the caller's loop; becomes the id of the lease once the flow has started or could not.

        Returns:
            Whether Prefect knows how it ended.

        Raises:
            RunnerDraining: the worker stops; nothing has been begun.
            ConfigurationError: the run's video task is in another ledger; nothing has been begun.
        """
        here = asyncio.get_running_loop()

        def tell(runner_id: str) -> None:
            here.call_soon_threadsafe(_settle, started, runner_id)

        work = asyncio.run_coroutine_threadsafe(self._in_context(flow, flow_run, tell), self._loop)
        return await asyncio.wrap_future(work)

    async def _in_context(self, flow: Flow[..., Any], flow_run: FlowRun, tell: Callable[[str], None]) -> bool:
        work = self._carry(flow, flow_run, tell)
        return await asyncio.get_running_loop().create_task(work, context=self._context.copy())

    async def cancel(self, flow_run_id: UUID) -> bool:
        """Cancel a run; false if it is not carried here."""
        run = self._runs.get(flow_run_id)
        if run is None:
            return False
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._cancel(run), self._loop))
        return True

    async def stop(self) -> None:
        """Let the steps come to a safe point, end what then still runs, give everything back, and end the thread."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        await asyncio.to_thread(thread.join)

    async def _opened(self) -> Engine:
        while self._engine is None:
            if self._stopping.is_set():
                raise RunnerDraining("the worker stops; another one carries the video task on")
            await self._engine_open.wait()
        return self._engine

    async def _serve(self) -> None:
        """Keep an engine open until the end: another one, under another identity, after a lease was lost."""
        async with shared_prefect_clients(WorkerPrefectClient):
            self._context = contextvars.copy_context()
            watching = asyncio.create_task(self._watch(), name="cancel-watch")
            try:
                while not self._stopping.is_set():
                    try:
                        await self._serve_with_engine()
                    except LedgerUnavailable as error:
                        log.warning("the ledger cannot be opened yet", error=error.message)
                        await asyncio.sleep(_RETRY_SECONDS)
            finally:
                watching.cancel()
                await asyncio.wait({watching})

    async def _serve_with_engine(self) -> None:
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(Engine.open(self._settings))
            if self._settings.prefect_events:
                await stack.enter_async_context(told_events(engine.ledger))
            self._engine = engine
            self._engine_open.set()
            log.info("carrying flow runs", runner=engine.runner_id)
            ending = [asyncio.create_task(event.wait()) for event in (self._stopping, engine.lease.lost)]
            try:
                await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in ending:
                    task.cancel()
                self._engine = None
                self._engine_open.clear()
                engine.drain()
                await self._drain()
                # Whoever waits for the next one looks whether there will be one.
                self._engine_open.set()
                self._engine_open.clear()

    async def _drain(self) -> None:
        running = {run.task for run in self._runs.values() if run.task is not None}
        if not running:
            return
        log.info("draining", flow_runs=len(running))
        _, late = await asyncio.wait(running, timeout=_DRAIN_SECONDS)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_DRAIN_SECONDS)

    async def _carry(self, flow: Flow[..., Any], flow_run: FlowRun, tell: Callable[[str], None]) -> bool:
        engine = await self._opened()
        if flow_run.labels.get(LEDGER_LABEL, engine.ledger.ledger_id) != engine.ledger.ledger_id:
            raise ConfigurationError(
                "KLING_FLOWS_LEDGER_URL",
                "the flow run's video task is in another ledger than this worker's; give both the same, or each a work "
                "pool and a deployment of its own",
            )
        run = CarriedRun(flow_run, Holder(self._holders), asyncio.current_task(), ours=flow.name in _OURS)
        self._runs[flow_run.id] = run
        telling = asyncio.create_task(_tell_start(run, engine.runner_id, tell))
        carried_run.set(run)
        holder.set(run.holder)
        try:
            async with engine_session(engine):
                # Prefect gives a run of a deployment a thread and a connection of its own, to learn of suspensions; it
                # reads the run anew before the flow begins.
                alone = flow_run.model_copy(update={"deployment_id": None})
                await run_flow_async(flow, flow_run=alone, parameters=dict(flow_run.parameters), return_type="state")
        except (Abort, Pause) as ended:
            log.info("flow run goes on elsewhere, or later", flow_run=str(flow_run.id), reason=str(ended))
        except asyncio.CancelledError:
            if not run.cancelled and not engine.draining.is_set():
                raise
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            log.warning("flow run could not be kept", flow_run=str(flow_run.id), error=words)
            return False
        finally:
            self._runs.pop(flow_run.id, None)
            telling.cancel()
            tell(engine.runner_id)
            await asyncio.shield(give_back(engine, run.holder.task_ids))
            run.holder.let_go()
        return True

    async def _watch(self) -> None:
        """Act on what people cancel, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                carried = [str(run_id) for run_id, run in self._runs.items() if not run.cancelled]
                async with asyncio.timeout(CALL_SECONDS):
                    cancelled = await read_runs(carried, StateType.CANCELLING, StateType.CANCELLED)
                for flow_run in cancelled:
                    run = self._runs.get(flow_run.id)
                    if run is not None:
                        await self._cancel(run)
            except (TimeoutError, httpx.HTTPError, LedgerUnavailable) as error:
                log.info("what was cancelled in Prefect has to wait", error=f"{type(error).__name__}: {error}")
            except Exception:
                # Without this loop nobody would notice a cancel any more.
                log.exception("cancelled flow runs cannot be looked for")

    async def _cancel(self, run: CarriedRun) -> None:
        """Cancel the video tasks of a run of our flows, which then ends by itself; end any other."""
        engine, task = await self._opened(), run.task
        if run.cancelled or task is None:
            return
        tasks = await known_video_tasks(engine, run.flow_run) if run.ours else []
        await cancel_video_tasks(engine.ledger, [task.id for task in tasks])
        run.cancelled = True
        log.info("cancelled in Prefect", flow_run=str(run.flow_run.id), video_tasks=len(tasks))
        if tasks:
            asyncio.get_running_loop().call_later(_CANCEL_SECONDS, task.cancel)
        else:
            task.cancel()


async def _tell_start(run: CarriedRun, runner_id: str, tell: Callable[[str], None]) -> None:
    try:
        async with asyncio.timeout(_START_SECONDS):
            await run.started.wait()
    except TimeoutError:
        log.info("a flow run starts late", flow_run=str(run.flow_run.id))
    tell(runner_id)


def _settle(future: asyncio.Future[T], outcome: T | Exception) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
