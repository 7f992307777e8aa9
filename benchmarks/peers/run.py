"""One run: a peer, in one variant, under one scenario."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from benchmarks.peers.big_sandbox import BIG_BYTES, TINY_BYTES
from benchmarks.peers.books import Charge, Counts, SandboxBooks
from benchmarks.peers.contract import FOLDER, Peer
from benchmarks.peers.environments import Environment
from benchmarks.peers.feed import Feeder, Result, Results, job_id
from benchmarks.peers.meter import PeerMeter
from benchmarks.peers.processes import Command, free_port
from benchmarks.peers.proxy import CuttingProxy
from benchmarks.peers.scenarios import Moment, PeerScenario
from benchmarks.peers.services import service
from benchmarks.stack import clean_environment
from kling_flows.upstream.constants import SANDBOX_API_KEY

#: Rest after the load, in seconds, in which the last records are written.
_SETTLE_SECONDS: Final = 3.0

#: What a program does once it has started is not the load's, so that begins when all have taken less than this share of
#: a core for some seconds, or after the longest wait.
_CALM_SHARE: Final = 0.15
_CALM_SECONDS: Final = 3
_LONGEST_CALMING: Final = 45

#: So long without any news, a run only waits to be given up and leaves the machine to others.
_IDLE_SECONDS: Final = 30.0

#: Between two looks at a run, and before a kill, whose moment may be short.
_LOOK_SECONDS: Final = 1.0
_CLOSE_LOOK_SECONDS: Final = 0.05

#: Seconds that a killed program stays away.
_AWAY_SECONDS: Final = 1.0

_CUT_SHARE: Final = 0.9
_PORTS: Final = 4
_ROOT: Final = FOLDER.parents[1]


@dataclass(frozen=True, slots=True)
class Row:
    """What is run.

    Args:
        peer: Who.
        variant: ``plain`` or ``careful``.
        scenario: Under what.
        tasks: Jobs; fewer than the scenario's where a peer would take too long.
        repeat: Counted from 1.
    """

    peer: Peer
    variant: str
    scenario: PeerScenario
    tasks: int
    repeat: int = 1

    @property
    def label(self) -> str:
        """For people."""
        careful = ", careful" if self.variant == "careful" else ""
        again = f", repeat {self.repeat}" if self.repeat > 1 else ""
        return f"{self.scenario.name}: {self.peer.name}{careful}, {self.tasks} jobs{again}"


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Memory at one moment.

    Args:
        in_flight: Tasks at the provider that have not ended.
        memory: Bytes of all processes.
    """

    in_flight: int
    memory: int


@dataclass(frozen=True, slots=True)
class Watched:
    """What a watch told while it was cut again and again.

    Args:
        cuts: How often it was cut.
        events: Changes that it told.
        missed: Changes that it skipped.
    """

    cuts: int
    events: int
    missed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerObserved:
    """What was seen of one run; times are seconds since the epoch.

    Args:
        jobs: All that were to be done.
        fed: When each was handed over.
        accepted: When the peer said that it has it.
        results: What it said in the end.
        charges: What the sandbox was paid for, by job.
        before: The sandbox's counters before.
        after: The same after.
        cpu: Seconds of CPU from the first job to the end, by process.
        memory_before: Bytes before the first job.
        samples: Memory under the load.
        seconds: From the first job to the last news.
        killed: Whether the kill that the scenario asks for took place.
        gave_up: Whether it was ended because nothing happened any more.
        fetched: Bytes of videos that came, where that was counted.
        size: Bytes of one video.
        watched: Of the watch, if there was one.
    """

    jobs: Sequence[str]
    fed: Mapping[str, float]
    accepted: Mapping[str, float]
    results: Mapping[str, Result]
    charges: Mapping[str, Sequence[Charge]]
    before: Counts
    after: Counts
    cpu: Mapping[str, float]
    memory_before: int
    samples: Sequence[MemorySample]
    seconds: float
    killed: bool = False
    gave_up: bool = False
    fetched: int | None = None
    size: int = TINY_BYTES
    watched: Watched | None = None


