"""The figures of the scenario ``front`` for people."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.front.figures import FrontFigures
from benchmarks.report import spread_text

NAME: Final = "front"
SUMMARY: Final = "the gRPC server by itself, beside bare gRPC"


def show(console: Console, figures: FrontFigures) -> None:
    """Print all figures as a table."""
    table = Table(title=f"{NAME}: {SUMMARY}", show_header=False)
    table.add_column("figure")
    table.add_column("value")
    latencies = ("p50", "p99", "longest")
    for row in (
        ("creates per second, 256 in flight", f"{figures.creates_per_second:.0f}"),
        ("the same of the empty handler", f"{figures.empty_per_second:.0f}"),
        ("creates / empty handler", f"{figures.of_empty:.0%}"),
        ("server CPU per create, ms", f"{figures.create_cpu_ms:.2f} (empty handler {figures.empty_cpu_ms:.2f})"),
        ("create, ms", spread_text(figures.create_ms, *latencies)),
        ("empty handler, ms", spread_text(figures.empty_ms, *latencies)),
        ("burst", f"{figures.burst} creates, {figures.burst_shed} shed, {figures.burst_seconds:.1f} s"),
        *(
            (
                f"event to last of {fan_out.watches} watches, ms",
                f"{fan_out.told_ms:.0f} (bare fan-out {fan_out.bare_ms:.0f}, ratio {fan_out.to_bare:.2f})",
            )
            for fan_out in figures.fan_outs
        ),
        ("memory of an idle watch, KiB", f"{figures.kib_per_watch:.1f}"),
        ("growth while idle, KiB a minute", f"{figures.idle_kib_per_minute:.0f}"),
        ("unary call beside idle watches, ms", spread_text(figures.unary_ms, *latencies)),
        ("unary call while all are told, ms", spread_text(figures.unary_told_ms, *latencies)),
        ("watches that ended", str(figures.broken_watches)),
    ):
        table.add_row(*row)
    console.print(table)
