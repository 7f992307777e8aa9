"""``python -m tests.faults``: the full form."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.audit import Kind
from tests.faults.registry import BY_NAME, SCENARIOS, play
from tests.faults.scenarios import Result
from tests.stack import ROOT

_PAGE = ROOT / "docs" / "reliability.md"

_AT = "`KLING_FLOWS_TEST_CRASH_AT=after-intent:7:3`"

_HEADINGS = ("Fault", "Trials", "Hits", "Doubles", "Lost", "Not archived", "Worst recovery (s)")

_WORDS = """\
# Reliability

What is promised: no video is paid for twice, and no paid video is lost. What is measured: real processes
(`kling-flows serve` with front, runner and Prefect server, and the sandbox in the provider's place), orders over gRPC,
and faults while they are in flight. Afterwards the ledger, the provider's charge book and the archive are compared,
order by order.

    make faults

- **Trials**: videos ordered. **Hits**: calls that the fault struck, or processes killed or stopped.
- **Doubles**: charges beyond one per order, and charges that no order explains.
- **Lost**: orders that did not end as they should, or whose task does not hold what was paid for.
- **Not archived**: succeeded tasks whose file is missing or is not the one that its manifest's SHA-256 describes.
- **Worst recovery**: after a kill under the supervisor, the longest time until the killed role worked again (for the
  runner: until it wrote its first step, or died at the next planned place; the supervisor waits 0.5 s before the first
  new start and twice as long before each further one); with two runners, until the other one carried all that the dead
  or stopped one held; otherwise the longest time that one submit or one archive step took, its repetitions included.

{table}

{sum}

## How a process dies at a boundary

A runner or a front that is told to counts how often it passes a boundary between two steps and sends itself SIGKILL at
the given passing ({at}); the supervisor starts it again, and it dies there
again, until it has died as often as planned. Nothing of that is in the product: `tests/faults/mortal.py` wraps its
functions from outside. `python -m tests.faults --list` names all scenarios, `--only NAME ... --tasks N` plays some.

## Several runners on one ledger

On one machine a dead runner is recognised by its lock file, which the kernel lets go of; another machine's by its beat,
which then stands still for 15 s. A runner that was stopped for longer than that and wakes finds its lease gone: in the
trial the other runner is at rest while it wakes, so that any write would be its own. There is none, but for answers to
creates that were on their way to it when it was stopped: what is paid is written down by whoever learns of it. It ends
with exit code 75, and its flow runs are shown as Crashed.

## That the check would find it

A shorter form is among the tests (`tests/faults`). Two of them give the runner a deliberate bug: one does not look
after an unknown outcome, the other sends before it has written its intent and then dies. Both expect this check to find
the doubles.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios; returns 1 if anything was paid twice or lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Break everything, then count.")
    parser.add_argument("--tasks", type=int, default=100, help="videos per scenario (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="moments and calls that are hit (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(BY_NAME), default=list(BY_NAME), metavar="SCENARIO")
    parser.add_argument("--at-once", type=int, default=2, help="scenarios side by side (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep logs and ledgers there")
    parser.add_argument("--write", action="store_true", help=f"write {_PAGE.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    console = Console()
    if options.list:
        for scenario in SCENARIOS:
            console.print(f"{scenario.name}: {scenario.fault}", highlight=False, soft_wrap=True)
        return 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kling-flows-faults-") as temporary:
        folder = (options.keep or Path(temporary)).absolute()
        results = _play(console, options, folder)
    console.print(_table(results))
    in_sum = _sum(results)
    console.print(f"{in_sum} It took {(time.monotonic() - began) / 60:.0f} minutes.", highlight=False)
    if options.write:
        _PAGE.write_text(_WORDS.format(table=_markdown(results), sum=in_sum, at=_AT))
    return int(any(_count(results, kind) for kind in Kind))


def _play(console: Console, options: argparse.Namespace, folder: Path) -> list[Result]:
    # Each in a process of its own: starting and stopping servers would hold up the clock of the others.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.at_once, mp_context=spawn, max_tasks_per_child=1) as pool:
        futures = [pool.submit(play, name, folder, options.tasks, options.seed) for name in options.only]
        for future in as_completed(futures):
            result = future.result()
            console.print(f"{result.name}: {' | '.join(_cells(result)[1:])}", highlight=False, soft_wrap=True)
            for finding in result.audit.findings:
                console.print(f"  {finding.kind}: {finding.words}", highlight=False, soft_wrap=True)
        return [future.result() for future in futures]


def _sum(results: Sequence[Result]) -> str:
    trials, hits = sum(result.trials for result in results), sum(result.hits for result in results)
    counts = ", ".join(f"{_count(results, kind)} {kind}" for kind in Kind)
    return f"In sum {trials} videos, {hits} hits: {counts}."


def _count(results: Sequence[Result], kind: Kind) -> int:
    return sum(result.audit.count(kind) for result in results)


def _cells(result: Result) -> list[str]:
    counts = (str(result.audit.count(kind)) for kind in Kind)
    return [BY_NAME[result.name].fault, str(result.trials), str(result.hits), *counts, f"{result.worst_recovery:.1f}"]


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