@dataclass(slots=True)
class _Rig:
    """All that runs for one row."""

    row: Row
    folder: Path
    books: SandboxBooks
    submit: Command
    processes: Mapping[str, Command]
    meter: PeerMeter
    results: Results
    feeder: Feeder
    upstream: CuttingProxy | None
    watch: CuttingProxy | None
    jobs: Sequence[str]
    idle: Callable[[], None]
    samples: list[MemorySample] = field(default_factory=list[MemorySample])
    feeding: asyncio.Task[None] | None = None
    killed: bool = False


async def measure(
    row: Row,
    environment: Environment,
    folder: Path,
    cache: Path,
    limit: float,
    idle: Callable[[], None] = lambda: None,
) -> PeerObserved:
    """Run it, with data and logs in ``folder``.

    Args:
        row: What.
        environment: The peer's own.
        folder: An empty one.
        cache: Where installed programs are kept.
        limit: Most seconds for the load.
        idle: Called, perhaps again and again, while it only waits to be given up.

    Raises:
        NotInstalled: a service cannot be had here.
        NotReady: something did not start.
        TimeoutError: the load took longer than ``limit``.
    """
    async with _rig(row, environment, folder, cache, idle) as rig:
        return await _observe(rig, limit)


@asynccontextmanager
async def _rig(
    row: Row, environment: Environment, folder: Path, cache: Path, idle: Callable[[], None]
) -> AsyncGenerator[_Rig]:
    peer, scenario = row.peer, row.scenario
    base = clean_environment(folder)
    state, downloads = folder / "state", folder / "downloads"
    for made in (state, downloads):
        made.mkdir()
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(_sandbox(scenario, folder, base))
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30)
        )
        books = SandboxBooks(client)
        upstream = watch = None
        if scenario.big:
            upstream = await stack.enter_async_context(CuttingProxy.running(port, int(BIG_BYTES * _CUT_SHARE)))
        ports = {f"PEER_PORT_{number}": str(free_port()) for number in range(1, _PORTS + 1)}
        if scenario.disconnects:
            watch = await stack.enter_async_context(CuttingProxy.running(int(ports["PEER_PORT_1"])))
        variables = {
            **base,
            **ports,
            "PATH": os.pathsep.join([*map(str, environment.path), base.get("PATH", os.defpath)]),
            "PYTHONPATH": str(_ROOT if peer.environment == "own" else FOLDER / "shared"),
            "PYTHONUNBUFFERED": "1",
            "KLING_URL": f"http://127.0.0.1:{upstream.port if upstream else port}",
            "KLING_KEY": SANDBOX_API_KEY,
            "VARIANT": row.variant,
            "POLL_SECONDS": f"{(scenario.measured and peer.poll_seconds) or scenario.poll_seconds:g}",
            "RESULTS": str(folder / "results.jsonl"),
            "DOWNLOADS": str(downloads),
            "STATE": str(state),
            "WATCH_PORT": str(watch.port) if watch else ports["PEER_PORT_1"],
            "WATCH_BOOK": str(folder / "watch.json") if watch else "",
            "PEER_CACHE": str(cache),
        }
        commands: list[Command] = []
        for name in peer.services:
            command, more = await stack.enter_async_context(service(name, folder / name, cache, base))
            commands.append(command)
            variables |= more
        for name, value in peer.settings.items():
            variables[name] = _filled(value, variables)
        processes: dict[str, Command] = {}
        for name, process in peer.processes.items():
            ready = None if process.ready is None else int(variables[process.ready])
            command = processes[name] = _command(name, process.argv, environment, variables, folder, ready=ready)
            await stack.enter_async_context(command)
            await command.wait_ready()
        submit = _command("submit", peer.submit, environment, variables, folder, piped=True)
        await stack.enter_async_context(submit)
        commands += [*processes.values(), submit]
        yield _Rig(
            row=row,
            folder=folder,
            books=books,
            submit=submit,
            processes=processes,
            meter=PeerMeter(commands, peer.parts),
            results=Results(folder / "results.jsonl"),
            feeder=Feeder(submit),
            upstream=upstream,
            watch=watch,
            jobs=[job_id(number) for number in range(row.tasks)],
            idle=idle,
        )


