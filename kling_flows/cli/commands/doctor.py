"""``kling-flows doctor``."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import typer

from kling_flows.cli.options import CLIENT_OPTIONS, SETTINGS_OPTIONS, Shared, command

if TYPE_CHECKING:
    from rich.text import Text

    from kling_flows.cli.doctor import Finding
    from kling_flows.cli.output import Output

_STYLES: Final = {"ok": "green", "warning": "yellow", "problem": "bold red"}
_LEVEL_WIDTH: Final = 8
_CHECK_WIDTH: Final = 15


@command(*CLIENT_OPTIONS, *SETTINGS_OPTIONS)
def doctor(shared: Shared) -> None:
    """Look at everything that can be wrong here, and say what to do.

    Keys, the way to the provider, clock, ledger, archive, Prefect, ports, certificates. Nothing is changed and nothing
    is bought. With --server only what a client of that server needs; with --quiet only what is wrong. Exit code 15:
    there are problems.
    """
    from kling_flows.cli.exit_codes import PROBLEMS
    from kling_flows.cli.output import Output

    output = Output(shared)
    counts = Counter(finding.level.value for finding in asyncio.run(_examine(shared, output)))
    if not output.json:
        output.note(f"{counts['ok']} ok, {counts['warning']} warnings, {counts['problem']} problems.")
    if counts["problem"]:
        raise typer.Exit(PROBLEMS)


async def _examine(shared: Shared, output: Output) -> list[Finding]:
    from kling_flows.cli.doctor import Level, examine

    findings: list[Finding] = []
    async for finding in examine(shared, output):
        findings.append(finding)
        if output.jsonl:
            output.document(_document(finding))
        elif not output.json and (finding.level is not Level.OK or not output.quiet):
            output.result(_line(finding))
    if output.json and not output.jsonl:
        output.document({"checks": [_document(finding) for finding in findings]})
    return findings


def _line(finding: Finding) -> Text:
    from rich.text import Text

    from kling_flows.cli.output import printable

    remedy = ("  → " + printable(finding.remedy), "bold") if finding.remedy else ""
    return Text.assemble(
        (f"{finding.level.value:<{_LEVEL_WIDTH}}", _STYLES[finding.level.value]),
        f"{finding.check:<{_CHECK_WIDTH}}",
        printable(finding.found),
        remedy,
    )


def _document(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "level": finding.level.value,
        "found": finding.found,
        "remedy": finding.remedy,
    }
