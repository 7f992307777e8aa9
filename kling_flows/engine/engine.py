"""What the steps of a video task work with: the ledger, the account, the planner and the archive of one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from kling_flows.archive import VideoArchive
from kling_flows.engine.clients import Upstream, Upstreams
from kling_flows.engine.deadlines import watched_deadlines
from kling_flows.engine.failures import error_record
from kling_flows.engine.gate import Gate
from kling_flows.engine.hints import CallbackAddresses, watched_hints
from kling_flows.engine.leases import LeaseKeeper
from kling_flows.engine.lookup import LookupTrust
from kling_flows.engine.polling import PollPlanner
from kling_flows.engine.webhooks import watched_outbox
from kling_flows.errors import KlingFlowsError, RunnerDraining
from kling_flows.ledger import Ledger, State, UpstreamRecord, VideoTask
from kling_flows.settings import Settings
from kling_flows.telemetry.measures import Measures
from kling_flows.upstream import UpstreamClient, UpstreamTask


@dataclass(frozen=True, slots=True)
class Engine:
    """Open one with :meth:`open`; it holds tasks under a lease of its own while it is open."""

    settings: Settings = field(repr=False)
    ledger: Ledger
    upstreams: Upstreams
    archive: VideoArchive
    lease: LeaseKeeper
    submit_slots: asyncio.Semaphore
    archive_gate: Gate
    #: Seconds for which a provider keeps a video.
    retention: float
    #: Where the provider calls about new tasks; None if it cannot reach us.
    callbacks: CallbackAddresses | None = None
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    #: Told what happens here; counts it if somebody asks for metrics.
    measures: Measures = field(default_factory=Measures)
    #: What the last look showed of tasks that are about to be archived: it saves asking again.
    ended: dict[str, UpstreamTask] = field(default_factory=lambda: dict[str, UpstreamTask]())

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, measures: Measures | None = None) -> AsyncGenerator[Self]:
        """Open everything that the settings name, and close it afterwards; ``measures`` is told what happens.

        Raises:
            ConfigurationError: something that they name cannot be used.
        """
        async with AsyncExitStack() as stack:
            # Before anything is opened: without an account there is nothing to do.
            settings.account()
            ledger = await stack.enter_async_context(await Ledger.open(settings.ledger_address))
            # Ledgers that share an archive may have tasks of the same id, and none may overwrite another's.
            archive = await asyncio.to_thread(
                VideoArchive.open,
                settings.archive_address,
                namespace=ledger.ledger_id,
                config=settings.archive_config,
            )
            stack.push_async_callback(archive.close)
            measures = measures or Measures()
            new_client = partial(UpstreamClient, on_call=measures.upstream_call)
            upstreams = await stack.enter_async_context(Upstreams.open(settings, ledger, new_client))
            lease = LeaseKeeper(ledger, settings.state_dir)
            await stack.enter_async_context(lease.held())
            await stack.enter_async_context(watched_deadlines(ledger))
            await stack.enter_async_context(watched_outbox(settings, ledger))
            callbacks = CallbackAddresses.of(settings, ledger)
            if callbacks is not None:
                await stack.enter_async_context(watched_hints(ledger, lease.runner_id, upstreams))
            yield cls(
                settings=settings,
                ledger=ledger,
                upstreams=upstreams,
                archive=archive,
                lease=lease,
                submit_slots=asyncio.Semaphore(settings.submit_concurrency),
                archive_gate=Gate(settings.archive_concurrency),
                retention=settings.result_retention,
                callbacks=callbacks,
                measures=measures,
            )

    @property
    def client(self) -> UpstreamClient:
        """Calls the account for new tasks."""
        return self.upstreams.default.client

    @property
    def planner(self) -> PollPlanner:
        """Looks at the tasks of the account for new tasks."""
        return self.upstreams.default.planner

    @property
    def trust(self) -> LookupTrust:
        """What is known of the account for new tasks."""
        return self.upstreams.default.trust

    async def upstream_of(self, task: VideoTask) -> Upstream:
        """The account that the task is pinned to, or the one for new tasks.

        Raises:
            ConfigurationError: the settings no longer have its credentials; the task stays where it is.
        """
        return await self.upstreams.of(task)

    def drain(self) -> None:
        """Let every step stop at its next safe point: no new request, no new download, no more looks."""
        self.draining.set()
        self.upstreams.stop()

    def check_open(self) -> None:
        """Stop here if this engine drains.

        Raises:
            RunnerDraining: it does.
        """
        if self.draining.is_set():
            raise RunnerDraining("the runner stops; the video task is safe in the ledger and goes on with the next one")

    @property
    def runner_id(self) -> str:
        """Who holds the tasks."""
        return self.lease.runner_id

    async def advance(self, task_id: str, change: Callable[[VideoTask], VideoTask]) -> VideoTask:
        """A state change by this engine, fenced by its lease.

        Raises:
            LeaseLost: somebody else carries the task, or it has ended.
        """
        return await self.ledger.advance(task_id, change, runner_id=self.runner_id)

    async def fail(self, task_id: str, error: KlingFlowsError, upstream: UpstreamRecord | None = None) -> VideoTask:
        """End a task as FAILED because of ``error``."""

        def change(before: VideoTask) -> VideoTask:
            if before.state.final:
                return before
            known = upstream or before.upstream
            if known is not None:
                known = known.model_copy(update={"outcome_unknown": False})
            return before.model_copy(update={"state": State.FAILED, "error": error_record(error), "upstream": known})

        return await self.advance(task_id, change)