@asynccontextmanager
async def _sandbox(scenario: PeerScenario, folder: Path, environment: Mapping[str, str]) -> AsyncGenerator[int]:
    port = free_port()
    module = ("benchmarks.peers.big_sandbox", str(folder)) if scenario.big else ("kling_flows.sandbox",)
    shortest, longest = scenario.seconds
    sandbox = Command(
        "sandbox",
        (
            *(sys.executable, "-m", *module, "--port", str(port), "--video", "tiny", "--concurrency", "0"),
            *("--seconds", f"{shortest}:{longest}"),
        ),
        environment={**environment, "PYTHONPATH": str(_ROOT)},
        folder=folder,
        log=folder / "sandbox.log",
        ready=port,
    )
    async with sandbox:
        await sandbox.wait_ready()
        yield port


def _command(
    name: str,
    argv: Sequence[str],
    environment: Environment,
    variables: Mapping[str, str],
    folder: Path,
    *,
    ready: int | None = None,
    piped: bool = False,
) -> Command:
    program = next((str(found) for place in environment.path if (found := place / argv[0]).exists()), argv[0])
    return Command(
        name,
        (program, *(_filled(word, variables) for word in argv[1:])),
        environment=variables,
        folder=environment.folder,
        log=folder / f"{name}.log",
        ready=ready,
        piped=piped,
    )


def _filled(text: str, variables: Mapping[str, str]) -> str:
    # Longer names first: one may begin with another.
    for name in sorted(variables, key=len, reverse=True):
        text = text.replace(f"${name}", variables[name])
    return text


async def _observe(rig: _Rig, limit: float) -> PeerObserved:
    await _until_calm(rig.meter)
    before = await rig.books.counts()
    await rig.books.misbehave(rig.row.scenario.faults)
    start = rig.meter.read()
    began = time.monotonic()
    cutting = asyncio.create_task(_cut_watches(rig)) if rig.watch else None
    rig.feeding = asyncio.create_task(rig.feeder.feed(rig.jobs, rig.row.scenario.rate))
    try:
        gave_up, seconds = await _until_quiet(rig, began, limit)
        if rig.row.scenario.measured:
            await asyncio.sleep(_SETTLE_SECONDS)
        end = rig.meter.read(memory=False)
        after = await rig.books.counts()
    finally:
        for task in filter(None, (rig.feeding, cutting)):
            task.cancel()
    await rig.feeder.close(10.0)
    size = BIG_BYTES if rig.row.scenario.big else TINY_BYTES
    return PeerObserved(
        jobs=rig.jobs,
        fed=rig.feeder.fed,
        accepted=rig.feeder.accepted,
        results=await asyncio.to_thread(_checked, rig.results.read(), size),
        charges=await rig.books.charges(),
        before=before,
        after=after,
        cpu={label: value - start.cpu.get(label, 0.0) for label, value in end.cpu.items()},
        memory_before=sum(start.memory.values()),
        samples=rig.samples,
        seconds=seconds,
        killed=rig.killed,
        gave_up=gave_up,
        fetched=rig.upstream.passed if rig.upstream else None,
        size=size,
        watched=_watched(rig, cutting),
    )


async def _until_calm(meter: PeerMeter) -> None:
    calm, last = 0, 0.0
    for _ in range(_LONGEST_CALMING):
        total = sum((await asyncio.to_thread(meter.read, memory=False)).cpu.values())
        calm = calm + 1 if total - last < _CALM_SHARE else 0
        if calm > _CALM_SECONDS:
            return
        last = total
        await asyncio.sleep(1.0)


