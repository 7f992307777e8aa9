"""The life of the front's process: from the environment to the drain."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import structlog

from grpc_server.http.address import http_address
from grpc_server.listen import listen_address
from grpc_server.server import Front
from kling_flows.errors import ConfigurationError
from kling_flows.ledger import Ledger
from kling_flows.processes import READY_VARIABLE, new_event_loop, stop_with_parent
from kling_flows.settings import Settings
from kling_flows.telemetry.otlp import exporting

log = structlog.get_logger(__name__)

#: In traces, unless ``OTEL_SERVICE_NAME`` says otherwise.
SERVICE_NAME: Final = "kling-flows-front"


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on uvloop if it is installed, else on asyncio's own loop."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main)


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM, SIGINT or the parent's end, then drain.

    Raises:
        ConfigurationError: a setting, or where traces are to be sent, cannot work on this machine.
        LedgerUnavailable: the ledger cannot be read.
    """
    stop = asyncio.Event()
    _stop_on_signals(stop)
    stop_with_parent(stop)
    # Refused before a ledger is created for nothing.
    listen_address(settings)
    if settings.http_listen is not None:
        http_address(settings.http_listen)
    async with exporting(SERVICE_NAME), await Ledger.open(settings.ledger_address) as ledger:
        front = await Front.start(settings, ledger)
        try:
            _settle_memory()
            _tell_ready(front.address)
            log.info("front serves", address=front.address, ledger=ledger.ledger_id, tenant=settings.tenant)
            await stop.wait()
        finally:
            await front.drain()


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


def _settle_memory() -> None:
    # What is loaded by now stays for ever. Looking at it again and again would double the time of a fan-out.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _tell_ready(address: str) -> None:
    name = os.environ.get(READY_VARIABLE)
    if not name:
        return
    file = Path(name)
    # Whoever waits for the file never sees half of it.
    part = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        part.write_text(address)
        part.replace(file)
    except OSError as error:
        raise ConfigurationError(READY_VARIABLE, f"{name} cannot be written ({error.strerror})") from None
