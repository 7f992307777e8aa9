"""The page of the documentation, made from the results alone."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import Growth
from benchmarks.peers import aims, environments, growth, results
from benchmarks.peers.cells import Cell, Cells, measured
from benchmarks.peers.contract import FOLDER, OURS, Kind, peers
from benchmarks.peers.figures import FIGURES, Figure, Several
from benchmarks.peers.scenarios import SCENARIOS

DOCS: Final = FOLDER.parents[1] / "docs"
PAGE: Final = DOCS / "explanation" / "scoreboard.md"
IMAGES: Final = DOCS / "images"

#: What explains each figure at which we are not the best.
EXPLANATIONS: Final = FOLDER / "explanations.toml"

_UNKNOWN: Final = "–"

#: The line of a requirements file below which is what the lines above need.
_NEEDED: Final = "# What they need:"

_INTRODUCTION: Final = """\
# Scoreboard

kling-flows beside what a user would pick instead, on one machine, against the stand-in for Kling. It is written by
`make bench-full` and, for what does not fit into its hour, by `make bench-rest`;
[benchmarks](../../benchmarks/README.md#the-scoreboard) says how each figure is measured. `benchmarks/peers/` has every
peer's code: tell us where one is not what its own users would write.
"""
_READING: Final = """\
- All ask at the same interval, but for the quickstarts' loops, whose own is in their name, and the one in the style of
  fal, which begins with 0.5 s and grows to it. Ours reads a list, and sooner than the interval, down to every 1.5 s,
  while one page of it shows more than a hundred tasks: the reads that this costs are in the table.
- Bursts of 1,000 ran several times: the median, then the least and the most. Everything else ran once.
- Detection lag is from the end of the video at the provider to the peer's result, with the download.
- CPU counts every process that a side needs, databases, brokers and servers included, from the first job to the end.
- *Plain* is what a tool's documentation shows; *careful* sends the job's id as `external_task_id` and asks for it after
  an unknown outcome, because a careful user could. Ours has no other variant.
- "Lost" is a job without a whole video when nothing has happened for 90 s, or longer where that is said below; a broker
  that repeats it after an hour would still come. "Paid twice" is a charge in the stand-in's books beyond one per job.
- A kill ends the process that calls the provider with everything below it; of ours that is all of `kling-flows serve`.
- **Bold** is the best of a column, among those who lost nothing. Where jobs are fewer than the heading says, more would
  not have fitted into the time; what servers take without any load is then shared by fewer jobs.
"""

_GROWTH: Final = """\
Exponents of the bursts of all sizes, fitted by least squares on logarithmic scales. CPU, reads and memory are totals:
1.00 is linear, less gets cheaper with the number. For the lags and the rates 0.00 says that they stay as they are.
"""

#: What no run could show, or nobody would believe.
_NEVER: Final = """\
- Watches of the others: none has one that can be cut and resumed.
- Airflow and Prefect alone at ten jobs a second, or with more at once than above: they start a few a second at most.
- DBOS and Temporal with more than 1,000 in flight: the first videos would be there long before the last was asked for.
"""


def write() -> Path:
    """Write the page, and its plots if a burst was measured, from the results that are there; answers the page.

    Raises:
        NotInstalled: what draws the plots cannot be installed.
    """
    found = measured()
    PAGE.write_text(text(found, results.session()))
    if not growth.points(found):
        return PAGE
    plots = FOLDER / "plots.py"
    folder = environments.python_environment(environments.cache_folder(), "plots", environments.PLOTTING)
    data = results.FILES / "plots.json"
    data.write_text(json.dumps(_plotted(found)))
    environments.run(str(folder / "bin" / "python"), str(plots), str(data), str(IMAGES))
    return PAGE


def text(cells: Cells, session: Mapping[str, Any] | None) -> str:
    """The page."""
    parts = [_INTRODUCTION, _how(session), "## How to read it\n", _READING + _remarks()]
    if cells:
        parts += ["## Aims\n", _aims(cells)]
    for name in ("paced", "burst", "burst-100", "in-flight-5000", "in-flight-10000", "download", "watch"):
        if name in cells:
            parts += [f"## {SCENARIOS[name].title}\n", _table(name, cells[name])]
            if SCENARIOS[name].disconnects:
                parts += [
                    f"- {cell.title}: cut {cell.runs[0].figures['cuts'] or 0:.0f} times\n" for cell in cells[name]
                ]
            if SCENARIOS[name].measured:
                parts += ["CPU s per 1,000 tasks, by process:\n", _processes(cells[name])]
    faults = [name for name, scenario in SCENARIOS.items() if name in cells and scenario.breaks]
    if faults:
        parts += ["## Faults: paid twice / lost\n", _faults(cells, faults)]
    if found := growth.points(cells):
        parts += ["## Growth\n", _growth(found)]
    if cells:
        parts += ["## Where we are not the best\n", _not_best(cells)]
    parts += ["## Not measured\n", _not_measured(session)]
    if cells:
        parts += ["## Versions\n", _versions(cells, session)]
    return "\n".join(parts)


def _remarks() -> str:
    lines: list[str] = []
    for peer in peers():
        if peer.quiet_reason is not None:
            lines.append(f"- {peer.label}: lost only after {peer.quiet_seconds:g} s, because {peer.quiet_reason}.\n")
        if peer.remark is not None:
            lines.append(f"- {peer.label}: {peer.remark}\n")
    return "".join(lines)


def _how(session: Mapping[str, Any] | None) -> str:
    if session is None:
        return "`make bench-full` has not run as a whole yet; what is below, if anything, is of single runs.\n"
    machine = ", ".join(f"{name} {value}" for name, value in session["machine"].items())
    return (
        f"Measured {session['measured_at']} in {session['minutes']} minutes by `{session['command']}` on: {machine}.\n"
    )


def _table(name: str, cells: Sequence[Cell]) -> str:
    figures = {key: figure for key, figure in FIGURES.items() if figure.is_for(name)}
    shown = {key: figure for key, figure in figures.items() if any(cell.figure(key) for cell in cells)}
    load = ["jobs", "most in flight"] if SCENARIOS[name].measured else ["jobs"]
    rows = [["", *load, *(figure.title for figure in shown.values())]]
    for cell in cells:
        values = [_value(figure, cell.figure(key), best(figure, key, cells)) for key, figure in shown.items()]
        most = cell.median("most_in_flight")
        loaded = [f"{cell.tasks:,}", _UNKNOWN if most is None else f"{most:,.0f}"][: len(load)]
        rows.append([cell.title, *loaded, *values])
    return markdown(rows)


def best(figure: Figure, key: str, cells: Sequence[Cell]) -> float | None:
    """The best median of those who finished all, as it is shown; None if nobody has one."""
    compared = cells if key == "lost" else [cell for cell in cells if not _lost(cell)]
    known = [round(several.median, figure.digits) for cell in compared if (several := cell.figure(key))]
    if not known:
        return None
    return max(known) if figure.higher else min(known)


def _lost(cell: Cell) -> bool:
    several = cell.figure("lost")
    return several is not None and several.most > 0


def _value(figure: Figure, several: Several | None, best_value: float | None) -> str:
    if several is None:
        return _UNKNOWN
    shown = f"{several.median:,.{figure.digits}f}"
    if round(several.median, figure.digits) == best_value:
        shown = f"**{shown}**"
    if several.runs > 1:
        shown += f" ({several.least:,.{figure.digits}f}–{several.most:,.{figure.digits}f})"
    return shown


def _processes(cells: Sequence[Cell]) -> str:
    lines: list[str] = []
    for cell in cells:
        labels = {label: Several.of([run.cpu.get(label) for run in cell.runs]) for label in cell.runs[0].cpu}
        known = ", ".join(f"{label} {several.median:.1f}" for label, several in labels.items() if several)
        lines.append(f"- {cell.title}: {known or _UNKNOWN}")
    return "\n".join(lines) + "\n"


def _faults(cells: Cells, names: Sequence[str]) -> str:
    rows = [["", *names]]
    kinds = list(Kind)
    found = sorted(
        (cell for name in names for cell in cells[name]),
        key=lambda cell: (kinds.index(cell.peer.kind), cell.peer.name, cell.variant == "careful"),
    )
    for title in dict.fromkeys(cell.title for cell in found):
        values: list[str] = []
        for name in names:
            cell = next((cell for cell in cells[name] if cell.title == title), None)
            values.append(_UNKNOWN if cell is None else _fault(cell))
        rows.append([title, *values])
    explained = "\n".join(f"- `{name}`: {SCENARIOS[name].title}" for name in names)
    return f"{explained}\n\n{markdown(rows)}"


def _fault(cell: Cell) -> str:
    run = cell.runs[0]
    if SCENARIOS[run.scenario].kill and not run.killed:
        return "ended before the kill"
    shown = " / ".join(f"{run.figures[key] or 0:.0f}" for key in ("doubles", "lost"))
    of = f" of {run.tasks}" if run.tasks != SCENARIOS[run.scenario].tasks else ""
    return f"**{shown}**{of}" if shown == "0 / 0" else shown + of


def _aims(cells: Cells) -> str:
    rows = [["aim", "measured", ""]]
    rows += [[aim.title, aim.measured, "met" if aim.met else "**not met**"] for aim in aims.judge(cells)]
    return markdown(rows)


def _growth(found: growth.Points) -> str:
    fits = growth.fits(found)
    sizes = {title: [f"{tasks:,}" for tasks, _ in points] for title, points in found.get("CPU", {}).items()}
    rows = [["", "sizes", *growth.GROWING]]
    for title in fits.get("CPU", {}):
        exponents = [fits.get(head, {}).get(title) for head in growth.GROWING]
        rows.append([title, ", ".join(sizes[title]), *(_exponent(fit) for fit in exponents)])
    table = f"{_GROWTH}\n{markdown(rows)}\n" if len(rows) > 1 else ""
    return table + "\n".join(f"![{words}](../images/scoreboard-{name}.svg)\n" for name, words in PLOTS.items())


def _exponent(fit: Growth | None) -> str:
    return _UNKNOWN if fit is None else f"{fit.exponent:.2f}"


#: The plots by name, with their words for people who do not see them.
PLOTS: Final = {
    "cpu": "CPU per task under a burst, by process",
    "reads": "Reads at the provider per task under a burst",
    "growth": "Each figure by number of tasks, with the fitted lines",
}


def _not_best(cells: Cells) -> str:
    explained: Mapping[str, str] = tomllib.loads(EXPLANATIONS.read_text())
    places: dict[tuple[str, str], list[str]] = {}
    for scenario, found in cells.items():
        ours = next((cell for cell in found if cell.peer.name == OURS), None)
        for key, figure in FIGURES.items():
            median = ours.median(key) if ours else None
            best_value = best(figure, key, found)
            if median is None or best_value is None or not figure.is_for(scenario):
                continue
            if round(median, figure.digits) != best_value:
                words = explained.get(f"{key}:{scenario}", explained[key])
                values = f"{median:,.{figure.digits}f}, the best {best_value:,.{figure.digits}f}"
                places.setdefault((figure.title, words), []).append(f"{values} ({SCENARIOS[scenario].title})")
    lines = [f"- **{title}**: {'; '.join(where)}. {words}" for (title, words), where in places.items()]
    return "\n".join(lines or ["Nowhere in this run."]) + "\n"


def _not_measured(session: Mapping[str, Any] | None) -> str:
    lines = [f"- {peer.label}: {peer.not_measured}" for peer in peers() if peer.not_measured is not None]
    if session is not None:
        lines += [f"- {label}: {reason}" for label, reason in session["failed"].items()]
        left = session["left_out"]
        rows = [label.split(": ", 1) for label in left if ", repeat" not in label]
        for scenario in dict.fromkeys(scenario for scenario, _ in rows):
            who = "; ".join(peer for name, peer in rows if name == scenario)
            lines.append(f"- {scenario}, left out as the time was over: {who}")
        if repeats := sum(", repeat" in label for label in left):
            lines.append(f"- repeats, left out as the time was over: {repeats}")
    return "\n".join(lines) + f"\n{_NEVER}"


def _versions(cells: Cells, session: Mapping[str, Any] | None) -> str:
    of_peers = {cell.peer.title: cell for found in cells.values() for cell in found}
    titles = dict.fromkeys(peer.title for peer in peers())
    lines = [f"- {title}: {_packages(of_peers[title])}" for title in titles if title in of_peers]
    lines += [f"- {line}" for line in (session or {}).get("services", ())]
    return "\n".join(lines) + "\n"


def _packages(cell: Cell) -> str:
    """What a peer asks for by itself; the rest, which these need, is in its file."""
    listed = cell.peer.folder / "requirements.txt"
    pinned = cell.runs[0].packages
    if not listed.exists():
        return ", ".join(pinned) or _UNKNOWN
    asked = {_name(pin) for pin in environments.packages(listed.read_text().partition(_NEEDED)[0])}
    own = [pin for pin in pinned if _name(pin) in asked]
    rest = f", and {len(pinned) - len(own)} that these need" if len(pinned) > len(own) else ""
    return ", ".join(own) + rest


def _name(pin: str) -> str:
    return pin.partition("==")[0]


def _plotted(cells: Cells) -> Mapping[str, Any]:
    burst = cells.get("burst") or cells.get("burst-100", ())
    reads = {cell.title: several.median for cell in burst if (several := cell.figure("reads_per_task"))}
    found = growth.points(cells)
    fits = {
        head: {title: [fit.factor, fit.exponent] for title, fit in by_peer.items()}
        for head, by_peer in growth.fits(found).items()
    }
    units = {head: growing.unit for head, growing in growth.GROWING.items()}
    cpu = {cell.title: cell.runs[0].cpu for cell in burst}
    return {"cpu": cpu, "reads": reads, "growth": found, "fits": fits, "units": units}


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """A table; its first row is the heading, and all columns but the first are numbers."""
    head, *body = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
