"""``kling-flows budgets``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kling_flows.cli.options import CLIENT_OPTIONS, Shared, command

if TYPE_CHECKING:
    from kling_flows.v1.video_task_service_pb2 import ListBudgetsResponse


@command(*CLIENT_OPTIONS)
def budgets(shared: Shared) -> None:
    """Show the budgets and what of them is reserved and spent."""
    from kling_flows.cli.connect import connect
    from kling_flows.cli.documents import document
    from kling_flows.cli.output import Output
    from kling_flows.cli.prices import budget_table

    output = Output(shared)

    async def run() -> ListBudgetsResponse:
        async with connect(shared, output) as client:
            return await client.list_budgets()

    response = asyncio.run(run())
    if output.json:
        output.document(document(response))
        return
    output.result(budget_table(response.budgets))
    if not response.budgets:
        output.note("There are no budgets; the server's setting `budgets` makes them.")
