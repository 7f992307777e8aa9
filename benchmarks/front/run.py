"""One run of the scenario ``front``, from the start of its processes to what was observed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.front.clients import Client, clients
from benchmarks.front.figures import FrontObserved, Round
from benchmarks.load import open_channel
from benchmarks.stack import READY_SECONDS, clean_environment
from kling_flows.cli.children import Child
from kling_flows.ledger import Ledger
from kling_flows.processes import READY_VARIABLE, new_event_loop
from kling_flows.v1.video_task_service_pb2 import CancelVideoTaskRequest, CreateVideoTaskRequest
from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceStub

#: What the servers are started as, with ``python -m``.
_FRONT: Final = "grpc_server"
_EMPTY: Final = "benchmarks.empty_server"

#: Processes that load comes from.
_CLIENTS: Final = 2

_IN_FLIGHT: Final = 256
_ROUNDS: Final = 5
_ROUND_SECONDS: Final = 3.0
_WARM_UP_SECONDS: Final = 2.0
_BURST: Final = 4_000
_MANY: Final = 10**9

_WATCHES: Final = (5_000, 10_000)
_EVENTS: Final = 5
_SETTLE_SECONDS: Final = 2.0
_PROBE_SECONDS: Final = 10.0
_IDLE_SECONDS: Final = 45.0
#: Short, so that as many heartbeats as of an hour fall into the time that is measured.
_HEARTBEAT: Final = 5.0
_NO_HEARTBEAT: Final = 300.0


def run_front(folder: Path) -> FrontObserved:
    """Run the scenario, with data and logs in ``folder``.

    Raises:
        ChildFailed: a server did not get ready.
        ClientFailed: a client has ended, or does not answer.
    """
    environment = clean_environment(folder)
    with ExitStack() as stack, asyncio.Runner(loop_factory=new_event_loop) as runner:
        empty = _server(stack, folder, "empty handler", _EMPTY, environment)
        front = _server(stack, folder, "front", _FRONT, environment)
        return runner.run(_run(folder, front, empty, environment))


def _server(stack: ExitStack, folder: Path, name: str, module: str, environment: Mapping[str, str]) -> str:
    ready = folder / f"{module}.address"
    child = Child(
        name,
        module,
        (str(ready),) if module == _EMPTY else (),
        environment={
            **environment,
            "KLING_FLOWS_PROVIDER": "sandbox",
            "KLING_FLOWS_STATE_DIR": str(folder / "state"),
            "KLING_FLOWS_LISTEN": "127.0.0.1:0",
            "KLING_FLOWS_MAX_QUEUED": str(_MANY),
            READY_VARIABLE: str(ready),
        },
        log=folder / f"{module}.log",
    )
    return stack.enter_context(child).wait_for(ready, READY_SECONDS)


async def _run(folder: Path, front: str, empty: str, environment: Mapping[str, str]) -> FrontObserved:
    seen = FrontObserved()
    async with clients(_CLIENTS, environment) as load:
        await _creates(load, front, empty, seen)
        seen.burst = await _create(load, front, _process_of(_FRONT), "burst", _BURST, _BURST, seconds=_MANY)
    ledger_url = f"sqlite:///{folder / 'state' / 'ledger.db'}"
    async with (
        await Ledger.open(ledger_url) as ledger,
        open_channel(front) as channel,
        open_channel(empty) as empty_channel,
        clients(1, environment) as (prober,),
    ):
        task = await VideoTaskServiceStub(channel).CreateVideoTask(_request())
        stage = _Stage(ledger, task.name, front, empty, VideoTaskServiceStub(empty_channel), prober, seen)
        for count in _WATCHES:
            async with clients(_CLIENTS, environment) as watchers:
                await stage.bare(watchers, count)
            async with clients(_CLIENTS, environment) as watchers:
                await stage.product(watchers, count)
        async with clients(_CLIENTS, environment) as watchers:
            await stage.idle(watchers, max(_WATCHES))
    return seen


async def _creates(load: Sequence[Client], front: str, empty: str, seen: FrontObserved) -> None:
    servers = [(seen.creates, front, _process_of(_FRONT)), (seen.empty, empty, _process_of(_EMPTY))]
    for _, address, process in servers:
        await _create(load, address, process, "warm-up", _MANY, _IN_FLIGHT, seconds=_WARM_UP_SECONDS)
    for number in range(_ROUNDS):
        # Each comes second in turn.
        for rounds, address, process in servers if number % 2 else reversed(servers):
            label = f"round-{number}"
            rounds.append(await _create(load, address, process, label, _MANY, _IN_FLIGHT, seconds=_ROUND_SECONDS))


async def _create(
    load: Sequence[Client],
    address: str,
    process: psutil.Process,
    label: str,
    count: int,
    in_flight: int,
    *,
    seconds: float,
) -> Round:
    share = len(load)
    cpu = _cpu(process)
    answers = await asyncio.gather(
        *(
            client.order(
                "create",
                address=address,
                label=f"{label}-{number}",
                count=count // share,
                in_flight=in_flight // share,
                seconds=seconds,
            )
            for number, client in enumerate(load)
        )
    )
    refused: Counter[str] = Counter()
    for answer in answers:
        refused.update(answer["refused"])
    took = max(answer["ended"] for answer in answers) - min(answer["began"] for answer in answers)
    return Round(
        took, _cpu(process) - cpu, [value for answer in answers for value in answer["latencies"]], dict(refused)
    )


class _Stage:
    """One task, watched by many."""

    def __init__(
        self, ledger: Ledger, name: str, front: str, empty: str, empty_stub: Any, prober: Client, seen: FrontObserved
    ) -> None:
        self._ledger = ledger
        self._name = name
        self._front = front
        self._empty = empty
        self._empty_stub = empty_stub
        self._prober = prober
        self._seen = seen
        self._numbers = 0
        self._rss_before: int | None = None

    async def bare(self, watchers: Sequence[Client], count: int) -> None:
        """The fan-out of a server that does nothing else."""
        await _watch(watchers, self._empty, self._name, count, _NO_HEARTBEAT)

        async def tell() -> float:
            began = time.monotonic()
            await self._empty_stub.CancelVideoTask(CancelVideoTaskRequest(name=self._name))
            return began

        self._seen.bare_told[count] = [await self._told(watchers, tell) for _ in range(_EVENTS)]

    async def product(self, watchers: Sequence[Client], count: int) -> None:
        """Ours; the largest number also says what calls feel of it, and what a watch takes of memory."""
        process = _process_of(_FRONT)
        if self._rss_before is None:
            # What watches of an earlier stage have left free would be used again, and not be seen to grow.
            self._rss_before = process.memory_info().rss
        await _watch(watchers, self._front, self._name, count, _NO_HEARTBEAT)
        self._seen.rss = (self._rss_before, process.memory_info().rss, count)
        self._seen.told[count] = [await self._told(watchers, self._happen) for _ in range(_EVENTS)]
        if count < max(_WATCHES):
            return
        self._seen.unary = await self._probe()
        probing = asyncio.create_task(self._probe())
        while not probing.done():
            await self._told(watchers, self._happen)
        self._seen.unary_told = await probing

    async def idle(self, watchers: Sequence[Client], count: int) -> None:
        """Memory while nothing happens."""
        process = _process_of(_FRONT)
        await _watch(watchers, self._front, self._name, count, _HEARTBEAT)
        # What comes with the first heartbeat is not growth.
        await asyncio.sleep(3 * _HEARTBEAT)
        began = time.monotonic()
        while (moment := time.monotonic() - began) < _IDLE_SECONDS:
            self._seen.idle.append((moment, process.memory_info().rss))
            await asyncio.sleep(1.0)

    async def _probe(self) -> list[float]:
        order = self._prober.order("probe", address=self._front, name=self._name, seconds=_PROBE_SECONDS)
        return (await order)["latencies"]

    async def _happen(self) -> float:
        self._numbers += 1
        seconds = float(self._numbers)
        task_id = self._name.removeprefix("videoTasks/")
        began = time.monotonic()
        await self._ledger.advance(task_id, lambda task: task.model_copy(update={"typical_seconds": seconds}))
        return began

    async def _told(self, watchers: Sequence[Client], tell: Any) -> float:
        await asyncio.sleep(_SETTLE_SECONDS / 4)
        await asyncio.gather(*(client.order("expect") for client in watchers))
        waiting = asyncio.gather(*(client.order("told") for client in watchers))
        began = await tell()
        answers = await waiting
        self._seen.broken += sum(answer["ended"] for answer in answers)
        return max(answer["last"] for answer in answers) - began


async def _watch(watchers: Sequence[Client], address: str, name: str, count: int, heartbeat: float) -> None:
    share = count // len(watchers)
    await asyncio.gather(
        *(client.order("watch", address=address, name=name, count=share, heartbeat=heartbeat) for client in watchers)
    )
    await asyncio.sleep(_SETTLE_SECONDS)


def _request() -> CreateVideoTaskRequest:
    request = CreateVideoTaskRequest()
    request.video_task.text_to_video.prompt = "A paper boat that ten thousand look at"
    return request


def _process_of(module: str) -> psutil.Process:
    (found,) = (child for child in psutil.Process().children() if module in child.cmdline())
    return found


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
