"""Feeds jobs to a peer's submit program and notes when it has accepted each."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.peers.processes import Command

#: Length of every video, in seconds.
_VIDEO_SECONDS: Final = 5


@dataclass(frozen=True, slots=True)
class Result:
    """What a peer has written of a job that ended.

    Args:
        ok: Whether it has the video.
        at: When it knew, in seconds since the epoch.
        file: Where the video is, if it is a file.
    """

    ok: bool
    at: float
    file: str | None = None


def job_id(number: int) -> str:
    """The id of a job; :mod:`benchmarks.peers.books` finds it in its prompt."""
    return f"job-{number:05d}"


class Feeder:
    """Feeds one submit program; again, after it was started again."""

    def __init__(self, command: Command) -> None:
        #: When each job was handed over and when it was accepted first, in seconds since the epoch.
        self.fed: dict[str, float] = {}
        self.accepted: dict[str, float] = {}
        self._command = command
        self._reading: asyncio.Task[None] | None = None

    async def feed(self, jobs: Sequence[str], rate: float | None) -> None:
        """Hand over these jobs, so many a second or at once. It ends early if the program does."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        stdin = self._command.process.stdin
        assert stdin is not None
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            for number, job in enumerate(jobs):
                if rate is not None:
                    await asyncio.sleep(began + number / rate - loop.time())
                self.fed.setdefault(job, time.time())
                prompt = f"Many paper boats on a river at dusk, {job}"
                stdin.write(json.dumps({"job": job, "prompt": prompt, "seconds": _VIDEO_SECONDS}).encode() + b"\n")
                await stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            return

    async def close(self, seconds: float) -> None:
        """End the program's input, and give it so long to end."""
        stdin = self._command.process.stdin
        if stdin is not None:
            stdin.close()
        try:
            async with asyncio.timeout(seconds):
                await self._command.process.wait()
        except TimeoutError:
            return
        finally:
            if self._reading is not None:
                self._reading.cancel()

    async def _read(self) -> None:
        stdout = self._command.process.stdout
        assert stdout is not None
        async for line in stdout:
            if line.startswith(b'{"job"'):
                self.accepted.setdefault(json.loads(line)["job"], time.time())


class Results:
    """The file of results, as it grows.

    Args:
        file: The file; it need not be there yet.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = 0
        #: The last result of each job, but a good one stays good.
        self.by_job: dict[str, Result] = {}

    def read(self) -> Mapping[str, Result]:
        """All results so far."""
        if not self._file.exists():
            return self.by_job
        with self._file.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                told = json.loads(line)
                known = self.by_job.get(told["job"])
                if known is None or (told["ok"] and not known.ok):
                    self.by_job[told["job"]] = Result(told["ok"], told["at"], told.get("file"))
        return self.by_job
