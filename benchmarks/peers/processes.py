"""Processes that a run starts, kills and ends, with all that they have started themselves."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil

#: Seconds that a process gets to become ready.
READY_SECONDS: Final = 180.0

#: Seconds that a process gets to end when it is asked to.
_END_SECONDS: Final = 10.0

_LOOK_SECONDS: Final = 0.05

#: In the environment of all that a run starts, so that nothing of it is left behind.
_MARK: Final = "KLING_FLOWS_BENCHMARK_RUN"


class NotReady(Exception):
    """A process ended or did not get ready; the message has the end of its log."""


class Command:
    """One process and all below it.

    Args:
        name: For figures and messages.
        argv: The command.
        environment: All of its variables.
        folder: Where it runs.
        log: Where its output goes; stdout too, unless it is piped.
        ready: Port of 127.0.0.1 that accepts connections once it is ready; None for a line ``READY``.
        piped: Whether stdin and stdout are pipes, for a program that is fed.
        user: Whom it runs as, if not as this process.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        log: Path,
        ready: int | None = None,
        piped: bool = False,
        user: int | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._argv = tuple(argv)
        self._environment = {**environment, _MARK: str(uuid.uuid4())}
        self._folder = folder
        self._ready = ready
        self._piped = piped
        self._user = user
        self._process: asyncio.subprocess.Process | None = None
        self._offset = 0

    async def __aenter__(self) -> Self:
        """Start it."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it."""
        await self.end()

    @property
    def process(self) -> asyncio.subprocess.Process:
        """What runs, or has run."""
        assert self._process is not None
        return self._process

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it; its log is continued.

        Raises:
            NotReady: there is no such program.
        """
        identity: dict[str, Any] = {}
        if self._user is not None:
            identity = {"user": self._user, "group": self._user, "extra_groups": []}
        with self.log.open("ab") as output:
            self._offset = output.tell()
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._argv,
                    stdin=subprocess.PIPE if self._piped else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if self._piped else output,
                    stderr=output,
                    cwd=self._folder,
                    env=self._environment,
                    # A Ctrl-C at the terminal is for us; these are ended in their order.
                    start_new_session=True,
                    **identity,
                )
            except OSError as error:
                raise NotReady(f"{self.name} cannot be started: {error}") from error

    async def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until it is ready.

        Raises:
            NotReady: it ended, or was not ready in time.
        """
        deadline = time.monotonic() + seconds
        while not (self._says_ready() if self._ready is None else accepts(self._ready)):
            if not self.running:
                raise NotReady(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise NotReady(f"{self.name} was not ready after {seconds:.0f} s:\n{self.tail()}")
            await asyncio.sleep(_LOOK_SECONDS)

    def tree(self) -> Sequence[psutil.Process]:
        """It and all that it has started and that runs."""
        if not self.running:
            return ()
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            return (root, *root.children(recursive=True))
        return ()

    async def kill(self) -> None:
        """Kill it with -9, and all below it."""
        _kill(self.tree())
        await self.process.wait()

    async def end(self) -> None:
        """Ask it to end, then end all that is left of it."""
        left = self.tree()
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_END_SECONDS):
                    await self.process.wait()
        _kill([*left, *self.tree(), *self._marked()])
        if self._process is not None:
            await self._process.wait()

    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def _says_ready(self) -> bool:
        with self.log.open("rb") as file:
            file.seek(self._offset)
            return any(line.strip() == b"READY" for line in file)

    def _marked(self) -> Sequence[psutil.Process]:
        # What was started by it and was handed to another parent is found by its environment.
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(_MARK) == self._environment[_MARK]:
                    found.append(process)
        return found


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def accepts(port: int) -> bool:
    """Whether somebody listens at that port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _kill(processes: Iterable[psutil.Process]) -> None:
    # By handle, which knows when a number was given to another process.
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
