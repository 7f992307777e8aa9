"""What the scoreboard aims at, and whether it was reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.figures import Growth
from benchmarks.peers.contract import OURS, Peer
from benchmarks.peers.scenarios import SCENARIOS


@dataclass(frozen=True, slots=True)
class Medians:
    """All figures of one peer, in one variant, under one scenario.

    Args:
        scenario: Its name.
        peer: Who.
        variant: ``plain`` or ``careful``.
        figures: By name.
    """

    scenario: str
    peer: Peer
    variant: str
    figures: Mapping[str, float | None]


#: The most CPU that we may take, as a share of the cheapest durable peer's, and of the bare loop's.
_OF_DURABLE: Final = 0.5
_OF_LOOP: Final = 5.0

#: An exponent above this is no linear growth any more.
_LINEAR: Final = 1.1

#: The loop at the interval of all.
_LOOP: Final = "quickstart-loop-5s"

#: The load that is judged.
_LOAD: Final = "burst"
_SIZES: Final = {"burst-100": 100, "burst": 1_000, "in-flight-5000": 5_000, "in-flight-10000": 10_000}


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


def judge(medians: Sequence[Medians]) -> list[Aim]:
    """The aims for which something was measured."""
    found: list[Aim] = []
    ours = next(iter(_burst(medians, lambda peer: peer.name == OURS)), None)
    if ours is not None:
        for title, figure, beside, share in _BESIDE:
            others = [figures[figure] for figures in _burst(medians, beside)]
            found += _at_most(title, ours[figure], others, share)
    return [*found, *_dependable(medians), *_linear(medians)]


def _at_most(title: str, ours: float | None, others: list[float | None], share: float) -> list[Aim]:
    known = [value for value in others if value is not None]
    if ours is None or not known:
        return []
    limit = min(known)
    return [Aim(title, f"{ours:.3g} beside {limit:.3g}", ours <= limit * share)]


def _dependable(medians: Sequence[Medians]) -> list[Aim]:
    ours = [one.figures for one in medians if one.peer.ours]
    if not ours:
        return []
    doubles, lost = (sum(figures[key] or 0 for figures in ours) for key in ("doubles", "lost"))
    plain: dict[str, float] = {}
    for one in medians:
        if _is_other(one.peer) and one.variant == "plain" and SCENARIOS[one.scenario].breaks:
            bad = (one.figures["doubles"] or 0) + (one.figures["lost"] or 0)
            plain[one.peer.label] = plain.get(one.peer.label, 0) + bad
    clean = ", ".join(label for label, count in plain.items() if not count)
    others = f"; every plain other has some{f', but for {clean}' if clean else ''}" if plain else ""
    return [
        Aim("0 paid twice and 0 lost, everywhere", f"{doubles:.0f} and {lost:.0f}{others}", not doubles and not lost)
    ]


def _linear(medians: Sequence[Medians]) -> list[Aim]:
    points = [
        (_SIZES[one.scenario], cpu * _SIZES[one.scenario])
        for one in medians
        if one.peer.name == OURS and one.scenario in _SIZES and (cpu := one.figures["cpu_per_1000"])
    ]
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


def _burst(medians: Sequence[Medians], wanted: Callable[[Peer], bool]) -> list[Mapping[str, float | None]]:
    return [
        one.figures
        for one in medians
        if one.scenario == _LOAD and one.variant == "plain" and wanted(one.peer) and one.figures["finished"]
    ]
