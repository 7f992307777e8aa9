"""CPU and memory of each process, as the operating system counts them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

import psutil

T = TypeVar("T")

_SAMPLE_SECONDS: Final = 0.25


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Do this beside what runs in the context, and end it then; an error of it ends the context."""
    async with asyncio.TaskGroup() as group:
        working = group.create_task(work)
        try:
            yield
        finally:
            working.cancel()


class Role(StrEnum):
    """What a process is there for."""

    FRONT = "front"
    RUNNER = "runner"
    PREFECT = "prefect"
    SUPERVISOR = "supervisor"
    SANDBOX = "sandbox"
    EMPTY = "empty handler"
    CLIENT = "bench client"


#: The processes of the product; the others belong to the benchmark.
COUNTED: Final = (Role.FRONT, Role.RUNNER, Role.PREFECT, Role.SUPERVISOR)

#: What a process was started as, with ``python -m``.
_MODULES: Final[Mapping[str, Role]] = {
    "grpc_server": Role.FRONT,
    "kling_flows.runner": Role.RUNNER,
    "kling_flows.runner.prefect_server": Role.PREFECT,
    "kling_flows.cli": Role.SUPERVISOR,
    "kling_flows.sandbox": Role.SANDBOX,
    "benchmarks.empty_server": Role.EMPTY,
}


class ProcessesChanged(Exception):
    """What runs is not what is measured, so that the figures would be wrong."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory at one moment.

    Args:
        in_flight: Video tasks that are started and not final.
        rss: Bytes of resident memory by process.
    """

    in_flight: int
    rss: Mapping[Role, int]


class Meter:
    """Reads the processes that this one has started, and this one.

    Raises:
        ProcessesChanged: at first if there is one of an unknown kind or one is missing, later if one has ended.
    """

    def __init__(self) -> None:
        self._processes = _find()
        missing = set(Role) - set(self._processes)
        if missing:
            raise ProcessesChanged(f"does not run: {', '.join(sorted(missing))}")

    def check(self) -> None:
        """Make sure that the same processes still run.

        Raises:
            ProcessesChanged: they do not.
        """
        changed = {role for role, process in _find().items() if process != self._processes[role]}
        changed |= {role for role, process in self._processes.items() if not process.is_running()}
        if changed:
            raise ProcessesChanged(f"ended or was started again while it was measured: {', '.join(sorted(changed))}")

    def cpu(self) -> Mapping[Role, float]:
        """Seconds of CPU since its start, user and system, by process."""
        return self._of_each(_cpu)

    def rss(self) -> Mapping[Role, int]:
        """Bytes of resident memory by process."""
        return self._of_each(lambda process: process.memory_info().rss)

    @asynccontextmanager
    async def sampling(self, in_flight: Callable[[], int]) -> AsyncGenerator[list[Sample]]:
        """Memory, several times a second, while this context is open."""
        samples: list[Sample] = []

        async def sample() -> None:
            while True:
                samples.append(Sample(in_flight(), self.rss()))
                await asyncio.sleep(_SAMPLE_SECONDS)

        async with beside(sample()):
            yield samples

    def _of_each(self, read: Callable[[psutil.Process], T]) -> Mapping[Role, T]:
        result: dict[Role, T] = {}
        for role, process in self._processes.items():
            try:
                result[role] = read(process)
            except psutil.NoSuchProcess as error:
                raise ProcessesChanged(f"ended while it was measured: {role}") from error
        return result


def since(before: Mapping[Role, float], after: Mapping[Role, float]) -> Mapping[Role, float]:
    """The difference by process."""
    return {role: value - before[role] for role, value in after.items()}


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _find() -> dict[Role, psutil.Process]:
    own = psutil.Process()
    found = {Role.CLIENT: own}
    for process in own.children(recursive=True):
        command = process.cmdline()
        role = _MODULES.get(command[command.index("-m") + 1]) if "-m" in command else None
        if role is None or role in found:
            raise ProcessesChanged(f"an unknown process runs: {' '.join(command)}")
        found[role] = process
    return found
