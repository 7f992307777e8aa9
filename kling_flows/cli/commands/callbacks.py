"""``kling-flows callbacks``: what became of the calls to callers' own addresses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from kling_flows.cli.options import CLIENT_OPTIONS, Shared, command
from kling_flows.cli.words import DeliveryState

if TYPE_CHECKING:
    from kling_flows.cli.client import VideoTaskClient
    from kling_flows.v1.video_task_service_pb2 import CallbackDelivery, ListCallbackDeliveriesRequest


@command(*CLIENT_OPTIONS)
def callbacks(
    shared: Shared,
    state: Annotated[
        DeliveryState | None,
        typer.Option("--state", case_sensitive=False, help="Only those in this state; DEAD are those given up."),
    ] = None,
    task_id: Annotated[str, typer.Option("--task", metavar="ID", help="Only those of this task.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="At most so many.")] = 50,
    retry: Annotated[
        list[str] | None,
        typer.Option("--retry", metavar="NUMBER", help="Try this DEAD one again instead of listing; repeatable."),
    ] = None,
) -> None:
    """Show the calls to the tasks' callback URLs, the newest first, or try dead ones again."""
    from kling_flows.cli.connect import connect
    from kling_flows.cli.deliveries import delivery_name, delivery_table
    from kling_flows.cli.documents import document
    from kling_flows.cli.output import Output
    from kling_flows.cli.request import resource_name
    from kling_flows.v1.video_task_service_pb2 import CallbackDelivery, ListCallbackDeliveriesRequest

    output = Output(shared)
    request = ListCallbackDeliveriesRequest(
        state=CallbackDelivery.State.Value(state.name) if state else CallbackDelivery.STATE_UNSPECIFIED,
        video_task=resource_name(task_id) if task_id else "",
    )

    async def run() -> list[CallbackDelivery]:
        async with connect(shared, output) as client:
            if retry:
                return [await client.retry_callback(delivery_name(number)) for number in retry]
            return await _listed(client, request, limit)

    deliveries = asyncio.run(run())
    if output.json:
        output.document({"callback_deliveries": [document(delivery) for delivery in deliveries]})
    else:
        output.result(delivery_table(deliveries))


async def _listed(
    client: VideoTaskClient, request: ListCallbackDeliveriesRequest, limit: int
) -> list[CallbackDelivery]:
    found: list[CallbackDelivery] = []
    while True:
        request.page_size = min(limit - len(found), 1_000)
        page = await client.list_callbacks(request)
        found.extend(page.callback_deliveries)
        if not page.next_page_token or len(found) >= limit:
            return found[:limit]
        request.page_token = page.next_page_token
