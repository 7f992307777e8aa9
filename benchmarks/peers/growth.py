"""How each figure of a burst grows from 100 to 10,000 tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.figures import Growth
from benchmarks.peers.cells import Cells

#: The bursts of all sizes.
BURSTS: Final = ("burst-100", "burst", "in-flight-5000", "in-flight-10000")


@dataclass(frozen=True, slots=True)
class Growing:
    """A figure that is followed through the sizes.

    Args:
        key: Of :data:`~benchmarks.peers.figures.FIGURES`.
        unit: For people, as the plot's axis has it.
        share: What the figure has to be multiplied with for each task to become a total; None where it is no total.
    """

    key: str
    unit: str
    share: float | None = None

    def value(self, figure: float, tasks: int) -> float:
        """The total of so many tasks, or the figure itself."""
        return figure if self.share is None else figure * self.share * tasks


#: By their heads in the table: first the totals.
GROWING: Final[Mapping[str, Growing]] = {
    "CPU": Growing("cpu_per_1000", "CPU s in all", 1 / 1_000),
    "reads": Growing("reads_per_task", "reads in all", 1.0),
    "memory": Growing("memory_per_task", "MiB in all", 1 / 1_024),
    "lag p50": Growing("lag_p50", "detection lag p50, s"),
    "lag p95": Growing("lag_p95", "detection lag p95, s"),
    "lag p99": Growing("lag_p99", "detection lag p99, s"),
    "accepted": Growing("accepted_per_second", "jobs accepted per second"),
    "creates": Growing("starts_per_second", "creates at the provider per second"),
}

#: (tasks, value) of each size, by peer, by head.
Points = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]


def points(cells: Cells) -> Points:
    """What was measured of every size."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for burst in BURSTS:
        for cell in cells.get(burst, ()):
            for head, growing in GROWING.items():
                median = cell.median(growing.key)
                if median is not None:
                    found[head][cell.title].append((cell.tasks, growing.value(median, cell.tasks)))
    return found


def fits(found: Points) -> Mapping[str, Mapping[str, Growth]]:
    """By head and peer, where a peer was measured with several sizes."""
    return {
        head: {title: fit for title, known in by_peer.items() if (fit := Growth.of(known))}
        for head, by_peer in found.items()
    }
