"""``kling-flows account``."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kling_flows.cli.options import SETTINGS_OPTIONS, Shared, command
from kling_flows.cli.periods import check_period, seconds_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from kling_flows.engine.reconcile import Reconciliation
    from kling_flows.upstream import ResourcePack


@command("config", "json", "no_color", "quiet", *SETTINGS_OPTIONS)
def account(
    shared: Shared,
    since: Annotated[
        str, typer.Option("--since", metavar="PERIOD", callback=check_period, help="How far back, in m, h or d.")
    ] = "30d",
    reconcile: Annotated[
        bool, typer.Option("--reconcile", help="Also compare each bill with the ledger; needs an API key.")
    ] = False,
) -> None:
    """Show what the account at the provider has left, without a server; the provider's figures lag up to 12 hours."""
    from kling_flows.cli.output import Output

    output = Output(shared)
    start = datetime.now(UTC) - timedelta(seconds=seconds_of(since))
    name, packs, books = asyncio.run(_ask(shared, start, reconcile=reconcile))
    if output.json:
        output.document(_document(name, packs, books))
        return
    output.result(_pack_table(packs))
    output.note(f"The account {name}" + ("." if packs else " has no resource packs."))
    if books is not None:
        if books.disagreements:
            output.result(_disagreement_table(books))
        output.note(
            f"{books.tasks} tasks were billed {books.billed} units; {len(books.disagreements)} not as the ledger says."
        )


async def _ask(
    shared: Shared, start: datetime, *, reconcile: bool
) -> tuple[str, Sequence[ResourcePack], Reconciliation | None]:
    from kling_flows.upstream import UpstreamClient

    settings = shared.settings()
    async with UpstreamClient(settings.account()) as client:
        packs = await client.account_costs(start, datetime.now(UTC))
        books = await _books(settings.ledger_address, client, start) if reconcile else None
        return client.account.name, packs, books


async def _books(ledger_url: str, client: Any, start: datetime) -> Reconciliation:
    from kling_flows.engine.reconcile import reconcile
    from kling_flows.ledger import Ledger

    async with await Ledger.open(ledger_url) as ledger:
        return await reconcile(ledger, client, since=start)


def _pack_table(packs: Sequence[ResourcePack]) -> Table:
    from kling_flows.cli.output import plain_table

    table = plain_table("PACK", "STATUS", "TOTAL", "REMAINING", "EXPIRES")
    for pack in packs:
        table.add_row(
            pack.name or pack.id,
            pack.status,
            "" if pack.total is None else f"{pack.total:f}",
            "" if pack.remaining is None else f"{pack.remaining:f}",
            "" if pack.expires_at is None else pack.expires_at.astimezone().strftime("%Y-%m-%d"),
        )
    return table


def _disagreement_table(books: Reconciliation) -> Table:
    from kling_flows.cli.output import plain_table

    table = plain_table("DIFFERENCE", "UPSTREAM TASK", "BILLED", "NOTED", "QUOTED", "VIDEO TASK")
    for item in books.disagreements:
        table.add_row(
            item.difference.value,
            item.upstream_task_id,
            *("" if amount is None else f"{amount:f}" for amount in (item.billed, item.settled, item.quoted)),
            item.video_task,
        )
    return table


def _document(name: str, packs: Sequence[ResourcePack], books: Reconciliation | None) -> dict[str, Any]:
    result: dict[str, Any] = {"account": name, "packs": [_plain(asdict(pack)) for pack in packs]}
    if books is not None:
        result["reconciliation"] = {
            "tasks": books.tasks,
            "billed_units": f"{books.billed:f}",
            "disagreements": [_plain(asdict(item)) for item in books.disagreements],
        }
    return result


def _plain(values: dict[str, Any]) -> dict[str, str | None]:
    return {
        name: None if value is None else value.isoformat() if isinstance(value, datetime) else str(value)
        for name, value in values.items()
    }
