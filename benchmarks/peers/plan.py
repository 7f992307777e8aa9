"""What is run: as much as fits into the time, the most important first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.peers.contract import Kind, Peer
from benchmarks.peers.run import Row
from benchmarks.peers.scenarios import SCENARIOS, Moment, PeerScenario, is_of

#: Runs whose figures do not depend on the machine's speed that go on at the same time; those are heavy that start
#: servers of their own which take seconds of CPU.
LIGHT_PLACES: Final = 4
HEAVY_PLACES: Final = 2
_HEAVY: Final = (Kind.OURS, Kind.WORKFLOW)

#: By kind: seconds that everything takes to start and to end; seconds that one more job takes when all come at once.
_START: Final = {Kind.OURS: 30.0, Kind.LOOP: 12.0, Kind.QUEUE: 18.0, Kind.DURABLE: 22.0, Kind.WORKFLOW: 50.0}
_PER_JOB: Final = {Kind.OURS: 0.012, Kind.LOOP: 0.008, Kind.QUEUE: 0.025, Kind.DURABLE: 0.03, Kind.WORKFLOW: 1.5}

#: What fits into the time of those that start processes for each job: jobs where it is measured and where it is not,
#: and the scenarios.
_WORKFLOW_TASKS: Final = 30
_WORKFLOW_TASKS_IN_FAULTS: Final = 15
_WORKFLOW_SCENARIOS: Final = ("burst", "accept-then-drop", "kill")

#: Somebody loses something in most faults, and it takes a while until that is sure.
_GIVING_UP: Final = 60.0

#: Beyond so many jobs a peer has to be able to.
_USUAL: Final = 1_000

#: Lower is more important. Ours is always 0; what is slow, and care where it changes little, counts as less.
_IMPORTANCE: Final = {
    "burst": 0,
    "accept-then-drop": 1,
    "kill-creating": 1,
    "kill-polling": 1,
    "kill-downloading": 1,
    "download": 1,
    "watch": 1,
    "paced": 2,
    "in-flight-5000": 3,
    "burst-100": 4,
    "in-flight-10000": 4,
}
_LATE_MOMENTS: Final = (Moment.POLLING, Moment.DOWNLOADING)


@dataclass(frozen=True, slots=True)
class Planned:
    """A row with its estimate.

    Args:
        row: What.
        seconds: How long it may take by itself.
        share: What it takes of the whole time, as others run beside it.
        importance: Lower is more important.
    """

    row: Row
    seconds: float
    share: float
    importance: tuple[int, ...]

    @property
    def heavy(self) -> bool:
        """Whether it starts servers that keep the machine busy."""
        return self.row.peer.kind in _HEAVY


def plan(
    peers: Sequence[Peer],
    *,
    scenarios: Collection[str] = (),
    tasks: int | None = None,
    repeats: int = 1,
) -> Sequence[Planned]:
    """All that could be run, in the order of importance.

    Args:
        peers: Who.
        scenarios: Only these, or these families; all if there are none.
        tasks: Most jobs of each run.
        repeats: Runs of what is measured; what only counts doubles and losses runs once.
    """
    chosen = [scenario for scenario in SCENARIOS.values() if not scenarios or is_of(scenario.name, scenarios)]
    planned = [
        _planned(Row(peer, variant, scenario, _tasks(peer, scenario, tasks), repeat))
        for scenario in chosen
        for peer in peers
        if peer.not_measured is None and _takes_part(peer, scenario)
        for variant in peer.variants
        if variant == "plain" or scenario.breaks
        for repeat in range(1, (repeats if scenario.measured else 1) + 1)
    ]
    return sorted(planned, key=lambda planned: planned.importance)


def fitting(planned: Sequence[Planned], seconds: float) -> tuple[Sequence[Planned], Sequence[Planned]]:
    """What fits into so many seconds, and what does not."""
    taken: list[Planned] = []
    left: list[Planned] = []
    for one in planned:
        fits = one.share <= seconds
        seconds -= one.share if fits else 0.0
        (taken if fits else left).append(one)
    return taken, left


def _takes_part(peer: Peer, scenario: PeerScenario) -> bool:
    if peer.scenarios and scenario.name not in peer.scenarios:
        return False
    if scenario.disconnects:
        return peer.ours
    if peer.kind is Kind.WORKFLOW and (not is_of(scenario.name, _WORKFLOW_SCENARIOS) or scenario.name == "burst-100"):
        return False
    return scenario.tasks <= max(_USUAL, peer.in_flight)


def _tasks(peer: Peer, scenario: PeerScenario, most: int | None) -> int:
    usual = None
    if peer.kind is Kind.WORKFLOW:
        usual = _WORKFLOW_TASKS if scenario.measured else _WORKFLOW_TASKS_IN_FAULTS
    return min(limit for limit in (scenario.tasks, most, peer.tasks or usual) if limit is not None)


def _planned(row: Row) -> Planned:
    peer, scenario = row.peer, row.scenario
    paced = row.tasks / scenario.rate if scenario.rate else 0.0
    load = max(paced, row.tasks * _PER_JOB[peer.kind]) + scenario.seconds[1] + scenario.poll_seconds
    loses = scenario.breaks and not peer.ours
    seconds = _START[peer.kind] + load + (_GIVING_UP if loses else 0.0)
    # Light and heavy ones go on beside each other, which the sum of their shares has to show.
    share = 1.0 if scenario.measured else 1.0 / (LIGHT_PLACES + HEAVY_PLACES)
    return Planned(row, seconds, seconds * share, _importance(row))


def _importance(row: Row) -> tuple[int, ...]:
    if row.peer.ours:
        return (row.repeat, 0)
    late = row.variant == "careful" and row.scenario.kill in _LATE_MOMENTS
    slow = row.peer.kind is Kind.WORKFLOW and not row.scenario.measured
    return (row.repeat, _IMPORTANCE[row.scenario.name] + 2 * late + slow)
