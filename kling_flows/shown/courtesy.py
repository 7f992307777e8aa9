"""What is shown in Prefect is a courtesy: whatever goes wrong with it is logged, and the videos go on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import structlog

T = TypeVar("T")

log = structlog.get_logger(__name__)

#: Longest that Prefect may take for one call, in seconds.
CALL_SECONDS: Final = 5.0


async def courtesy(call: Coroutine[Any, Any, T]) -> T | None:
    """What a call to Prefect answers; None if it fails or takes too long."""
    try:
        async with asyncio.timeout(CALL_SECONDS):
            return await call
    except Exception as error:
        log.info("Prefect could not be shown something", error=f"{type(error).__name__}: {error}")
        return None
