"""Runs the command as its users do: as a process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The error object, which is the last line of stderr."""
        return json.loads(self.err.splitlines()[-1])["error"]


async def start(*arguments: str, env: dict[str, str] | None = None, piped: bool = False) -> asyncio.subprocess.Process:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("KLING", "COMETAPI", "PREFECT"))}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "kling_flows.cli",
        *arguments,
        stdin=asyncio.subprocess.PIPE if piped else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**clean, "TERM": "dumb", **(env or {})},
    )


async def finish(process: asyncio.subprocess.Process, stdin: bytes | None = None) -> Result:
    async with asyncio.timeout(180):
        out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return Result(process.returncode, out.decode(), err.decode())


async def run(*arguments: str, env: dict[str, str] | None = None, stdin: bytes | None = None) -> Result:
    return await finish(await start(*arguments, env=env, piped=stdin is not None), stdin)


async def interrupt(process: asyncio.subprocess.Process) -> Result:
    process.send_signal(signal.SIGINT)
    return await finish(process)
