"""CPU and memory of everything that runs for a peer, by process, as the operating system counts them."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from benchmarks.peers.processes import Command


@dataclass(frozen=True, slots=True)
class Reading:
    """All processes at one moment.

    Args:
        cpu: Seconds of CPU since the start, user and system, with children that have ended; by label.
        memory: Bytes of resident memory, pages that processes share counted once; by label.
    """

    cpu: Mapping[str, float]
    memory: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Seen:
    """The last that was read of a process, so that what it has taken is not lost with it; seconds of CPU."""

    label: str
    parent: int
    own: float
    of_children: float


class PeerMeter:
    """Reads the trees of processes below some commands.

    Args:
        commands: What is read; each is a label.
        parts: Label by a piece of a command line: such a process is a label of its own, apart from its tree's.
    """

    def __init__(self, commands: Sequence[Command], parts: Mapping[str, str]) -> None:
        self._commands = commands
        self._parts = parts
        self._seen: dict[psutil.Process, _Seen] = {}

    def read(self, *, memory: bool = True) -> Reading:
        """All of them now.

        Args:
            memory: Whether memory is read too, which takes longer.
        """
        resident: Counter[str] = Counter()
        for command in self._commands:
            for process in command.tree():
                with contextlib.suppress(psutil.Error):
                    known = self._seen.get(process)
                    with process.oneshot():
                        times = process.cpu_times()
                        seen = self._seen[process] = _Seen(
                            known.label if known else self._label(command, process),
                            process.ppid(),
                            times.user + times.system,
                            times.children_user + times.children_system,
                        )
                    if memory:
                        resident[seen.label] += _resident(process)
        return Reading(self._cpu(), dict(resident))

    def _cpu(self) -> Mapping[str, float]:
        # The time of a child that has ended is in its parent's count of children. One that was seen running is counted
        # by itself and taken off there; one that was too quick to be seen stays with its parent.
        cpu: defaultdict[str, float] = defaultdict(float)
        counted: defaultdict[int, float] = defaultdict(float)
        for process, seen in self._seen.items():
            if not process.is_running():
                counted[seen.parent] += seen.own + seen.of_children
        for process, seen in self._seen.items():
            cpu[seen.label] += seen.own + max(seen.of_children - counted[process.pid], 0.0)
        return cpu

    def _label(self, command: Command, process: psutil.Process) -> str:
        words = " ".join(process.cmdline())
        return next((label for piece, label in self._parts.items() if piece in words), command.name)


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except (psutil.AccessDenied, AttributeError):
        return process.memory_info().rss