async def _until_quiet(rig: _Rig, began: float, limit: float) -> tuple[bool, float]:
    """Look until all jobs have ended (False) or nothing happens any more (True); with the seconds to the last news."""
    news, told_at = None, began
    while True:
        counts, results = await rig.books.counts(), rig.results.read()
        if rig.row.scenario.measured:
            # On a thread: the loop has jobs to feed in time.
            reading = await asyncio.to_thread(rig.meter.read)
            rig.samples.append(MemorySample(counts.in_flight, sum(reading.memory.values())))
        # One big download alone takes longer than anything else may stay without news.
        passed = rig.upstream.passed if rig.upstream else 0
        accepted = len(rig.feeder.accepted)
        newest = (counts.tasks, counts.in_flight, counts.downloads, passed, len(results), accepted, rig.killed)
        now = time.monotonic()
        if newest != news:
            news, told_at = newest, now
        if len(results) >= len(rig.jobs):
            return False, told_at - began
        if now - told_at > rig.row.peer.quiet_seconds or not rig.submit.running:
            return True, told_at - began
        if now - began > limit:
            # What the harness cuts short, the peer has not lost.
            raise TimeoutError(f"{len(results)} of {len(rig.jobs)} jobs had ended when its {limit:.0f} s were over")
        if now - told_at > _IDLE_SECONDS:
            rig.idle()
        if not rig.killed and _moment(rig, counts):
            await _kill(rig)
        close = rig.row.scenario.kill and not rig.killed
        await asyncio.sleep(_CLOSE_LOOK_SECONDS if close else _LOOK_SECONDS)


def _moment(rig: _Rig, counts: Counts) -> bool:
    enough = max(len(rig.jobs) // 6, 1)
    match rig.row.scenario.kill:
        case None:
            return False
        case Moment.CREATING:
            return counts.tasks >= enough
        case Moment.POLLING:
            # A slow one has its first videos before it has created all.
            return counts.tasks >= len(rig.jobs) or counts.in_flight < counts.tasks
        case Moment.DOWNLOADING:
            return counts.downloads >= enough


async def _kill(rig: _Rig) -> None:
    victims = [rig.processes[name] for name in rig.row.peer.restart] or [rig.submit]
    if not rig.processes and rig.feeding:
        rig.feeding.cancel()
    await asyncio.gather(*(victim.kill() for victim in victims))
    rig.killed = True
    await asyncio.sleep(_AWAY_SECONDS)
    for victim in victims:
        await victim.start()
        if victim is not rig.submit:
            await victim.wait_ready()
    if not rig.processes:
        # What a user does: start it again for what has no result.
        left = [job for job in rig.jobs if job not in rig.results.read()]
        rig.feeding = asyncio.create_task(rig.feeder.feed(left, rig.row.scenario.rate))


async def _cut_watches(rig: _Rig) -> int:
    assert rig.watch is not None
    scenario = rig.row.scenario
    pause = len(rig.jobs) / (scenario.rate or len(rig.jobs)) / scenario.disconnects
    cuts = 0
    with suppress(asyncio.CancelledError):
        while cuts < scenario.disconnects:
            await asyncio.sleep(pause)
            cuts += rig.watch.cut_all() > 0
    return cuts


def _watched(rig: _Rig, cutting: asyncio.Task[int] | None) -> Watched | None:
    book = rig.folder / "watch.json"
    if cutting is None or not cutting.done() or cutting.cancelled() or not book.exists():
        return None
    told = json.loads(book.read_text())
    return Watched(cutting.result(), told["events"], told["missed"])


def _checked(results: Mapping[str, Result], size: int) -> Mapping[str, Result]:
    """A result with a file that is not the whole video is not good."""
    return {
        job: Result(result.ok and (result.file is None or _bytes_of(Path(result.file)) == size), result.at, result.file)
        for job, result in results.items()
    }


def _bytes_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else -1
