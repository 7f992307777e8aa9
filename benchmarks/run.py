"""One run of one scenario, from the start of its processes to its figures."""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx

from benchmarks.books import read_books
from benchmarks.figures import Observed
from benchmarks.load import Caller, drive, open_channel, prepare
from benchmarks.meter import Meter, since
from benchmarks.plain import run_plain
from benchmarks.scenarios import Callbacks, Scenario
from benchmarks.stack import Stack, running
from benchmarks.watching import Watcher
from kling_flows.processes import new_event_loop
from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceStub

if TYPE_CHECKING:
    from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceAsyncStub

#: Created at once: the first gets a flow run of its own, the others share one, so that both ways are warm.
_WARM_UP_TASKS: Final = 4

#: Prefect records a run after it has ended; what it does then belongs to the run.
_SETTLE_SECONDS: Final = 3.0

_IDLE_SECONDS: Final = 5.0

#: Seconds without any event, beyond the time of a video, after which the tasks that are left count as lost.
_PATIENCE: Final = 60.0

_CHECK_SECONDS: Final = 1.0


class WarmUpFailed(Exception):
    """The first video tasks did not end."""


def run(scenario: Scenario, folder: Path) -> Observed:
    """Run a scenario, with data and logs in ``folder``.

    Raises:
        ChildFailed: a process did not get ready.
        ExceptionGroup: of what broke off the run: ChildFailed or ProcessesChanged if a process ended; WarmUpFailed,
            WatchEnded or grpc.aio.AioRpcError if the product did not do its part.
    """
    with running(scenario, folder) as stack, asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_run(scenario, stack, folder))


async def _run(scenario: Scenario, stack: Stack, folder: Path) -> Observed:
    async with asyncio.TaskGroup() as group:
        checking = group.create_task(_check_forever(stack))
        async with open_channel(stack.front) as front, open_channel(stack.empty) as empty:
            observed = await _measure(scenario, stack, VideoTaskServiceStub(front), VideoTaskServiceStub(empty))
        if scenario.plain_poller:
            observed = replace(observed, plain=await run_plain(scenario, stack, folder))
        checking.cancel()
    return observed


async def _check_forever(stack: Stack) -> None:
    while True:
        stack.check()
        await asyncio.sleep(_CHECK_SECONDS)


async def _measure(
    scenario: Scenario, stack: Stack, front: VideoTaskServiceAsyncStub, empty: VideoTaskServiceAsyncStub
) -> Observed:
    patience = scenario.seconds[1] + _PATIENCE
    await _warm_up(front, empty, patience)
    product_caller, empty_caller = Caller(front, scenario.name), Caller(empty, scenario.name)
    await prepare(scenario, empty_caller)
    if scenario.callbacks is Callbacks.LOST:
        await _lose_callbacks(stack.sandbox)
    await asyncio.sleep(_SETTLE_SECONDS)
    meter = Meter()
    # Its own pauses are not the product's latency.
    gc.collect()
    gc.freeze()
    idle_began, idle_before = time.perf_counter(), meter.cpu()
    await asyncio.sleep(_IDLE_SECONDS)
    idle_cpu, idle_seconds = since(idle_before, meter.cpu()), time.perf_counter() - idle_began
    before = await read_books(stack.sandbox)
    async with Watcher.watching(front, scenario.name) as watcher:
        rss = meter.rss()
        began, cpu_before = time.perf_counter(), meter.cpu()
        async with meter.sampling(lambda: watcher.in_flight) as samples:
            create_seconds = await drive(scenario, product_caller, empty_caller)
            await watcher.all_final(scenario.tasks, patience)
        await asyncio.sleep(_SETTLE_SECONDS)
        cpu, measured_seconds = since(cpu_before, meter.cpu()), time.perf_counter() - began
    meter.check()
    return Observed(
        stories=list(watcher.stories.values()),
        create_latencies=product_caller.latencies,
        empty_latencies=empty_caller.latencies,
        create_seconds=create_seconds,
        cpu=cpu,
        measured_seconds=measured_seconds,
        idle_cpu=idle_cpu,
        idle_seconds=idle_seconds,
        rss=rss,
        samples=samples,
        before=before,
        after=await read_books(stack.sandbox),
    )


async def _lose_callbacks(sandbox: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.put(f"{sandbox}/sandbox/faults", json=[{"on": "callback", "fault": "lost"}])
        answer.raise_for_status()


async def _warm_up(front: VideoTaskServiceAsyncStub, empty: VideoTaskServiceAsyncStub, patience: float) -> None:
    async with Watcher.watching(front, "warm-up") as watcher, asyncio.TaskGroup() as group:
        for caller in (Caller(front, "warm-up"), Caller(empty, "warm-up")):
            for number in range(_WARM_UP_TASKS):
                group.create_task(caller.create(number))
        if not await watcher.all_final(_WARM_UP_TASKS, patience):
            raise WarmUpFailed(f"{_WARM_UP_TASKS - watcher.final} of {_WARM_UP_TASKS} video tasks have not ended")
