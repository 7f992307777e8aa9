"""The flow runs that a worker carries, and what their Prefect client has to know of them."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled

from kling_flows.engine.session import Holder
from kling_flows.flows.runs import CANCELLED_IN_PREFECT
from kling_flows.runner.prefect_client import LeanPrefectClient

if TYPE_CHECKING:
    from prefect.client.schemas import OrchestrationResult
    from prefect.client.schemas.objects import State


@dataclass(slots=True)
class CarriedRun:
    """One flow run while it is carried."""

    flow_run: FlowRun
    holder: Holder
    task: asyncio.Task[Any] | None
    #: Whether its parameters name its video tasks.
    ours: bool
    #: Set when Prefect knows that it runs.
    started: asyncio.Event = field(default_factory=asyncio.Event)
    #: Somebody has cancelled it in Prefect: however it ends, it is shown as Cancelled.
    cancelled: bool = False


#: The run that this context carries.
carried_run: ContextVar[CarriedRun] = ContextVar("kling-flows-carried-run")


class WorkerPrefectClient(LeanPrefectClient):
    """Tells when the run at hand has started, and has it end Cancelled if somebody wanted that."""

    async def set_flow_run_name(self, flow_run_id: UUID, name: str) -> httpx.Response:
        """As Prefect's, unless the run has that name."""
        carried = _carried(flow_run_id)
        if carried is not None and name == carried.flow_run.name:
            return httpx.Response(204)
        return await super().set_flow_run_name(flow_run_id, name)

    async def set_flow_run_state(
        self, flow_run_id: UUID | str, state: State[Any], force: bool = False
    ) -> OrchestrationResult[Any]:
        """As Prefect's."""
        carried = _carried(flow_run_id)
        if carried is not None and carried.cancelled and state.is_final():
            state, force = Cancelled(message=CANCELLED_IN_PREFECT), True
        result = await super().set_flow_run_state(flow_run_id, state, force)
        if carried is not None and result.state is not None and result.state.is_running():
            carried.started.set()
        return result


def _carried(flow_run_id: UUID | str) -> CarriedRun | None:
    carried = carried_run.get(None)
    return carried if carried is not None and str(carried.flow_run.id) == str(flow_run_id) else None
