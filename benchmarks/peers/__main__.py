"""``python -m benchmarks.peers``: run peers under scenarios, print their figures, write them as JSON and as a page."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

import httpx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.peers import page, results
from benchmarks.peers.contract import Peer, peers
from benchmarks.peers.environments import Environment, NotInstalled, cache_folder, install
from benchmarks.peers.figures import FIGURES
from benchmarks.peers.places import Place
from benchmarks.peers.plan import HEAVY_PLACES, LIGHT_PLACES, Planned, duration, fitting, plan
from benchmarks.peers.processes import NotReady
from benchmarks.peers.results import Stored, Told
from benchmarks.peers.run import measure
from benchmarks.peers.scenarios import SCENARIOS
from benchmarks.peers.services import prepare

#: A load may take this many times its estimate, and so many seconds at least, before it is ended.
_PATIENCE: Final = 2.5
_LEAST_PATIENCE: Final = 300.0

#: What it takes to start and to end a run on a busy machine, in seconds.
_AROUND: Final = 120.0

#: End everything, as Ctrl-C does.
_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)


class Session:
    """One call of the command.

    Args:
        console: To print on.
        deadline: Monotonic time at which all has to have ended.
        keep: Whether the folders with data and logs stay.
    """

    def __init__(self, console: Console, deadline: float, *, keep: bool) -> None:
        #: Rows that did not fit into the time, and why others or whole peers could not be measured.
        self.left_out: list[str] = []
        self.failed: dict[str, str] = {}
        #: Rows that were measured, and the peers in them.
        self.measured: set[str] = set()
        #: Versions of the services that are used.
        self.services: dict[str, str] = {}
        #: Whether our own side lost a video, paid one twice, or missed a change.
        self.bad = False
        self._console = console
        self._deadline = deadline
        self._keep = keep
        self._cache = cache_folder()
        self._environments: dict[str, Environment] = {}

    def install(self, chosen: Sequence[Peer]) -> None:
        """Make the environments and what their services need; peers without are not run."""
        for peer in chosen:
            if peer.not_measured is not None:
                continue
            self._console.print(f"installing {peer.name}")
            try:
                self.services |= {name: prepare(name, self._cache) for name in peer.services}
                self._environments[peer.name] = install(peer, self._cache)
            except NotInstalled as error:
                self._console.print(f"[red]{peer.name} cannot be installed[/]: {escape(str(error))}")
                self.failed[peer.name] = f"not installed: {str(error).splitlines()[-1]}"

    async def run(self, taken: Sequence[Planned], left: Sequence[Planned]) -> None:
        """Run what was planned: first what can run beside others, several at a time, then the rest one by one.

        What is left runs if that was quicker than expected, in its own order.
        """
        own = asyncio.current_task()
        assert own is not None
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, own.cancel)
        batches = [taken, *(list(alike) for _, alike in groupby(left, lambda one: one.row.scenario.measured))]
        for batch in batches:
            await self._run_batch([one for one in batch if one.row.peer.name in self._environments])

    async def _run_batch(self, planned: Sequence[Planned]) -> None:
        light, heavy = asyncio.Semaphore(LIGHT_PLACES), asyncio.Semaphore(HEAVY_PLACES)

        async def measure_beside(one: Planned) -> None:
            async with Place(heavy if one.heavy else light) as place:
                await self._measure(one, place.leave)

        beside = [one for one in planned if not one.row.scenario.measured]
        async with asyncio.TaskGroup() as group:
            # What takes longest begins, or all others would wait for it in the end.
            for one in sorted(beside, key=lambda one: one.seconds, reverse=True):
                group.create_task(measure_beside(one))
        for one in planned:
            if one.row.scenario.measured:
                await self._measure(one)

    async def _measure(self, one: Planned, idle: Callable[[], None] = lambda: None) -> None:
        row = one.row
        if one.seconds > self._deadline - time.monotonic():
            self.left_out.append(row.label)
            return
        self._console.print(f"{time.strftime('%H:%M:%S')} {row.label}")
        folder = Path(tempfile.mkdtemp(prefix="kling-flows-peer-"))
        limit = min(max(one.seconds * _PATIENCE, _LEAST_PATIENCE), self._deadline - time.monotonic())
        environment = self._environments[row.peer.name]
        keep = self._keep
        try:
            async with asyncio.timeout(limit + _AROUND):
                seen = await measure(row, environment, folder, self._cache, limit, idle)
            stored = results.write(row, environment, seen)
            self.measured |= {row.label, row.peer.name}
            _show(self._console, row.label, stored)
            self.bad |= row.peer.ours and any(stored.figures[name] for name in ("doubles", "lost", "missed"))
        except (NotReady, NotInstalled, httpx.HTTPError, TimeoutError, OSError) as error:
            keep = True
            self._console.print(f"[red]{row.label}[/]: {escape(str(error) or repr(error))}", soft_wrap=True)
            self.failed[row.label] = str(error).partition("\n")[0] or repr(error)
        finally:
            if keep:
                self._console.print(f"data and logs: {folder}", soft_wrap=True)
            else:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for.

    Returns:
        0; 1 if our own side lost a video, paid one twice, or could not be run; 130 if it was interrupted.
    """
    options = _parse(arguments)
    console = Console()
    if options.page_only:
        page.write()
        return 0
    for number in _SIGNALS:
        signal.signal(number, signal.default_int_handler)
    try:
        return _run(options, console)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


