"""Figures for people and for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.aims import Verdict
from benchmarks.figures import Figures, PlainFigures, Spread
from benchmarks.meter import COUNTED
from benchmarks.scenarios import Scenario

RESULTS: Final = Path(__file__).parent / "results"

#: What the figures depend on most.
_PACKAGES: Final = ("kling-flows", "prefect", "grpcio", "protobuf", "sqlalchemy")

_UNKNOWN: Final = "–"


def write(scenario: Scenario, figures: Figures, verdicts: Sequence[Verdict]) -> Path:
    """Write all figures as JSON; answers the file."""
    return write_figures(scenario.name, asdict(scenario), figures, verdicts)


def write_figures(name: str, scenario: Mapping[str, Any], figures: Any, verdicts: Sequence[Verdict]) -> Path:
    """Write the figures, which are a dataclass, as ``name``.json; answers the file."""
    document = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "scenario": scenario,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in _PACKAGES},
        "figures": asdict(figures),
        "aims": [asdict(verdict) for verdict in verdicts],
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps(document, indent=2) + "\n")
    return file


def show(console: Console, scenario: Scenario, figures: Figures, verdicts: Sequence[Verdict]) -> None:
    """Print all figures as tables."""
    console.print(_figures_table(scenario, figures))
    console.print(_processes_table(figures))
    show_aims(console, verdicts)


def show_aims(console: Console, verdicts: Sequence[Verdict]) -> None:
    """Print what is aimed at and what was reached."""
    console.print(_aims_table(verdicts))


def _figures_table(scenario: Scenario, figures: Figures) -> Table:
    shortest, longest = scenario.seconds
    table = Table(
        title=f"{scenario.name}: {scenario.summary}; {scenario.tasks} tasks, videos of {shortest:g} to {longest:g} s",
        show_header=False,
    )
    table.add_column("figure")
    table.add_column("value")
    latencies = ("p50", "p99", "longest")
    rows = (
        ("tasks finished", f"{figures.finished} of {figures.tasks} in {figures.measured_seconds:.1f} s"),
        ("creates per second", f"{figures.creates_per_second:.1f}"),
        ("create, ms", spread_text(figures.create_ms, *latencies)),
        ("empty handler, ms", spread_text(figures.empty_ms, *latencies)),
        ("create / empty handler, p50", number_text(figures.create_to_empty, 2)),
        ("start latency, s", spread_text(figures.start_seconds, "p50", "p95", "longest")),
        ("last task started after, s", number_text(figures.last_start_seconds, 2)),
        ("last task accepted after, s", number_text(figures.last_accept_seconds, 2)),
        ("detection lag, s", spread_text(figures.detection_seconds, "p50", "p95", "p99", "longest")),
        ("upstream calls per task", ", ".join(f"{kind} {n:.2f}" for kind, n in figures.calls_per_task.items())),
        ("upstream reads per task", number_text(figures.reads_per_task, 3)),
        ("Prefect flow runs", str(figures.flow_runs)),
        ("most tasks in flight", str(figures.most_in_flight)),
    )
    for row in (*rows, *_plain_rows(figures.plain)):
        table.add_row(*row)
    return table


def _plain_rows(plain: PlainFigures | None) -> Sequence[tuple[str, str]]:
    if plain is None:
        return ()
    return (
        ("plain poller: tasks finished", str(plain.finished)),
        ("plain poller: detection lag, s", spread_text(plain.detection_seconds, "p50", "p95", "p99", "longest")),
        ("plain poller: upstream reads per task", number_text(plain.reads_per_task, 3)),
        ("plain poller: CPU ms/task, its process only", number_text(plain.cpu_ms_per_task, 1)),
    )


def _processes_table(figures: Figures) -> Table:
    table = Table(title="CPU and memory", show_footer=True)
    table.add_column("process", "all but (…)", no_wrap=True)
    counted = [figures.processes[role] for role in COUNTED]
    for header, footer in (
        ("CPU s", f"{sum(process.cpu_seconds for process in counted):.2f}"),
        ("CPU ms/task", number_text(figures.cpu_ms_per_task, 1)),
        ("idle CPU s/s", f"{sum(process.idle_cpu_per_second for process in counted):.3f}"),
        ("RSS MiB before", f"{sum(process.rss_before_mib for process in counted):.1f}"),
        ("RSS MiB at peak", f"{sum(process.rss_peak_mib for process in counted):.1f}"),
        ("KiB/task in flight", ""),
    ):
        table.add_column(header, footer, justify="right")
    for role, process in figures.processes.items():
        table.add_row(
            role if role in COUNTED else f"({role})",
            f"{process.cpu_seconds:.2f}",
            number_text(process.cpu_ms_per_task, 1),
            f"{process.idle_cpu_per_second:.3f}",
            f"{process.rss_before_mib:.1f}",
            f"{process.rss_peak_mib:.1f}",
            number_text(process.rss_kib_per_task, 1),
        )
    return table


def _aims_table(verdicts: Sequence[Verdict]) -> Table:
    table = Table(title="Aims")
    for header in ("aim", "at most", "measured", ""):
        table.add_column(header)
    for verdict in verdicts:
        table.add_row(
            verdict.name,
            f"{verdict.limit:g} {verdict.unit}",
            number_text(verdict.figure, 2).removesuffix(".00"),
            "[green]met[/]" if verdict.met else "[red]not met[/]",
        )
    return table


def spread_text(spread: Spread | None, *parts: str) -> str:
    """Some of its parts; a dash if it is not known."""
    if spread is None:
        return _UNKNOWN
    return ", ".join(f"{part} {getattr(spread, part):.2f}" for part in parts)


def number_text(value: float | None, digits: int) -> str:
    """So many digits; a dash if it is not known."""
    return _UNKNOWN if value is None else f"{value:.{digits}f}"
