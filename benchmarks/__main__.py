"""``python -m benchmarks``: run scenarios, print their figures and write them as JSON."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from benchmarks import report
from benchmarks.aims import is_dependable, judge, judge_front, judge_scale
from benchmarks.figures import Figures, calculate
from benchmarks.front import report as front_report
from benchmarks.front.figures import FrontFigures, calculate_front
from benchmarks.front.run import run_front
from benchmarks.run import run
from benchmarks.scale import report as scale_report
from benchmarks.scale.cells import CELLS, Cell
from benchmarks.scale.figures import CellFigures, ScaleFigures, calculate_cell
from benchmarks.scale.run import run_cell
from benchmarks.scenarios import SCENARIOS, Scenario
from kling_flows.sandbox.settings import parse_seconds

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class _Asked:
    scenarios: Sequence[Scenario]
    front: bool
    cells: Sequence[Cell]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for.

    Returns:
        0, also if figures miss aims that depend on the machine; 1 if a video was paid twice or lost, or an event was.
        130 if it was interrupted.
    """
    asked = _parse(arguments)
    _interrupt_on_signals()
    try:
        outcomes = [_measure(scenario, Console()) for scenario in asked.scenarios]
        if asked.front:
            outcomes.append(_measure_front(Console()))
        if asked.cells:
            outcomes.append(_measure_scale(asked.cells, Console()))
    except KeyboardInterrupt:
        return 130
    return 0 if all(outcomes) else 1


def _measure(scenario: Scenario, console: Console) -> bool:
    figures = _run(scenario, console)
    verdicts = judge(scenario.name, figures)
    report.show(console, scenario, figures, verdicts)
    console.print(f"All figures: {report.write(scenario, figures, verdicts)}\n", soft_wrap=True)
    return is_dependable(figures)


def _measure_front(console: Console) -> bool:
    def measured(folder: Path) -> FrontFigures:
        return calculate_front(run_front(folder))

    figures = _in_folder(front_report.NAME, front_report.SUMMARY, measured, console)
    verdicts = judge_front(figures)
    front_report.show(console, figures)
    report.show_aims(console, verdicts)
    file = report.write_figures(front_report.NAME, {"name": front_report.NAME}, figures, verdicts)
    console.print(f"All figures: {file}\n", soft_wrap=True)
    return figures.broken_watches == 0


def _measure_scale(cells: Sequence[Cell], console: Console) -> bool:
    def measured(cell: Cell) -> CellFigures:
        summary = f"{cell.name}, up to {cell.steps[-1]:,} tasks"
        one = _in_folder(scale_report.NAME, summary, lambda folder: calculate_cell(run_cell(cell, folder)), console)
        scale_report.show_steps(console, one)
        return one

    figures = ScaleFigures([measured(cell) for cell in cells])
    verdicts = judge_scale(figures)
    scale_report.show(console, figures.cells)
    report.show_aims(console, verdicts)
    scenario = {"name": scale_report.NAME, "cells": [asdict(cell) for cell in cells]}
    file = report.write_figures(scale_report.NAME, scenario, figures, verdicts)
    console.print(f"All figures: {file}\n", soft_wrap=True)
    return all(is_dependable(cell) for cell in figures.cells)


def _run(scenario: Scenario, console: Console) -> Figures:
    return _in_folder(scenario.name, scenario.summary, lambda folder: calculate(run(scenario, folder)), console)


def _in_folder(name: str, summary: str, measured: Callable[[Path], F], console: Console) -> F:
    folder = Path(tempfile.mkdtemp(prefix=f"kling-flows-{name}-"))
    keep = False
    try:
        with console.status(f"{name}: {summary}"):
            return measured(folder)
    except Exception:
        keep = True
        console.print(f"The run failed; its logs are in {folder}", soft_wrap=True)
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _parse(arguments: Sequence[str] | None) -> _Asked:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What kling-flows costs, measured.")
    parser.add_argument(
        "--scenario",
        choices=[*SCENARIOS, front_report.NAME, scale_report.NAME, "all"],
        default="all",
        help="; ".join(
            f"{name}: {summary}"
            for name, summary in (
                *((scenario.name, scenario.summary) for scenario in SCENARIOS.values()),
                (front_report.NAME, front_report.SUMMARY),
                (scale_report.NAME, scale_report.SUMMARY),
            )
        )
        + " (default: all)",
    )
    parser.add_argument("--tasks", type=_count, help="video tasks (default: the scenario's)")
    parser.add_argument("--rate", type=_positive, help="creates per second; a burst has none (default: the scenario's)")
    parser.add_argument(
        "--seconds",
        type=parse_seconds,
        metavar="MIN:MAX",
        help="time that a video takes, in seconds (default: the scenario's)",
    )
    parser.add_argument("--poll-interval", type=_positive, metavar="SECONDS", help="(default: the product's)")
    options = parser.parse_args(arguments)
    chosen = [scenario for scenario in SCENARIOS.values() if options.scenario in (scenario.name, "all")]
    given = {
        name: value
        for name in ("tasks", "rate", "seconds", "poll_interval")
        if (value := getattr(options, name)) is not None
    }
    of_scale = {name: value for name, value in given.items() if name in ("tasks", "poll_interval")}
    return _Asked(
        scenarios=[_changed(scenario, **given) for scenario in chosen],
        front=options.scenario in (front_report.NAME, "all"),
        cells=[cell.changed(**of_scale) for cell in CELLS] if options.scenario in (scale_report.NAME, "all") else [],
    )


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def _count(text: str) -> int:
    _positive(text)
    return int(text)


def _changed(scenario: Scenario, **given: object) -> Scenario:
    if scenario.rate is None:
        given.pop("rate", None)
    return replace(scenario, **given)


def _interrupt_on_signals() -> None:
    # So that the children are ended whatever ends us.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main())
