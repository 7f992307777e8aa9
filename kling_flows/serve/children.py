"""One supervised child process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from kling_flows.processes import PARENT_VARIABLE

log = structlog.get_logger(__name__)

#: Exit code with which a child says that starting it again is of no use: its configuration.
_HOPELESS: Final = 4

#: The child asks to be started again at once.
_TRY_AGAIN: Final = 75

_FIRST_DELAY: Final = 0.5
_LONGEST_DELAY: Final = 30.0

#: A child that ran for so many seconds starts with the shortest delay again.
_STEADY_SECONDS: Final = 60.0

_TERMINATE_SECONDS: Final = 25.0


class ChildFailed(Exception):
    """A child ended in a way that a new start does not mend."""

    def __init__(self, name: str, exit_code: int) -> None:
        super().__init__(f"{name} ended with exit code {exit_code}")
        self.exit_code = exit_code


class Child:
    """Keeps one process running.

    Args:
        name: For the log.
        module: Run as ``python -m``.
        arguments: Of the module.
        environment: Added to our own.
        log_file: Where its output goes; ours if it is None.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str] = (),
        *,
        environment: Mapping[str, str],
        log_file: Path | None = None,
    ) -> None:
        self.name = name
        self._command = (sys.executable, "-m", module, *arguments)
        self._environment = environment
        self._log_file = log_file
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._reader, self._writer = os.pipe()

    async def keep_running(self) -> None:
        """Start the process, and start it again whenever it ends, until :meth:`stop`.

        Raises:
            ChildFailed: it says that a new start is of no use.
        """
        loop = asyncio.get_running_loop()
        delay = _FIRST_DELAY
        while not self._stopping:
            began = loop.time()
            exit_code = await self._run_once()
            if self._stopping:
                return
            if exit_code == _HOPELESS:
                where = f"; it says why in {self._log_file}" if self._log_file else ""
                log.error(f"a child cannot run as it is configured{where}", child=self.name)
                raise ChildFailed(self.name, exit_code)
            if exit_code == _TRY_AGAIN or loop.time() - began > _STEADY_SECONDS:
                delay = _FIRST_DELAY
            log.warning("a child ended and is started again", child=self.name, exit_code=exit_code, seconds=delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LONGEST_DELAY)

    async def stop(self) -> None:
        """Ask the process to end, and end it if it has not after a while."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(_TERMINATE_SECONDS):
                await process.wait()
        except TimeoutError:
            log.error("a child does not end and is killed", child=self.name)
            process.kill()
            await process.wait()

    async def _run_once(self) -> int:
        output = await asyncio.to_thread(self._open_log)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self._environment, PARENT_VARIABLE: str(self._reader)},
                pass_fds=(self._reader,),
                # A Ctrl-C at the terminal is for us; the children are drained in their order.
                start_new_session=True,
            )
        finally:
            if output is not None:
                os.close(output)
        log.info("started", child=self.name, pid=self._process.pid)
        return await self._process.wait()

    def _open_log(self) -> int | None:
        if self._log_file is None:
            return None
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self._log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
