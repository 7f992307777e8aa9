"""What is run: as much as fits into the time, the most important first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.peers.contract import OURS, Kind, Peer
from benchmarks.peers.run import Row
from benchmarks.peers.scenarios import SCENARIOS, Moment, PeerScenario, is_of

#: Runs whose figures do not depend on the machine's speed that go on at the same time; those are heavy that start
#: servers of their own which take seconds of CPU. One that only waits to be given up takes no place.
LIGHT_PLACES: Final = 3
HEAVY_PLACES: Final = 3
_HEAVY: Final = (Kind.OURS, Kind.WORKFLOW)

#: By kind: seconds that everything takes to start and to end; seconds that one more job takes when all come at once.
_START: Final = {Kind.OURS: 16.0, Kind.LOOP: 7.0, Kind.QUEUE: 9.0, Kind.DURABLE: 12.0, Kind.WORKFLOW: 38.0}
_PER_JOB: Final = {Kind.OURS: 0.012, Kind.LOOP: 0.003, Kind.QUEUE: 0.004, Kind.DURABLE: 0.06, Kind.WORKFLOW: 1.5}

#: For what others go on beside: how many times as long it takes; how many seconds of the whole time are its own, by
#: kind; and which share of the time in which servers of a heavy one only wait.
_BESIDE: Final = 2.0
_OWN: Final = {Kind.OURS: 20.0, Kind.LOOP: 3.0, Kind.QUEUE: 4.0, Kind.DURABLE: 10.0, Kind.WORKFLOW: 18.0}
_OWN_WAITING: Final = 0.1

#: What fits into the time of those that start processes for each job: the scenarios, and jobs where not all are done.
_WORKFLOW_SCENARIOS: Final = ("burst", "accept-then-drop", "kill", "download")
_WORKFLOW_TASKS: Final = {
    "burst": 20,
    "accept-then-drop": 10,
    "kill-creating": 6,
    "kill-polling": 6,
    "kill-downloading": 6,
}

#: Beyond so many jobs a peer has to be able to.
_USUAL: Final = 1_000

#: How soon each comes; lower is earlier.
_IMPORTANCE: Final = {
    "burst": 0,
    "accept-then-drop": 1,
    "kill-creating": 1,
    "kill-polling": 1,
    "kill-downloading": 1,
    "download": 1,
    "watch": 1,
    "paced": 5,
    "burst-100": 6,
    "in-flight-5000": 7,
    "in-flight-10000": 8,
}
_OURS_AGAIN: Final = 2
_OTHERS_AGAIN: Final = {Kind.LOOP: 3, Kind.QUEUE: 3, Kind.DURABLE: 3, Kind.WORKFLOW: 4}
_OURS_ELSEWHERE: Final = 6

#: What was created and is waited for or fetched when it is killed is not created again: there care changes little.
_LATE_CARE: Final = {Kind.LOOP: 1, Kind.QUEUE: 1, Kind.DURABLE: 1, Kind.WORKFLOW: 9}
_LATE_MOMENTS: Final = (Moment.POLLING, Moment.DOWNLOADING)


@dataclass(frozen=True, slots=True)
class Planned:
    """A row with its estimate.

    Args:
        row: What.
        seconds: How long it may take.
        share: What it takes of the whole time, as others run beside it.
        importance: Lower is more important.
    """

    row: Row
    seconds: float
    share: float
    importance: tuple[int, int]

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
        repeats: Runs of what the scenario says is repeated; all else runs once.
    """
    chosen = [scenario for scenario in SCENARIOS.values() if not scenarios or is_of(scenario.name, scenarios)]
    planned: list[Planned] = []
    for scenario in chosen:
        for peer in peers:
            if peer.not_measured is not None or not _takes_part(peer, scenario):
                continue
            for variant in peer.variants if scenario.breaks else ("plain",):
                row = Row(peer, variant, scenario, _tasks(peer, scenario, tasks))
                last = repeats if _is_repeated(row) else 1
                planned += [_planned(replace(row, repeat=repeat)) for repeat in range(1, last + 1)]
    return sorted(planned, key=lambda planned: planned.importance)


def fitting(planned: Sequence[Planned], seconds: float) -> tuple[Sequence[Planned], Sequence[Planned]]:
    """What fits into so many seconds, and what does not."""
    taken: list[Planned] = []
    left: list[Planned] = []
    for one in planned:
        (taken if duration([*taken, one]) <= seconds else left).append(one)
    return taken, left


def duration(planned: Sequence[Planned]) -> float:
    """Seconds for all of these: those that run beside others end together with the longest at the soonest."""
    beside = [one for one in planned if not one.row.scenario.measured]
    alone = sum(one.share for one in planned if one.row.scenario.measured)
    return alone + max(sum(one.share for one in beside), max((one.seconds for one in beside), default=0.0))


def _takes_part(peer: Peer, scenario: PeerScenario) -> bool:
    if peer.scenarios and scenario.name not in peer.scenarios:
        return False
    if scenario.disconnects:
        return peer.ours
    if peer.kind is Kind.WORKFLOW and (not is_of(scenario.name, _WORKFLOW_SCENARIOS) or scenario.name == "burst-100"):
        return False
    return scenario.tasks <= max(_USUAL, peer.in_flight)


def _is_repeated(row: Row) -> bool:
    return row.scenario.repeated and (row.peer.name == OURS or not row.peer.ours)


def _tasks(peer: Peer, scenario: PeerScenario, most: int | None) -> int:
    usual = scenario.tasks
    if peer.kind is Kind.WORKFLOW:
        usual = _WORKFLOW_TASKS.get(scenario.name, usual)
    return min(limit for limit in (scenario.tasks, most, peer.tasks or usual) if limit is not None)


def _planned(row: Row) -> Planned:
    peer, scenario = row.peer, row.scenario
    paced = row.tasks / scenario.rate if scenario.rate else 0.0
    per_job = peer.seconds_per_job or _PER_JOB[peer.kind]
    load = max(paced, row.tasks * per_job) + scenario.seconds[1] + scenario.poll_seconds
    # What is killed starts once more.
    starts = 2 if scenario.kill else 1
    seconds = starts * _START[peer.kind] + load
    if scenario.measured:
        return Planned(row, seconds, seconds, _importance(row))
    # Without a kill, whoever has lost a job says so.
    waits = peer.quiet_seconds if scenario.kill and not peer.ours else 0.0
    own = _OWN[peer.kind] + (_OWN_WAITING * waits if peer.kind in _HEAVY else 0.0)
    return Planned(row, seconds * _BESIDE + waits, own, _importance(row))


def _importance(row: Row) -> tuple[int, int]:
    if row.peer.name == OURS:
        return (_OURS_AGAIN if row.repeat > 1 else 0, row.repeat)
    if row.repeat > 1:
        return (_OTHERS_AGAIN[row.peer.kind], row.repeat)
    if row.variant == "careful" and row.scenario.kill in _LATE_MOMENTS:
        return (_LATE_CARE[row.peer.kind], row.repeat)
    importance = _IMPORTANCE[row.scenario.name]
    return (max(importance, _OURS_ELSEWHERE) if row.peer.ours else importance, row.repeat)
