"""The figures of the scenario ``scale`` for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.report import number_text, spread_text
from benchmarks.scale.figures import CellFigures

NAME: Final = "scale"
SUMMARY: Final = "thousands in flight in one process, on both ledgers, by both dispatches"


def show_steps(console: Console, cell: CellFigures) -> None:
    """Print the steps of one cell as a table."""
    console.print(_steps_table(cell))


def show(console: Console, cells: Sequence[CellFigures]) -> None:
    """Print the figures of all cells, side by side, as a table."""
    console.print(_cells_table(cells))


def _steps_table(cell: CellFigures) -> Table:
    table = Table(title=f"{NAME}: {cell.name}", caption="memory: of the processes that hold the tasks, after each step")
    for header in (
        "in flight",
        "starts/s",
        "CPU ms/start",
        "CPU s/s, all wait",
        "RSS MiB",
        "KiB/task",
        "calls/tick",
        "per 20 tasks",
    ):
        table.add_column(header, justify="right")
    for step in cell.steps:
        table.add_row(
            f"{step.in_flight:,}" + ("" if step.in_flight == step.tasks else f" of {step.tasks:,}"),
            number_text(step.starts_per_second, 1),
            f"{sum(step.start_cpu_ms.values()):.1f}",
            f"{sum(step.waiting_cpu_per_second.values()):.3f}",
            _by_process(step.rss_mib, 0),
            _by_process(step.rss_kib_per_task, 1),
            number_text(step.calls_per_tick, 1),
            number_text(step.calls_per_tick_and_batch, 2),
        )
    return table


def _cells_table(cells: Sequence[CellFigures]) -> Table:
    table = Table(title=f"{NAME}: from the first create to the last end")
    table.add_column("figure")
    for cell in cells:
        table.add_column(cell.name)
    processes = list(dict.fromkeys(label for cell in cells for label in cell.cpu_ms_per_task))
    growing = list(dict.fromkeys(what for cell in cells for what in cell.growth))
    rows = (
        ("tasks finished", [f"{cell.finished} of {cell.tasks} in {cell.seconds:.0f} s" for cell in cells]),
        ("starts per second", [number_text(cell.starts_per_second, 1) for cell in cells]),
        ("start latency, idle, s", [spread_text(cell.idle_start_seconds, "p50", "longest") for cell in cells]),
        ("CPU ms/task, all", [f"{sum(cell.cpu_ms_per_task.values()):.1f}" for cell in cells]),
        *((f"  {label}", [number_text(cell.cpu_ms_per_task.get(label), 1) for cell in cells]) for label in processes),
        ("idle CPU s/s, all", [f"{sum(cell.idle_cpu_per_second.values()):.3f}" for cell in cells]),
        ("RSS MiB before", [_by_process(cell.rss_before_mib, 0) for cell in cells]),
        ("RSS MiB at most", [_by_process(cell.rss_most_mib, 0) for cell in cells]),
        ("upstream reads per task", [number_text(cell.reads_per_task, 3) for cell in cells]),
        *((f"exponent of {what}", [number_text(cell.growth.get(what), 2) for cell in cells]) for what in growing),
        ("paid twice, lost, gaps", [f"{cell.paid_twice}, {cell.lost}, {cell.gaps}" for cell in cells]),
    )
    for name, values in rows:
        table.add_row(name, *values)
    return table


def _by_process(values: Mapping[str, float], digits: int) -> str:
    return "\n".join(f"{label} {value:.{digits}f}" for label, value in values.items())
