"""One trial: a sandbox and a server as processes of their own, orders in flight, and blows against them."""

from __future__ import annotations

import asyncio
import inspect
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from kling_flows.cli.client import FINAL_STATES, Patience, VideoTaskClient
from kling_flows.v1.text_to_video_pb2 import TextToVideo
from kling_flows.v1.video_task_pb2 import VideoTask
from kling_flows.v1.video_task_service_pb2 import CreateVideoTaskRequest, ListVideoTasksRequest
from tests.faults.audit import Audit, audit
from tests.faults.mortal import MORTAL, OF_THE_FRONT, Death, mortal_settings
from tests.stack import ROOT, Sandbox, Server, clean_environment, free_port, process, sandbox, serve, serve_settings

FRONT = "grpc_server"
RUNNER = "kling_flows.runner"
PREFECT = "kling_flows.runner.prefect_server"

#: In the prompt of an order that the provider refuses for good.
REFUSED = "refused"

_PATIENCE = Patience(unreachable=240.0, unavailable=240.0, lost=300.0)

_CREATES_AT_A_TIME = 16

#: In a setting of a trial: a port of its own.
PORT: Final = "{port}"

#: The folder of a trial that remembers which processes have killed themselves.
_MARKS = "deaths"


@dataclass
class Trial:
    """What a scenario plays on.

    Args:
        seed: Decides at which moments blows fall.
        patience: Longest wait for anything, in seconds: a deadline against hanging.
        deaths: Where processes of this trial kill themselves.
    """

    folder: Path
    provider: Sandbox
    settings: dict[str, str]
    server: Server
    client: VideoTaskClient
    random: random.Random
    patience: float
    #: Ends everything that was started; a new start of the server is pushed onto it.
    stack: ExitStack
    deaths: Sequence[Death] = ()
    prompts: list[str] = field(default_factory=list)
    created: list[VideoTask] = field(default_factory=list)
    tasks: dict[str, VideoTask] = field(default_factory=dict)
    blows: int = 0
    #: Seconds from each kill until the killed role worked again.
    recoveries: list[float] = field(default_factory=list)
    _last_carried: float = 0.0

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until ``condition``, or the coroutine that it makes, gives something true, and return that."""
        deadline = time.monotonic() + self.patience
        while True:
            result = condition()
            if inspect.isawaitable(result):
                result = await result
            if result:
                return result
            if self.server.child.poll() is not None:
                raise AssertionError(f"serve ended with {self.server.child.returncode} before {what}")
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {self.patience:.0f} s in vain: {what}")
            await asyncio.sleep(0.03)

    async def create(self, count: int, *, refused: int = 0) -> None:
        """Order so many videos, some of them with a prompt that is refused; a create is repeated until answered."""
        words = [f"{REFUSED if number < refused else 'order'} {uuid.uuid4().hex}" for number in range(count)]
        self.prompts.extend(words)
        slots = asyncio.Semaphore(_CREATES_AT_A_TIME)

        async def order(prompt: str) -> None:
            request = CreateVideoTaskRequest(
                video_task=VideoTask(text_to_video=TextToVideo(prompt=prompt)), request_id=uuid.uuid4().hex
            )
            async with slots:
                self.created.append(await self.client.create(request))

        await asyncio.gather(*(order(prompt) for prompt in words))

    @asynccontextmanager
    async def ordering(self, count: int) -> AsyncGenerator[None]:
        """Order so many videos beside what happens in the block, which ends when all creates are answered."""
        creating = asyncio.create_task(self.create(count))
        try:
            yield
            await creating
        finally:
            creating.cancel()
            await asyncio.wait({creating})

    def reached(self, state: VideoTask.State.ValueType) -> int:
        """How many tasks have come at least so far."""
        return sum(task.state >= state for task in self.tasks.values())

    async def moment(self, state: VideoTask.State.ValueType, begin: float, end: float) -> None:
        """Wait until a random share between ``begin`` and ``end`` of all orders has come at least so far."""
        wanted = max(1, round(self.random.uniform(begin, end) * len(self.prompts)))
        await self.until(lambda: self.reached(state) >= wanted, f"{wanted} tasks are {VideoTask.State.Name(state)}")

    async def kill(self, role: str) -> None:
        """Kill -9 one role and wait until its successor works."""
        await self.until(lambda: self._process(role), f"{role} runs")
        process = self._process(role)
        assert process is not None, f"{role} ended by itself"
        began = time.time()
        process.kill()
        self.blows += 1
        await self._works_again(role, began)

    def start(self, module: str, *arguments: str, stop: int = signal.SIGTERM) -> subprocess.Popen[bytes]:
        """A process beside the supervisor's, which nobody starts again; it is ended with the trial, by ``stop``."""
        return self.stack.enter_context(
            process(
                *(sys.executable, "-m", module, *arguments),
                environment=clean_environment(**self.settings, PREFECT_HOME=str(self.folder / "state" / "prefect")),
                log=self.log(module),
                stop=stop,
            )
        )

    def log(self, module: str) -> Path:
        """Where all that were started under this name by :meth:`start` write."""
        return self.folder / f"{module}.log"

    async def start_prefect(self) -> subprocess.Popen[bytes]:
        """As :meth:`start`, and wait until it answers."""
        host, _, port = self.settings["KLING_FLOWS_PREFECT_LISTEN"].rpartition(":")
        server = self.start(PREFECT, host, port)
        await self.until(self.server.prefect_is_up, "Prefect is up")
        return server

    async def kill_everything(self) -> None:
        """Kill -9 the supervisor and all below it, and start again on the same state."""
        root = psutil.Process(self.server.child.pid)
        family = [*root.children(recursive=True), root]
        began = time.time()
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        self.server.child.wait()
        psutil.wait_procs(family, timeout=30)
        self.blows += 1
        self.server = self.stack.enter_context(serve(self.folder, self.settings))
        await self._works_again(RUNNER, began)

    async def all_died(self) -> None:
        """Wait until processes have killed themselves as often as planned, and until their successors work."""
        planned = sum(death.times for death in self.deaths)
        for number in range(planned):
            await self.until(
                lambda number=number: len(self._died()) > number or self._all_ended(), "the next process kills itself"
            )
            if len(died := self._died()) <= number:
                raise AssertionError(f"all is done, and only {number} of {planned} processes have killed themselves")
            self.blows += 1
            when, boundary = died[number]
            await self._works_again(FRONT if boundary in OF_THE_FRONT else RUNNER, when)

    def _died(self) -> list[tuple[float, str]]:
        """When processes have killed themselves, and at which boundary, in that order."""
        marks = [(mark.read_text(), mark.parent.name) for mark in (self.folder / _MARKS).glob("*/*")]
        # One without its text is about to be written.
        return sorted((float(text), boundary) for text, boundary in marks if text)

    async def all_ended(self) -> None:
        """Wait until every order has ended."""
        await self.until(self._all_ended, "all tasks have ended")

    async def finish(self, *, refused: bool = False) -> Audit:
        """Wait until every order has ended, and check the books."""
        with suppress(AssertionError):
            # Whoever has not ended is a finding, not an accident of the harness.
            await self.all_ended()
        return audit(
            self.prompts,
            await self._list(),
            self.provider.charges(),
            refused={prompt for prompt in self.prompts if prompt.startswith(REFUSED)} if refused else (),
        )

    def hits(self) -> int:
        """How many calls the provider's fault rules have hit."""
        return sum(rule["fired"] for rule in httpx.get(f"{self.provider.url}/sandbox/faults").json()["faults"])

    def worst_recovery(self) -> float:
        """The longest recovery after a kill; without kills, the longest that a submit or an archive step took."""
        return max(self.recoveries or _step_seconds(self.tasks.values()), default=0.0)

    def _process(self, role: str) -> psutil.Process | None:
        for child in psutil.Process(self.server.child.pid).children():
            # A role that was killed a moment ago is not always gone yet.
            with suppress(psutil.Error):
                if role in child.cmdline():
                    return child
        return None

    def _all_ended(self) -> bool:
        ended = sum(task.state in FINAL_STATES or task.state == VideoTask.UNRESOLVED for task in self.tasks.values())
        return 0 < len(self.prompts) <= ended

    async def _list(self) -> list[VideoTask]:
        request = ListVideoTasksRequest(page_size=1_000)
        tasks: list[VideoTask] = []
        while True:
            page = await self.client.list(request)
            tasks.extend(page.video_tasks)
            if not page.next_page_token:
                return tasks
            request.page_token = page.next_page_token

    async def _works_again(self, role: str, began: float) -> None:
        if role == FRONT:
            await self.client.list(ListVideoTasksRequest(page_size=1))
        elif role == PREFECT:
            while not await asyncio.to_thread(self.server.prefect_is_up):
                await self.until(lambda: self._process(PREFECT), "Prefect's server is started again")
        else:
            # Where nothing is left to carry on, there is nothing to recover either.
            await self.until(lambda: self._worked_after(began) or self._all_ended(), "a task is carried on")
            if not self._worked_after(began):
                return
        self.recoveries.append(time.time() - began)

    def _worked_after(self, moment: float) -> bool:
        """Whether a runner has written a step since, or has come so far that it had to kill itself."""
        return self._last_carried > moment or any(
            when > moment for when, boundary in self._died() if boundary not in OF_THE_FRONT
        )

    async def _watch(self) -> None:
        async with aclosing(self.client.watch()) as seen:
            async for change in seen:
                self.tasks[change.task.name] = change.task
                if change.task.state != VideoTask.QUEUED:
                    written = change.task.update_time.ToNanoseconds() / 1e9
                    self._last_carried = max(self._last_carried, written)


