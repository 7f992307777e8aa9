"""``kling-flows ledger``: the database itself, without a server."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from kling_flows.cli.options import Shared, command

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPTIONS = ("config", "json", "no_color", "quiet", "state_dir", "ledger_url")

ledger = typer.Typer(help="Set up the ledger's database, and move a ledger from one to another.", no_args_is_help=True)


@ledger.command()
@command(*_OPTIONS)
def migrate(shared: Shared) -> None:
    """Make the ledger, or bring its schema up to date. Servers do it by themselves if their role may."""
    from kling_flows.cli.output import Output
    from kling_flows.ledger import Ledger

    output = Output(shared)

    async def run() -> tuple[str, str]:
        async with await Ledger.open(shared.settings().ledger_address) as opened:
            return opened.ledger_id, await opened.read_schema()

    ledger_id, schema = asyncio.run(run())
    if output.json:
        output.document({"ledger_id": ledger_id, "schema": schema})
    else:
        output.note(f"The ledger {ledger_id} has schema {schema}.")


@ledger.command()
@command(*_OPTIONS)
def export(
    shared: Shared,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; must not exist.")],
    live: Annotated[bool, typer.Option("--live", help="Although a runner uses it: a backup, not a move.")] = False,
) -> None:
    """Write the whole ledger to a file. For a move, stop everything that uses it first, and do not start it again.

    The file holds prompts and the key of resume tokens: only its owner may read it.
    """
    from kling_flows.ledger import Ledger

    async def run(target: IO[str]) -> dict[str, int]:
        async with await Ledger.open(shared.settings().ledger_address) as opened:
            return await opened.export(target, live=live)

    if file.exists():
        raise typer.BadParameter(f"{file} exists; name another one", param_hint="FILE")
    # A file of that name is either not there or whole.
    beside = file.with_name(f"{file.name}.part")
    try:
        with open(os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w+", encoding="utf-8") as target:
            counts = asyncio.run(run(target))
            target.flush()
            os.fsync(target.fileno())
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
    _report(shared, counts, "written")


@ledger.command("import")
@command(*_OPTIONS)
def import_(
    shared: Shared,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What export has written.", exists=True, dir_okay=False)],
) -> None:
    """Fill an empty ledger from a file. It becomes the exported one: resume tokens and positions stay valid."""
    from kling_flows.ledger import Ledger

    async def run(source: IO[str]) -> dict[str, int]:
        async with await Ledger.open(shared.settings().ledger_address) as opened:
            return await opened.import_(source)

    with open(file, encoding="utf-8") as source:
        counts = asyncio.run(run(source))
    _report(shared, counts, "read")


def _report(shared: Shared, counts: Mapping[str, int], done: str) -> None:
    from kling_flows.cli.output import Output

    output = Output(shared)
    if output.json:
        output.document({"rows": dict(counts)})
    else:
        output.note(f"{counts['video_tasks']} video tasks and {counts['events']} events were {done}.")
