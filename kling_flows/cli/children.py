"""Processes that the demo starts and ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from kling_flows.errors import KlingFlowsError
from kling_flows.processes import PARENT_VARIABLE

_TERMINATE_SECONDS: Final = 20.0
_LOOK_SECONDS: Final = 0.05
_TAIL_LINES: Final = 25
_TAIL_BYTES: Final = 16_384


class ChildFailed(KlingFlowsError):
    """A child process ended, or did not get ready.

    Args:
        name: Of the child.
        message: What happened to it.
        log: Where its output is.
    """

    def __init__(self, name: str, message: str, log: Path) -> None:
        super().__init__(f"{name} {message}; its log is {log}", metadata={"child": name, "log": str(log)})
        self.log = log


class Child:
    """One process that writes to a log file; a context manager that starts and ends it.

    Args:
        name: For messages.
        module: Run as ``python -m``.
        arguments: Of the module.
        environment: All of it.
        log: Where stdout and stderr go.
    """

    def __init__(
        self, name: str, module: str, arguments: Sequence[str], *, environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        self._command = (sys.executable, "-m", module, *arguments)
        self._environment = environment
        # The child notices the end of the pipe when we are killed, and ends.
        self._reader, self._writer = os.pipe()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start the process."""
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 (this interpreter and our own modules)
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**self._environment, PARENT_VARIABLE: str(self._reader)},
                pass_fds=(self._reader,),
                # A Ctrl-C at the terminal is for us; the children are ended in their order.
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process, by force if it takes too long or somebody presses Ctrl-C once more."""
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(_TERMINATE_SECONDS)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                process.kill()
                process.wait()
        os.close(self._reader)
        os.close(self._writer)

    def wait_for(self, file: Path, seconds: float) -> str:
        """What the process writes into ``file`` once it is ready.

        Raises:
            ChildFailed: it ended or was not ready in time.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.check()
            try:
                text = file.read_text().strip()
            except FileNotFoundError:
                text = ""
            if text:
                return text
            time.sleep(_LOOK_SECONDS)
        raise ChildFailed(self.name, f"was not ready after {seconds:.0f} s", self.log)

    def check(self) -> None:
        """Make sure that the process runs.

        Raises:
            ChildFailed: it has ended.
        """
        code = None if self._process is None else self._process.poll()
        if code is not None:
            raise ChildFailed(self.name, f"ended with exit code {code}", self.log)


def tail(log: Path) -> str:
    """The last lines of a log."""
    with log.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:])
