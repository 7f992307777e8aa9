"""News of other processes' commits on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog

from kling_flows.ledger.postgres_connection import FAILURES, connect, unavailable

log = structlog.get_logger(__name__)

CHANNEL: Final = "kling_flows_ledger"

#: Seconds between two signs of life of a connection on which nothing comes.
_PULSE_SECONDS: Final = 10.0

#: Seconds within which a sign of life has to come.
_ANSWER_SECONDS: Final = 5.0


async def listen_forever(dsn: str, name: str, wake: Callable[[], None], *, retry_seconds: float) -> None:
    """Call ``wake`` after each commit of somebody else; connect again whenever the connection is lost.

    Args:
        dsn: The database.
        name: What this process's own commits carry.
        wake: Also called after each connect: nobody has heard of what was committed before.
        retry_seconds: Between two attempts to connect, at first; then up to the seconds between two signs of life.
    """
    pause = retry_seconds
    while True:
        try:
            connection = await connect(dsn, statement_seconds=_ANSWER_SECONDS)
            pause = retry_seconds
            await _listen(connection, name, wake)
        except FAILURES as error:
            log.warning("commits of other processes are not heard of", error=unavailable(error).message)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _PULSE_SECONDS)


async def _listen(connection: Any, name: str, wake: Callable[[], None]) -> None:
    """Listen until the connection is lost."""
    lost = asyncio.Event()

    def on_news(_connection: object, _process: int, _channel: str, sender: str) -> None:
        if sender != name:
            wake()

    def on_end(_connection: object) -> None:
        lost.set()

    try:
        connection.add_termination_listener(on_end)
        await connection.add_listener(CHANNEL, on_news)
        wake()
        while not lost.is_set():
            try:
                async with asyncio.timeout(_PULSE_SECONDS):
                    await lost.wait()
            except TimeoutError:
                await connection.execute("SELECT 1")
    finally:
        connection.terminate()