def _run(options: argparse.Namespace, console: Console) -> int:
    began = time.monotonic()
    chosen = [peer for peer in peers() if not options.peer or {peer.name, peer.folder.name} & set(options.peer)]
    planned = plan(chosen, scenarios=options.scenario, tasks=options.tasks, repeats=options.repeats)
    if options.missing:
        planned = [one for one in planned if not results.is_stored(one.row)]
    taken, left = fitting(planned, options.minutes * 60)
    _show_plan(console, taken, left, options.minutes)
    if options.plan:
        return 0
    former = results.session() if options.missing else None
    if options.fresh:
        results.forget()
    session = Session(console, began + options.minutes * 60, keep=options.keep)
    session.install(chosen)
    asyncio.run(session.run(taken, left))
    if options.write:
        command = shlex.join(["python", "-m", "benchmarks.peers", *options.given])
        results.write_session(
            Told(
                command=command,
                minutes=(time.monotonic() - began) / 60,
                left_out=session.left_out,
                failed=session.failed,
                services=list(session.services.values()),
            ),
            session.measured,
            former,
        )
        console.print(f"written: {page.write()}", soft_wrap=True)
    ours = [one.row.label for one in planned if one.row.peer.ours]
    return 1 if session.bad or any(label in session.failed for label in ours) else 0


def _show_plan(console: Console, taken: Sequence[Planned], left: Sequence[Planned], minutes: float) -> None:
    table = Table(title=f"Plan: about {duration(taken) / 60:.0f} of {minutes:g} minutes")
    for header in ("run", "takes at most, minutes", "of the whole, minutes"):
        table.add_column(header)
    for one in taken:
        table.add_row(one.row.label, f"{one.seconds / 60:.1f}", f"{one.share / 60:.1f}")
    console.print(table)
    if left:
        console.print("Only if time is left: " + "; ".join(one.row.label for one in left))


def _show(console: Console, label: str, stored: Stored) -> None:
    shown = [
        f"{figure.title} {value:.{figure.digits}f}"
        for name, figure in FIGURES.items()
        if (value := stored.figures[name]) is not None and figure.is_for(stored.scenario)
    ]
    notes = ["gave up"] if stored.gave_up else []
    if SCENARIOS[stored.scenario].kill and not stored.killed:
        notes.append("was not killed: the moment did not come")
    console.print(f"  {label}: {'; '.join([*notes, *shown])}", soft_wrap=True, highlight=False)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description="kling-flows beside the alternatives."
    )
    parser.add_argument("--peer", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    parser.add_argument(
        "--scenario",
        action="append",
        default=[],
        metavar="NAME",
        help=f"only this or this family: {', '.join(SCENARIOS)}",
    )
    parser.add_argument("--tasks", type=int, help="most jobs of each run (default: the scenario's)")
    parser.add_argument("--repeats", type=int, default=1, help="of the bursts of 1,000 (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=57.0, help="for everything (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="write the page and the plots")
    former = parser.add_mutually_exclusive_group()
    former.add_argument("--fresh", action="store_true", help="forget former results first")
    former.add_argument(
        "--missing", action="store_true", help="only what has no result yet, to go on after a whole run"
    )
    parser.add_argument("--plan", action="store_true", help="only show what would be run")
    parser.add_argument("--page-only", action="store_true", help="only write the page, from the results that are there")
    parser.add_argument("--keep", action="store_true", help="keep the data and the logs of every run")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    options.given = given
    return options


if __name__ == "__main__":
    sys.exit(main())