def _step_seconds(tasks: Iterable[VideoTask]) -> list[float]:
    return [
        (end.ToNanoseconds() - begin.ToNanoseconds()) / 1e9
        for task in tasks
        if task.state == VideoTask.SUCCEEDED
        for begin, end in (
            (task.upstream.intent_time, task.upstream.submit_time),
            (task.upstream.end_time, task.end_time),
        )
    ]


@asynccontextmanager
async def trial(
    folder: Path,
    *serve_arguments: str,
    seconds: str,
    seed: int = 0,
    patience: float = 300.0,
    settings: Mapping[str, str] | None = None,
    sandbox_arguments: Sequence[str] = (),
    deaths: Sequence[Death] = (),
    bug: str = "",
) -> AsyncGenerator[Trial]:
    """A fresh sandbox and a fresh server.

    Args:
        serve_arguments: Of ``kling-flows serve``.
        seconds: How long a video takes at the sandbox, ``MIN:MAX``.
        seed: Decides which calls a rate hits, and at which moments processes are killed.
        patience: Longest wait for anything, in seconds.
        settings: Variables of the environment, for the server and everything below it; ``PORT`` in them is replaced.
        sandbox_arguments: Of the sandbox, beside those of every trial.
        deaths: Where its processes kill themselves.
        bug: What is wrong with its runner, if anything is; one of :data:`tests.faults.mortal.BUGS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        options = ("--video", "tiny", "--seconds", seconds, "--concurrency", "0", "--seed", str(seed))
        provider = stack.enter_context(sandbox(folder, *options, *sandbox_arguments))
        port = free_port()
        variables = serve_settings(
            folder,
            provider.url,
            # A fixed port, so that a client finds a front that was started again.
            KLING_FLOWS_LISTEN=f"127.0.0.1:{free_port()}",
            # For what is started through tests.faults.mortal.
            PYTHONPATH=str(ROOT),
            **mortal_settings(*deaths, marks=folder / _MARKS, bug=bug),
            **{name: value.replace(PORT, str(port)) for name, value in (settings or {}).items()},
        )
        through = (MORTAL,) if deaths or bug else ()
        server = stack.enter_context(serve(folder, variables, *serve_arguments, through=through))
        async with VideoTaskClient(server.address, patience=_PATIENCE) as client:
            running = Trial(
                folder, provider, variables, server, client, random.Random(seed), patience, stack, tuple(deaths)
            )
            watching = asyncio.create_task(running._watch())
            try:
                yield running
            finally:
                watching.cancel()
                await asyncio.wait({watching})
                if not watching.cancelled():
                    watching.result()
