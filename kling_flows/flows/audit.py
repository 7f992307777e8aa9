"""Compares the provider's account with the ledger, and shows what does not agree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from prefect import flow
from prefect.states import Completed, Failed
from pydantic import Field

from kling_flows.engine.audit import AuditItem
from kling_flows.engine.audit import audit as compare
from kling_flows.engine.engine import Engine
from kling_flows.engine.reconcile import Disagreement
from kling_flows.engine.reconcile import reconcile as compare_bills
from kling_flows.flows.form import CredentialsName, Days, named_session
from kling_flows.flows.text_to_video import RESULT_STORAGE
from kling_flows.shown.artifacts import show_table


@flow(
    name="audit",
    flow_run_name="audit",
    persist_result=False,
    result_storage=RESULT_STORAGE,
    description="Compares the provider's tasks and bills with the ledger; changes nothing.",
)
async def audit(
    days: Days = 30,
    bills: Annotated[
        bool,
        Field(title="Compare bills", description="Also compare what the resource packs were charged; Kling only."),
    ] = False,
    fail_if_amiss: Annotated[
        bool, Field(title="Fail if amiss", description="End as Failed if anything is amiss, so that somebody is told.")
    ] = True,
    credentials_block: CredentialsName = None,
) -> dict[str, int]:
    """Compare the provider's tasks with the ledger, and change nothing.

    Args:
        days: How far back.
        bills: Whether to compare the bills as well.
        fail_if_amiss: Whether the run fails if anything is amiss.
        credentials_block: Whose account; by default the one that ``KLING_FLOWS_*`` names.

    Returns:
        ``looked_at``, ``amiss`` and ``disagreements``, each a number.

    Raises:
        ConfigurationError: the provider cannot list its tasks, or has no such books.
        UpstreamError: the provider cannot be asked now.
    """
    since = datetime.now(UTC) - timedelta(days=days)
    async with named_session(credentials_block, None) as engine:
        report = await compare(engine.ledger, engine.client, since=since, tenant=engine.settings.tenant)
        rows = [item_row(item) for item in report.items]
        await show_table(engine.settings, rows, "audit", f"{report.looked_at} upstream tasks of {days} days")
        disagreements = await _bills(engine, since) if bills else 0
    counts = {"looked_at": report.looked_at, "amiss": len(report.amiss), "disagreements": disagreements}
    return _outcome(counts, fail_if_amiss)


async def _bills(engine: Engine, since: datetime) -> int:
    result = await compare_bills(engine.ledger, engine.client, since=since)
    rows = [_bill_row(disagreement) for disagreement in result.disagreements]
    await show_table(engine.settings, rows, "bills", f"{result.tasks} billed tasks, {result.billed} units")
    return len(rows)


def item_row(item: AuditItem) -> dict[str, Any]:
    """One remarkable upstream task as a line of a table."""
    created = item.upstream.created_at
    return {
        "finding": item.finding.value,
        "upstream task": item.upstream.task_id,
        "status": item.upstream.status_word,
        "created": "" if created is None else created.isoformat(timespec="seconds"),
        "video task": item.video_task,
        "now": "adopted" if item.adopted else "amiss" if item.finding.amiss else "",
    }


def _bill_row(disagreement: Disagreement) -> dict[str, Any]:
    return {
        "difference": disagreement.difference.value,
        "upstream task": disagreement.upstream_task_id,
        "video task": disagreement.video_task,
        "billed": str(disagreement.billed),
        "noted": "" if disagreement.settled is None else str(disagreement.settled),
        "quoted": "" if disagreement.quoted is None else str(disagreement.quoted),
    }


def _outcome(counts: dict[str, int], fail: bool) -> Any:
    words = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    if fail and (counts["amiss"] or counts["disagreements"]):
        return Failed(message=f"{words}; the run's table says which. The flow reconcile adopts what was paid")
    return Completed(message=words, data=counts)
