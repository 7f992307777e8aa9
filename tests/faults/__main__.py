"""``python -m tests.faults``: the full form."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.audit import Kind
from tests.faults.scenarios import SCENARIOS, Result, run
from tests.stack import ROOT

_PAGE = ROOT / "docs" / "reliability.md"

_HEADINGS = ("Fault", "Trials", "Hits", "Doubles", "Lost", "Not archived", "Worst recovery (s)")

_WORDS = """\
# Reliability

What is promised: no video is paid for twice, and no paid video is lost. What is measured: real processes
(`kling-flows serve` with front, runner and Prefect server, and the sandbox in the provider's place), orders over gRPC,
and faults while they are in flight. Afterwards the ledger, the provider's charge book and the archive are compared,
order by order.

    make faults

- **Trials**: videos ordered. **Hits**: calls that the fault struck, or kills.
- **Doubles**: charges beyond one per order, and charges that no order explains.
- **Lost**: orders that did not end as they should, or whose task does not hold what was paid for.
- **Not archived**: succeeded tasks whose file is missing or is not the one that its manifest's SHA-256 describes.
- **Worst recovery**: after a kill, the longest time until the killed role worked again (for the runner: until it wrote
  its first step); otherwise the longest time that one submit or one archive step took, its repetitions included.

{table}

A shorter form is among the tests (`tests/faults`). One of them gives the runner a deliberate bug, and expects this
check to find the doubles.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios; returns 1 if anything was paid twice or lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Break everything, then count.")
    parser.add_argument("--tasks", type=int, default=200, help="videos per scenario (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="moments and calls that are hit (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), metavar="SCENARIO")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep logs and ledgers there")
    parser.add_argument("--write", action="store_true", help=f"write {_PAGE.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="kling-flows-faults-") as temporary:
        folder = (options.keep or Path(temporary)).absolute()
        results: list[Result] = []
        for name in options.only:
            with console.status(SCENARIOS[name].fault):
                result = asyncio.run(
                    run(name, folder / name, options.tasks, seconds="3:6", seed=options.seed, patience=300.0)
                )
            results.append(result)
            console.print(f"{name}: {' | '.join(_cells(result)[1:])}", highlight=False)
            for finding in result.audit.findings:
                console.print(f"  {finding.kind}: {finding.words}", highlight=False)
    console.print(_table(results))
    if options.write:
        _PAGE.write_text(_WORDS.format(tasks=options.tasks, seed=options.seed, table=_markdown(results)))
    return int(any(result.audit.count(kind) for result in results for kind in (Kind.DOUBLE, Kind.LOST)))


def _cells(result: Result) -> list[str]:
    counts = (str(result.audit.count(kind)) for kind in Kind)
    return [result.scenario.fault, str(result.trials), str(result.hits), *counts, f"{result.worst_recovery:.1f}"]


def _table(results: Sequence[Result]) -> Table:
    table = Table()
    for number, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if number else "left", min_width=0 if number else 30)
    for result in results:
        table.add_row(*_cells(result))
    return table


def _markdown(results: Sequence[Result]) -> str:
    rows = [_HEADINGS, ["---", *["---:"] * (len(_HEADINGS) - 1)], *map(_cells, results)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
