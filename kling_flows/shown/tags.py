"""The tags of a flow run that was not started by a runner, which sets them with the run."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from prefect import get_client
from prefect.context import FlowRunContext

from kling_flows.ledger import VideoTask
from kling_flows.shown.courtesy import courtesy
from kling_flows.shown.words import tags_of


async def show_tags(tasks: Sequence[VideoTask]) -> None:
    """Let this flow run be found by what it makes, if it cannot be yet."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    run = context.flow_run
    wanted = {tag for task in tasks for tag in tags_of(task)}
    if not wanted <= set(run.tags):
        await courtesy(_update(run.id, sorted({*run.tags, *wanted})))


async def _update(flow_run_id: UUID, tags: list[str]) -> None:
    async with get_client() as client:
        await client.update_flow_run(flow_run_id, tags=tags)
