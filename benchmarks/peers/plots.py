"""``python plots.py DATA FOLDER``: draws the plots of the scoreboard; run with an environment that has matplotlib."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib import ticker

# The same data give the same file; letters stay letters.
mpl.rcParams |= {"svg.hashsalt": "kling-flows", "svg.fonttype": "none", "font.size": 9}

OURS = "kling-flows"
#: Readable on a light and on a dark page.
GRAY = "#808080"


def save(figure: Any, file: Path) -> None:
    for axes in figure.axes:
        axes.tick_params(which="both", colors=GRAY)
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            text.set_color(GRAY)
        for spine in axes.spines.values():
            spine.set_color(GRAY)
        legend = axes.get_legend()
        for text in legend.get_texts() if legend else ():
            text.set_color(GRAY)
    figure.savefig(file, transparent=True, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def draw_cpu(cpu: dict[str, dict[str, float]], file: Path) -> None:
    """Bars of milliseconds per task, one colour per process."""
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(cpu) + 1))
    labels = list(dict.fromkeys(label for parts in cpu.values() for label in parts))
    colors = plt.get_cmap("tab20").colors
    for row, parts in enumerate(cpu.values()):
        left = 0.0
        for label, seconds in parts.items():
            axes.barh(row, seconds, left=left, color=colors[labels.index(label) % len(colors)])
            left += seconds
    for number, label in enumerate(labels):
        axes.barh(0, 0, color=colors[number % len(colors)], label=label)
    axes.set_yticks(range(len(cpu)), list(cpu))
    axes.invert_yaxis()
    axes.set_xlabel("CPU ms per task")
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    save(figure, file)


def draw_reads(reads: dict[str, float], file: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 0.3 * len(reads) + 1))
    bars = axes.barh(list(reads), list(reads.values()), color=["#d2691e" if name == OURS else GRAY for name in reads])
    axes.bar_label(bars, fmt="%.2f", padding=3, color=GRAY)
    axes.margins(x=0.1)
    axes.invert_yaxis()
    axes.set_xlabel("reads per task")
    save(figure, file)


def draw_growth(
    growth: dict[str, dict[str, list[list[float]]]],
    fits: dict[str, dict[str, list[float]]],
    units: dict[str, str],
    file: Path,
) -> None:
    """A panel for each figure: points of what was measured; where there are several sizes, the line
    ``factor * tasks ** exponent`` too."""
    figure, panels = plt.subplots(math.ceil(len(growth) / 2), 2, figsize=(9, 11), layout="constrained")
    names = list(dict.fromkeys(name for points in growth.values() for name in points))
    colors = dict(zip(names, plt.get_cmap("tab20").colors, strict=False))
    for axes, (head, by_name) in zip(panels.flat, growth.items(), strict=False):
        for name, points in by_name.items():
            sizes = [tasks for tasks, _ in points]
            values = [value for _, value in points]
            axes.plot(sizes, values, marker="o", markersize=4, linestyle="", color=colors[name], label=name)
            if name in fits[head]:
                factor, exponent = fits[head][name]
                width = 2.5 if name == OURS else 1.2
                ends = [min(sizes), max(sizes)]
                axes.plot(ends, [factor * end**exponent for end in ends], linewidth=width, color=colors[name])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.yaxis.set_minor_formatter(ticker.LogFormatter(minor_thresholds=(2, 0.5)))
        axes.set_xlabel("tasks")
        axes.set_ylabel(units[head])
    for axes in panels.flat[len(growth) :]:
        axes.set_visible(False)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, fontsize=7, frameon=False, loc="outside lower center", ncols=2)
    for text in legend.get_texts():
        text.set_color(GRAY)
    save(figure, file)


if __name__ == "__main__":
    data = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(sys.argv[2])
    draw_cpu(data["cpu"], folder / "scoreboard-cpu.svg")
    draw_reads(data["reads"], folder / "scoreboard-reads.svg")
    draw_growth(data["growth"], data["fits"], data["units"], folder / "scoreboard-growth.svg")
