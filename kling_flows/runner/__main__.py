"""``python -m kling_flows.runner``: settings from the environment."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from types import FrameType

import sniffio

from kling_flows.errors import KlingFlowsError
from kling_flows.logs import configure_logging
from kling_flows.processes import new_event_loop, watch_parent
from kling_flows.settings import Settings


def main() -> int:
    """Run until SIGTERM, SIGINT or the end of the parent; returns the exit code."""
    configure_logging()
    try:
        settings = Settings.load()
        settings.account()
    except KlingFlowsError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    from kling_flows.runner.environment import prefect_environment

    os.environ.update(prefect_environment(settings, settings.prefect_address))
    return _Main(settings).run()


class _Main:
    # Prefect takes over SIGTERM in the main thread while a flow runs there and crashes the run. So the loop runs on a
    # thread of its own, and the main thread only listens for signals.
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._stopping = threading.Event()
        self._exit_code = 1

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        watch_parent(self._request_stop)
        thread = threading.Thread(target=self._thread, name="runner")
        thread.start()
        while thread.is_alive():
            thread.join(0.5)
        return self._exit_code

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._request_stop()

    def _request_stop(self) -> None:
        self._stopping.set()
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)

    def _thread(self) -> None:
        # HTTP clients ask at each of a call's dozen steps which library they run under: here it is only this one.
        sniffio.thread_local.name = "asyncio"
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                self._exit_code = runner.run(self._main())
        except KlingFlowsError as error:
            sys.stderr.write(f"{error.message}\n")
            self._exit_code = error.exit_code

    async def _main(self) -> int:
        from kling_flows.runner.runner import run

        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        if self._stopping.is_set():
            return 0
        return await run(self._settings, self._stop)


if __name__ == "__main__":
    sys.exit(main())
