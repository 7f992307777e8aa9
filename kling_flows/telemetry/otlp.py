"""Sends the spans of a process to a collector by OTLP over HTTP, if the environment asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from kling_flows.errors import ConfigurationError
from kling_flows.telemetry.environment import traces_wanted
from kling_flows.telemetry.spans import recording

if TYPE_CHECKING:
    from kling_flows.telemetry.recorder import SdkRecorder

#: Seconds that the last spans get when the process ends.
_CLOSE_SECONDS: Final = 2.0


@asynccontextmanager
async def exporting(service: str) -> AsyncGenerator[None]:
    """Send the spans of this process while the context is open, if the standard ``OTEL_*`` variables say where to.

    OpenTelemetry's SDK does it, from a thread of its own; without such variables it is not even imported.

    Args:
        service: The ``service.name`` unless ``OTEL_SERVICE_NAME`` or ``OTEL_RESOURCE_ATTRIBUTES`` give one.

    Raises:
        ConfigurationError: a variable cannot be used, or the extra ``otel`` is not installed.
    """
    if not traces_wanted():
        yield
        return
    recorder = await asyncio.to_thread(_open, service)
    try:
        with recording(recorder):
            yield
    finally:
        await asyncio.to_thread(recorder.close, _CLOSE_SECONDS)


def _open(service: str) -> SdkRecorder:
    try:
        from kling_flows.telemetry.recorder import SdkRecorder
    except ImportError as error:
        raise ConfigurationError(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            f"sending traces needs {error.name}: pip install 'kling-flows[otel]', or unset the variable",
        ) from None
    return SdkRecorder.open(service)
