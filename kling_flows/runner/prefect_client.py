"""Prefect's client without the two calls per flow run whose answers are known beforehand."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)
from prefect.states import Cancelled

from kling_flows.flows.runs import CANCELLED_IN_PREFECT

if TYPE_CHECKING:
    from prefect.client.orchestration.base import HTTP_METHODS
    from prefect.client.orchestration.routes import ServerRoutes
    from prefect.client.schemas import OrchestrationResult
    from prefect.client.schemas.objects import State
    from prefect.flows import Flow


@dataclass(slots=True)
class PlannedRun:
    """A flow run before and after Prefect knows it."""

    name: str
    id: UUID | None = None
    tags: Sequence[str] = ()
    #: Somebody has cancelled it in Prefect: however it ends, it is shown as Cancelled.
    cancelled: bool = False


#: The flow run that this context is about to create, or carries out.
planned_run: ContextVar[PlannedRun] = ContextVar("kling-flows-run")


class LeanPrefectClient(PrefectClient):
    """Creates a run under its name at once, instead of renaming it, and asks once for the id of each flow."""

    def __init__(self, api: str, **options: Any) -> None:
        super().__init__(api, **options)
        self._flows: dict[str, httpx.Response] = {}

    async def request(
        self,
        method: HTTP_METHODS,
        path: ServerRoutes,
        params: dict[str, Any] | None = None,
        path_params: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> httpx.Response:
        """As Prefect's, but remembers what it answers for each flow's name."""
        if (method, path) != ("POST", "/flows/"):
            return await super().request(method, path, params, path_params, **kwargs)
        name = str(kwargs["json"]["name"])
        if name not in self._flows:
            self._flows[name] = await super().request(method, path, params, path_params, **kwargs)
        return self._flows[name]

    async def create_flow_run(
        self, flow: Flow[Any, Any], name: str | None = None, *args: Any, **kwargs: Any
    ) -> FlowRun:
        """As Prefect's, under the planned name, and once more if the server has lost the flow with its database."""
        planned = planned_run.get(None)
        name = name or (planned.name if planned else None)
        if planned is not None and planned.tags:
            # Not by Prefect's context for tags: its task runs would inherit them, and ask the server for a limit each.
            kwargs["tags"] = planned.tags
        try:
            run = await super().create_flow_run(flow, name, *args, **kwargs)
        except httpx.HTTPStatusError:
            if not self._flows:
                raise
            self._flows.clear()
            run = await super().create_flow_run(flow, name, *args, **kwargs)
        if planned is not None:
            planned.id = run.id
        return run

    async def set_flow_run_name(self, flow_run_id: UUID, name: str) -> httpx.Response:
        """As Prefect's, unless the run has that name."""
        planned = planned_run.get(None)
        if planned is not None and name == planned.name:
            return httpx.Response(204)
        return await super().set_flow_run_name(flow_run_id, name)

    async def set_flow_run_state(
        self, flow_run_id: UUID | str, state: State[Any], force: bool = False
    ) -> OrchestrationResult[Any]:
        """As Prefect's, but a run that somebody has cancelled ends Cancelled."""
        planned = planned_run.get(None)
        if planned is not None and planned.cancelled and planned.id == flow_run_id and state.is_final():
            state = Cancelled(message=CANCELLED_IN_PREFECT)
        return await super().set_flow_run_state(flow_run_id, state, force)


@asynccontextmanager
async def shared_prefect_clients(kind: type[LeanPrefectClient] = LeanPrefectClient) -> AsyncGenerator[None]:
    """All flow runs that start in this context share one lean client, and have no thread each for heartbeats.

    A lost runner is recognised by its lease, not by its runs' heartbeats.
    """
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), SyncClientContext.get_or_create():
        async with _lean_client_context(kind):
            yield


@asynccontextmanager
async def _lean_client_context(kind: type[LeanPrefectClient]) -> AsyncGenerator[None]:
    context = AsyncClientContext()
    context.client = kind(
        PREFECT_API_URL.value(),
        auth_string=PREFECT_API_AUTH_STRING.value(),
        api_key=PREFECT_API_KEY.value(),
        # The server would compress every answer, mostly for a client on the same machine.
        httpx_settings={"headers": {"Accept-Encoding": "identity"}},
    )
    async with context:
        yield
