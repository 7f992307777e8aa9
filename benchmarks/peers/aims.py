"""What the scoreboard aims at, and whether it was reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.figures import Growth
from benchmarks.peers import growth
from benchmarks.peers.cells import Cell, Cells
from benchmarks.peers.contract import OURS, Peer
from benchmarks.peers.scenarios import SCENARIOS

#: The most CPU that we may take, as a share of the cheapest durable peer's, and of the bare loop's.
_OF_DURABLE: Final = 0.5
_OF_LOOP: Final = 5.0

#: An exponent above this is no linear growth any more.
_LINEAR: Final = 1.1

#: The loop at the interval of all.
_LOOP: Final = "quickstart-loop-5s"

#: The load that is judged.
_LOAD: Final = "burst"


@dataclass(frozen=True, slots=True)
class Aim:
    """One aim.

    Args:
        title: For people.
        measured: What was measured, for people.
        met: Whether it was reached.
    """

    title: str
    measured: str
    met: bool


def _is_ours(peer: Peer) -> bool:
    return peer.name == OURS


def _is_other(peer: Peer) -> bool:
    return not peer.ours


def _ticks_alike(peer: Peer) -> bool:
    return _is_other(peer) and (peer.poll_seconds is None or _is_loop(peer))


def _is_durable(peer: Peer) -> bool:
    return _is_other(peer) and peer.durable


def _is_loop(peer: Peer) -> bool:
    return peer.name == _LOOP


#: What is compared with the least of others under a burst: title, figure, who, and the share that we may have at most.
_BESIDE: Final = (
    ("fewest upstream reads per task (burst)", "reads_per_task", _is_other, 1.0),
    ("detection lag p95, s: no worse than the best at the same interval (burst)", "lag_p95", _ticks_alike, 1.0),
    ("CPU at most half of the cheapest durable peer's (burst)", "cpu_per_1000", _is_durable, _OF_DURABLE),
    ("CPU within five times that of the bare loop (burst)", "cpu_per_1000", _is_loop, _OF_LOOP),
)


def judge(cells: Cells) -> list[Aim]:
    """The aims for which something was measured."""
    found: list[Aim] = []
    ours = next(iter(_burst(cells, _is_ours)), None)
    if ours is not None:
        for title, figure, beside, share in _BESIDE:
            others = [cell.median(figure) for cell in _burst(cells, beside)]
            found += _at_most(title, ours.median(figure), others, share)
    return [*found, *_dependable(cells), *_linear(cells)]


def _at_most(title: str, ours: float | None, others: list[float | None], share: float) -> list[Aim]:
    known = [value for value in others if value is not None]
    if ours is None or not known:
        return []
    limit = min(known)
    return [Aim(title, f"{ours:.3g} beside {limit:.3g}", ours <= limit * share)]


def _dependable(cells: Cells) -> list[Aim]:
    ours = [cell for found in cells.values() for cell in found if cell.peer.ours]
    if not ours:
        return []
    doubles, lost = (sum(cell.median(key) or 0 for cell in ours) for key in ("doubles", "lost"))
    plain: dict[str, float] = {}
    for scenario, found in cells.items():
        for cell in found:
            if _is_other(cell.peer) and cell.variant == "plain" and SCENARIOS[scenario].breaks:
                bad = (cell.median("doubles") or 0) + (cell.median("lost") or 0)
                plain[cell.peer.label] = plain.get(cell.peer.label, 0) + bad
    clean = ", ".join(label for label, count in plain.items() if not count)
    others = f"; every plain other has some{f', but for {clean}' if clean else ''}" if plain else ""
    return [
        Aim("0 paid twice and 0 lost, everywhere", f"{doubles:.0f} and {lost:.0f}{others}", not doubles and not lost)
    ]


def _linear(cells: Cells) -> list[Aim]:
    ours = {scenario: [cell for cell in found if _is_ours(cell.peer)] for scenario, found in cells.items()}
    points = next(iter(growth.points(ours).get("CPU", {}).values()), ())
    fit = Growth.of(points)
    if fit is None:
        return []
    sizes = ", ".join(f"{tasks:,}" for tasks, _ in sorted(points))
    return [
        Aim(
            "CPU grows linearly to 10,000 in flight",
            f"exponent {fit.exponent:.2f} over {sizes}",
            fit.exponent <= _LINEAR,
        )
    ]


def _burst(cells: Cells, wanted: Callable[[Peer], bool]) -> list[Cell]:
    return [
        cell
        for cell in cells.get(_LOAD, ())
        if cell.variant == "plain" and wanted(cell.peer) and cell.median("finished")
    ]
