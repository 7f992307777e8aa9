"""``kling-flows audit``."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from kling_flows.cli.options import SETTINGS_OPTIONS, Shared, command
from kling_flows.cli.periods import check_period, seconds_of

if TYPE_CHECKING:
    from rich.table import Table

    from kling_flows.engine.audit import AuditItem, AuditReport

#: Something is amiss and was not adopted: the code of «the state does not allow it», for a state of the whole account.
_AMISS: Final = 7


@command("config", "json", "no_color", "quiet", *SETTINGS_OPTIONS)
def audit(
    shared: Shared,
    since: Annotated[
        str, typer.Option("--since", metavar="PERIOD", callback=check_period, help="How far back, in m, h or d.")
    ] = "30d",
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take in what the ledger missed: a runner then archives it.")
    ] = False,
    everything: Annotated[
        bool,
        typer.Option("--everything", help="With --adopt: also what is another's or nobody's, and what was discarded."),
    ] = False,
) -> None:
    """Compare the provider's tasks with the ledger, without a server. Exit code 7: something amiss was not adopted."""
    from kling_flows.cli.output import Output

    if everything and not adopt:
        raise typer.BadParameter("--everything only goes with --adopt")
    output = Output(shared)
    report = asyncio.run(_run(shared, since, adopt=adopt, everything=everything))
    if output.json:
        output.document(_document(report))
    else:
        if report.items:
            output.result(_table(report))
        output.note(_summary(report))
    if report.amiss:
        raise typer.Exit(_AMISS)


async def _run(shared: Shared, since: str, *, adopt: bool, everything: bool) -> AuditReport:
    from kling_flows.engine.audit import audit as compare
    from kling_flows.ledger import Ledger
    from kling_flows.upstream import UpstreamClient

    start = datetime.now(UTC) - timedelta(seconds=seconds_of(since))
    settings = shared.settings()
    account = settings.account()
    async with await Ledger.open(settings.ledger_address) as ledger, UpstreamClient(account) as client:
        return await compare(ledger, client, since=start, tenant=settings.tenant, adopt=adopt, everything=everything)


def _table(report: AuditReport) -> Table:
    from rich.table import Table

    from kling_flows.cli.describe import span
    from kling_flows.cli.output import printable

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("FINDING", "UPSTREAM TASK", "EXTERNAL ID", "STATUS"):
        table.add_column(name, no_wrap=True, overflow="fold")
    table.add_column("AGE", no_wrap=True, justify="right")
    for name in ("VIDEO TASK", "NOW"):
        table.add_column(name, no_wrap=True, overflow="fold")
    for item in report.items:
        created = item.upstream.created_at
        table.add_row(
            item.finding.value,
            printable(item.upstream.task_id),
            printable(item.upstream.external_task_id or ""),
            printable(item.upstream.status_word),
            "" if created is None else span((datetime.now(UTC) - created).total_seconds()),
            item.video_task,
            _now(item),
        )
    return table


def _now(item: AuditItem) -> str:
    if item.adopted:
        return "adopted"
    return "amiss" if item.finding.amiss else ""


def _summary(report: AuditReport) -> str:
    adopted = sum(item.adopted for item in report.items)
    parts = [f"{report.looked_at} upstream tasks", f"{len(report.amiss)} amiss", f"{adopted} adopted"]
    others = len(report.items) - len(report.amiss) - adopted
    if others:
        parts.append(f"{others} of others or discarded")
    return ", ".join(parts) + "." + (" To have a runner archive what is amiss: --adopt." if report.amiss else "")


def _document(report: AuditReport) -> dict[str, Any]:
    return {
        "looked_at": report.looked_at,
        "amiss": len(report.amiss),
        "items": [
            {
                "finding": item.finding.value,
                "upstream_task_id": item.upstream.task_id,
                "external_task_id": item.upstream.external_task_id or "",
                "status": item.upstream.status_word,
                "create_time": None if item.upstream.created_at is None else item.upstream.created_at.isoformat(),
                "video_task": item.video_task,
                "adopted": item.adopted,
            }
            for item in report.items
        ],
    }
