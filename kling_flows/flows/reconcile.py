"""Takes in what nobody carries any more: paid videos, tasks of dead processes, and their flow runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import structlog
from prefect import flow
from prefect.states import Completed
from pydantic import Field

from kling_flows.engine.audit import audit as compare
from kling_flows.engine.engine import Engine
from kling_flows.errors import KlingFlowsError
from kling_flows.flows.audit import item_row
from kling_flows.flows.dead_runs import close_dead_runs
from kling_flows.flows.form import ArchiveName, CredentialsName, Days, named_session
from kling_flows.flows.text_to_video import RESULT_STORAGE
from kling_flows.ledger import VideoTask
from kling_flows.shown.artifacts import show_table, show_tasks
from kling_flows.steps import carry_to_end
from kling_flows.upstream import Provider

log = structlog.get_logger(__name__)


@flow(
    name="reconcile",
    flow_run_name="reconcile",
    persist_result=False,
    result_storage=RESULT_STORAGE,
    description="Adopts paid videos that the ledger missed, carries on what nobody carries, closes dead flow runs.",
)
async def reconcile(
    days: Days = 30,
    carry_on: Annotated[
        int,
        Field(
            title="Carry on at most",
            description="Video tasks that nobody carries and that this run carries to their end; 0 leaves them to a "
            "runner.",
            ge=0,
            le=1_000,
        ),
    ] = 100,
    dead_after_minutes: Annotated[
        int,
        Field(title="Dead after minutes", description="How long a flow run is left alone.", ge=1, le=10_080),
    ] = 10,
    credentials_block: CredentialsName = None,
    archive_block: ArchiveName = None,
) -> dict[str, int]:
    """Take in what was paid and forgotten, and tidy up after processes that died.

    Args:
        days: How far back the provider's tasks are looked through.
        carry_on: Most video tasks that this run carries to their end itself.
        dead_after_minutes: A flow run is closed if nothing has happened for so long.
        credentials_block: Whose account; by default the one that ``KLING_FLOWS_*`` names.
        archive_block: Where the videos go; by default where ``KLING_FLOWS_ARCHIVE`` says.

    Returns:
        ``adopted``, ``carried`` and ``closed_runs``, each a number.

    Raises:
        UpstreamError: the provider cannot be asked now.
    """
    async with named_session(credentials_block, archive_block) as engine:
        await engine.lease.free_dead_peers()
        adopted = await _adopt(engine, datetime.now(UTC) - timedelta(days=days))
        carried = await _carry(engine, carry_on)
        await show_tasks(engine.settings, carried, "carried-on")
        closed = await close_dead_runs(engine, timedelta(minutes=dead_after_minutes))
        await show_table(engine.settings, [{"flow run": name} for name in closed], "closed-runs", "Dead flow runs")
    counts = {"adopted": adopted, "carried": len(carried), "closed_runs": len(closed)}
    return _outcome(counts)


async def _adopt(engine: Engine, since: datetime) -> int:
    if engine.client.account.provider is Provider.COMETAPI:
        log.info("cometapi has no list of its tasks, so that nothing can be adopted")
        return 0
    report = await compare(engine.ledger, engine.client, since=since, tenant=engine.settings.tenant, adopt=True)
    await show_table(engine.settings, [item_row(item) for item in report.items], "audit", "The provider's tasks")
    return sum(item.adopted for item in report.items)


async def _carry(engine: Engine, limit: int) -> Sequence[VideoTask]:
    if not limit:
        return ()
    account, slots = engine.client.account.name, engine.settings.slots
    claimed = await engine.ledger.claim(engine.runner_id, limit, account=account, slots=slots)

    async def carry(task: VideoTask) -> VideoTask:
        try:
            return await carry_to_end(engine, task.id)
        except KlingFlowsError as error:
            log.warning("a step failed too often; the task stays", video_task=task.id, error=error.message)
            return await engine.ledger.get(task.id)

    return await asyncio.gather(*map(carry, claimed))


def _outcome(counts: dict[str, int]) -> Any:
    return Completed(message=", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items()), data=counts)
