"""What was measured, in cells: all runs of one peer, in one variant, under one scenario."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.peers import results
from benchmarks.peers.contract import Peer, peers
from benchmarks.peers.figures import Several
from benchmarks.peers.results import Stored
from benchmarks.peers.scenarios import SCENARIOS


@dataclass(frozen=True, slots=True)
class Cell:
    """All runs of one peer, in one variant, under one scenario.

    Args:
        peer: Who.
        variant: ``plain`` or ``careful``.
        runs: What was written of them.
    """

    peer: Peer
    variant: str
    runs: Sequence[Stored]

    @property
    def title(self) -> str:
        """For people."""
        return self.peer.label + (", careful" if self.variant == "careful" else "")

    @property
    def tasks(self) -> int:
        """Jobs of each run."""
        return self.runs[0].tasks

    def figure(self, name: str) -> Several | None:
        """One of :data:`~benchmarks.peers.figures.FIGURES`, of all runs."""
        return Several.of([run.figures[name] for run in self.runs])

    def median(self, name: str) -> float | None:
        """The median of a figure."""
        several = self.figure(name)
        return several.median if several else None


#: The cells of every scenario that was measured, by its name.
Cells = Mapping[str, Sequence[Cell]]


def measured() -> Cells:
    """All that was written, in the order of the peers, which is by kind."""
    by_name = {peer.name: peer for peer in peers()}
    found: dict[tuple[str, str, str], list[Stored]] = defaultdict(list)
    for stored in results.stored():
        if stored.peer in by_name and stored.scenario in SCENARIOS:
            found[stored.scenario, stored.peer, stored.variant].append(stored)
    cells: dict[str, list[Cell]] = defaultdict(list)
    for scenario in SCENARIOS:
        for name, peer in by_name.items():
            for variant in ("plain", "careful"):
                if runs := found.get((scenario, name, variant)):
                    cells[scenario].append(Cell(peer, variant, runs))
    return dict(cells)
