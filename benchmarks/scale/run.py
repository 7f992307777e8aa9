"""One cell of the scenario ``scale``, from the start of its processes to what was observed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
import psutil

from benchmarks.books import read_books
from benchmarks.load import Caller, flood, open_channel
from benchmarks.meter import ProcessesChanged, beside
from benchmarks.peers.books import SandboxBooks
from benchmarks.peers.processes import READY_SECONDS
from benchmarks.run import WarmUpFailed
from benchmarks.scale.cells import Cell
from benchmarks.scale.figures import CellObserved, Look, Moment, StepObserved
from benchmarks.scale.stack import ScaleStack, running
from benchmarks.watching import Watcher
from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceStub

if TYPE_CHECKING:
    from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceAsyncStub

_LABEL: Final = "scale"

#: Creates under way at a time.
_CALLS: Final = 64

#: Tasks that are created one after the other while nothing else happens, and the seconds between them.
_IDLE_STARTS: Final = 5
_APART_SECONDS: Final = 1.5

#: Ticks after a step's last start until all tasks are looked at in each tick, and ticks that are then measured.
_SETTLE_TICKS: Final = 2
_HELD_TICKS: Final = 4

#: Rest before anything is measured, in which Prefect's server has started up, and time for which idling is measured.
_CALM_SECONDS: Final = 8.0
_IDLE_SECONDS: Final = 5.0

#: Prefect records a run after it has ended; what it does then belongs to the run.
_REST_SECONDS: Final = 3.0

_LOOK_SECONDS: Final = 0.5

#: Until this fault is taken away, no video ends, however long the steps take.
_NO_END: Final = ({"fault": "unknown_status", "message": "processing"},)

#: Seconds without any event after which the tasks that are left count as lost.
_PATIENCE: Final = 60.0


def run_cell(cell: Cell, folder: Path) -> CellObserved:
    """Run a cell, with data and logs in ``folder``.

    Raises:
        NotInstalled: there is no PostgreSQL here.
        NotReady: a process did not get ready.
        ExceptionGroup: of what broke off the run: NotReady or ProcessesChanged if a process ended; WarmUpFailed,
            WatchEnded, TimeoutError or grpc.aio.AioRpcError if the product did not do its part.
    """
    # PostgreSQL runs as somebody else where we are root, which uvloop cannot start.
    return asyncio.run(_run(cell, folder))


async def _run(cell: Cell, folder: Path) -> CellObserved:
    async with running(cell, folder) as stack, asyncio.TaskGroup() as group:
        checking = group.create_task(_check_forever(stack))
        async with open_channel(stack.front) as channel:
            async with asyncio.timeout(READY_SECONDS):
                await channel.channel_ready()
            async with httpx.AsyncClient(base_url=stack.sandbox, trust_env=False, timeout=_PATIENCE) as client:
                observed = await _measure(cell, stack, VideoTaskServiceStub(channel), SandboxBooks(client))
        checking.cancel()
    return observed


async def _check_forever(stack: ScaleStack) -> None:
    while True:
        stack.check()
        await asyncio.sleep(1.0)


async def _measure(
    cell: Cell, stack: ScaleStack, front: VideoTaskServiceAsyncStub, books: SandboxBooks
) -> CellObserved:
    await _warm_up(front)
    await books.misbehave(_NO_END)
    gauge = _Gauge(stack, books)
    await asyncio.sleep(_CALM_SECONDS)
    idle = await gauge.moment()
    await asyncio.sleep(_IDLE_SECONDS)
    before = await read_books(stack.sandbox)
    caller = Caller(front, _LABEL)
    async with Watcher.watching(front, _LABEL) as watcher, gauge.looking() as looks:
        began = await gauge.moment()
        alone = min(_IDLE_STARTS, cell.steps[0])
        for number in range(alone):
            await caller.create(number)
            await watcher.all_accepted(number + 1, _PATIENCE)
            await asyncio.sleep(_APART_SECONDS)
        steps = [await _step(cell, tasks, caller, watcher, gauge) for tasks in cell.steps]
        await books.misbehave(())
        await watcher.all_final(cell.steps[-1], _PATIENCE)
        await asyncio.sleep(_REST_SECONDS)
        ended = await gauge.moment()
    return CellObserved(
        cell=cell,
        stories=list(watcher.stories.values()),
        created=len(caller.latencies),
        alone=alone,
        idle=idle,
        began=began,
        steps=steps,
        ended=ended,
        looks=looks,
        before=before,
        after=await read_books(stack.sandbox),
    )


async def _step(cell: Cell, tasks: int, caller: Caller, watcher: Watcher, gauge: _Gauge) -> StepObserved:
    begun, first = await gauge.moment(), len(caller.latencies)
    await flood(tasks - first, _CALLS, lambda number: caller.create(first + number))
    await watcher.all_accepted(tasks, _PATIENCE)
    started = await gauge.moment()
    await asyncio.sleep(_SETTLE_TICKS * cell.poll_interval)
    settled = await gauge.moment()
    await asyncio.sleep(_HELD_TICKS * cell.poll_interval)
    held = await gauge.moment()
    return StepObserved(tasks, watcher.in_flight, begun, started, settled, held)


async def _warm_up(front: VideoTaskServiceAsyncStub) -> None:
    async with Watcher.watching(front, "warm-up") as watcher:
        await Caller(front, "warm-up").create(0)
        if not await watcher.all_final(1, READY_SECONDS):
            raise WarmUpFailed("the first video task has not ended")


class _Gauge:
    """Reads CPU, memory and the provider's counters."""

    def __init__(self, stack: ScaleStack, books: SandboxBooks) -> None:
        self._books = books
        self._meter = stack.meter
        self._carriers = stack.carriers()

    async def moment(self) -> Moment:
        """All CPU and memory now."""
        # On a thread: the watch has events to take in meanwhile.
        reading = await asyncio.to_thread(self._meter.read, memory=False)
        return Moment(time.time(), reading.cpu, self._rss())

    @asynccontextmanager
    async def looking(self) -> AsyncGenerator[list[Look]]:
        """What changes quickly, twice a second, while this context is open."""
        looks: list[Look] = []

        async def look() -> None:
            while True:
                reads = (await self._books.counts()).reads
                looks.append(Look(time.time(), reads, self._rss()))
                await asyncio.sleep(_LOOK_SECONDS)

        async with beside(look()):
            yield looks

    def _rss(self) -> Mapping[str, int]:
        try:
            return {label: process.memory_info().rss for label, process in self._carriers.items()}
        except psutil.NoSuchProcess as error:
            raise ProcessesChanged(f"ended while it was measured: {error}") from error
