"""One of the clients of ``examples/``, run as a command."""

from __future__ import annotations

import asyncio
import re
import subprocess
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.stack import PATIENCE, clean_environment

_EVENT = re.compile(r"(videoTasks/\S+) (\d+) ([A-Z]+)(?:: .*)?")


@dataclass(frozen=True)
class Event:
    name: str
    revision: int
    state: str


@dataclass
class Outcome:
    """What a run has printed."""

    code: int
    lines: list[str]
    complaints: str

    @property
    def events(self) -> list[Event]:
        matches = map(_EVENT.fullmatch, self.lines)
        return [Event(match[1], int(match[2]), match[3]) for match in matches if match]


@dataclass
class Client:
    """A client that is built."""

    language: str
    command: list[str]

    def run(self, address: str, *arguments: str, check: bool = True, **variables: str) -> Outcome:
        """Run to the end; ``variables`` are added to the environment."""
        done = subprocess.run(
            self._line(address, arguments),
            env=clean_environment(**variables),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        outcome = Outcome(done.returncode, done.stdout.splitlines(), done.stderr)
        assert not check or outcome.code == 0, outcome.complaints
        return outcome

    @asynccontextmanager
    async def start(self, address: str, *arguments: str) -> AsyncIterator[Running]:
        """Run beside the block; what still runs at its end is killed."""
        process = await asyncio.create_subprocess_exec(
            *self._line(address, arguments), stdout=PIPE, stderr=PIPE, env=clean_environment()
        )
        running = Running(process)
        try:
            yield running
        finally:
            if process.returncode is None:
                process.kill()
            await running.end()

    def _line(self, address: str, arguments: tuple[str, ...]) -> list[str]:
        return [*self.command, "--server", address, *arguments]


class Running:
    """A run that goes on."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self.lines: list[str] = []
        self.complaints: list[str] = []
        self._news = asyncio.Event()
        self._readers = asyncio.gather(
            self._read(process.stdout, self.lines), self._read(process.stderr, self.complaints)
        )

    async def end(self) -> Outcome:
        await self._readers
        return Outcome(await self._process.wait(), self.lines, "\n".join(self.complaints))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something that was printed has made ``condition`` true."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._news.clear()
                if self._readers.done():
                    raise AssertionError("\n".join(self.complaints))
                await self._news.wait()

    async def _read(self, stream: asyncio.StreamReader, into: list[str]) -> None:
        try:
            async for line in stream:
                into.append(line.decode().rstrip("\n"))
                self._news.set()
        finally:
            self._news.set()
