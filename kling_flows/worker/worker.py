"""``prefect worker start --pool kling-flows``: the worker type ``kling-flows``.

Collections are imported by every Prefect process that looks for one: what this worker works with is imported once it
starts.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.abc
import structlog
from prefect.exceptions import InfrastructureNotFound
from prefect.settings import PREFECT_WORKER_QUERY_SECONDS, get_current_settings, temporary_settings
from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorker, BaseWorkerResult

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

    from kling_flows.worker.carrier import Carrier
    from kling_flows.worker.loading import Flows

log = structlog.get_logger(__name__)

#: Most flow runs at a time, unless ``--limit`` says otherwise; each waits most of its time.
_LIMIT: Final = 500

#: Seconds between two looks for flow runs, unless ``PREFECT_WORKER_QUERY_SECONDS`` says otherwise.
_QUERY_SECONDS: Final = 1.0

#: Flow runs that start at a time: Prefect on SQLite fails runs when more do (measured).
_STARTS: Final = 1


class KlingFlowsWorkerResult(BaseWorkerResult):
    """0: Prefect knows how the run ended; 1: it does not."""


class KlingFlowsWorker(BaseWorker[BaseJobConfiguration, BaseVariables, KlingFlowsWorkerResult]):
    """Runs async flows in its own process, many hundreds at once, with one engine for all of them."""

    type = "kling-flows"
    job_configuration = BaseJobConfiguration

    _display_name = "kling-flows"
    _description = "Runs async flows in the worker's own process, many hundreds at once. Made for kling-flows."
    _documentation_url = "https://github.com/kling-flows/kling-flows/blob/main/docs/prefect.md"

    def __init__(self, *arguments: Any, limit: int | None = None, **options: Any) -> None:
        super().__init__(*arguments, limit=limit or _LIMIT, **options)
        # A run starts in milliseconds: one that began early would only wait, and keep others from starting.
        self._prefetch_seconds = 0.0
        self._starts = anyio.Semaphore(_STARTS)
        self._carrier: Carrier | None = None
        self._flows: Flows | None = None

    @classmethod
    def get_default_base_job_template(cls) -> dict[str, Any]:
        """Nothing can be set for a single run: all of them share the process and its environment."""
        # Prefect's server refuses an empty configuration.
        return {"job_configuration": {"env": {}}, "variables": {"type": "object", "properties": {}}}

    async def start(self, *arguments: Any, **options: Any) -> None:
        """As every worker's, but it looks for runs each second unless the settings say how often."""
        own: dict[Any, float] = {}
        if "query_seconds" not in get_current_settings().worker.model_fields_set:
            own[PREFECT_WORKER_QUERY_SECONDS] = _QUERY_SECONDS
        with temporary_settings(own):
            await super().start(*arguments, **options)

    async def setup(self) -> None:
        """Open the engine, then announce the worker.

        Raises:
            ConfigurationError: the settings (``KLING_FLOWS_*``) cannot be used.
        """
        from kling_flows.logs import configure_logging
        from kling_flows.settings import Settings
        from kling_flows.worker.carrier import Carrier
        from kling_flows.worker.loading import Flows

        if not structlog.is_configured():
            configure_logging()
        carrier = Carrier(Settings.load())
        await carrier.start()
        self._carrier, self._flows = carrier, Flows()
        try:
            await super().setup()
        except BaseException:
            await self._stop_carrying()
            raise

    async def teardown(self, *exc_info: Any) -> None:
        """Give the video tasks back, close their runs, then sign off."""
        # Whatever ends the worker cancels its tasks: this must be done all the same, and takes half a minute at most.
        with anyio.CancelScope(shield=True):
            await self._stop_carrying()
        await super().teardown(*exc_info)

    async def run(
        self,
        flow_run: FlowRun,
        configuration: BaseJobConfiguration,
        task_status: anyio.abc.TaskStatus[Any] | None = None,
    ) -> KlingFlowsWorkerResult:
        """Carry a flow run to its end in this process."""
        from kling_flows.runner.worker_runs import infrastructure_id

        assert self._carrier is not None
        assert self._flows is not None
        assert flow_run.deployment_id is not None
        flow = await self._flows.of(await self.client.read_deployment(flow_run.deployment_id))
        started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        carrying = asyncio.create_task(self._carrier.carry(flow, flow_run, started))
        try:
            await asyncio.wait({started, carrying}, return_when=asyncio.FIRST_COMPLETED)
            place = infrastructure_id(started.result(), flow_run) if started.done() else ""
            if place and task_status is not None:
                task_status.started(place)
            known = await carrying
        finally:
            carrying.cancel()
        return KlingFlowsWorkerResult(status_code=0 if known else 1, identifier=place)

    async def kill_infrastructure(
        self, infrastructure_pid: str, configuration: BaseJobConfiguration, grace_seconds: int = 30
    ) -> None:
        """Cancel a run that has not started yet.

        Raises:
            InfrastructureNotFound: it is not carried here.
        """
        from uuid import UUID

        _, _, flow_run_id = infrastructure_pid.partition("/")
        if self._carrier is None or not flow_run_id or not await self._carrier.cancel(UUID(flow_run_id)):
            raise InfrastructureNotFound(f"{infrastructure_pid} is not carried by this worker")

    async def _submit_run(self, flow_run: FlowRun) -> None:
        async with self._starts:
            await super()._submit_run(flow_run)

    async def _stop_carrying(self) -> None:
        if self._carrier is not None:
            await self._carrier.stop()
