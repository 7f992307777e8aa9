"""What OpenTelemetry's SDK logs: refused at the start, told in our own log afterwards."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import structlog

from kling_flows.errors import ConfigurationError

log = structlog.get_logger(__name__)

_LOGGER: Final = logging.getLogger("opentelemetry")

#: Seconds until the same is said again.
_SILENCE: Final = 60.0

#: Whose complaint is about which variable.
_VARIABLES: Final = {
    "opentelemetry.exporter.otlp.proto.http._common": "OTEL_EXPORTER_OTLP_TIMEOUT or OTEL_EXPORTER_OTLP_COMPRESSION",
    "opentelemetry.sdk.resources": "OTEL_RESOURCE_ATTRIBUTES",
    "opentelemetry.sdk.trace.export": "OTEL_BSP_*",
    "opentelemetry.sdk.trace.sampling": "OTEL_TRACES_SAMPLER or OTEL_TRACES_SAMPLER_ARG",
    "opentelemetry.util.re": "OTEL_EXPORTER_OTLP_HEADERS",
}


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class _Told(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._again: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now < self._again.get(record.msg, 0.0):
            return
        self._again[record.msg] = now + _SILENCE
        log.warning("trouble with traces", problem=_words(record))


_told: Final = _Told()


@contextmanager
def complaints_refused() -> Generator[None]:
    """Set the SDK up inside; what it would only warn of and go on without is an error.

    Raises:
        ConfigurationError: the SDK does not take a variable.
    """
    kept = _Kept()
    handlers, propagate = _LOGGER.handlers, _LOGGER.propagate
    _LOGGER.handlers, _LOGGER.propagate = [kept], False
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise ConfigurationError("OTEL_*", f"the SDK says: {error}") from None
    finally:
        _LOGGER.handlers, _LOGGER.propagate = handlers, propagate
    if kept.records:
        first = kept.records[0]
        raise ConfigurationError(_VARIABLES.get(first.name, "OTEL_*"), _rule(first))


def tell_our_log() -> None:
    """From now on tell what the SDK warns of in our own log, each thing once a minute at most."""
    _LOGGER.addHandler(_told)
    _LOGGER.propagate = False


def _rule(record: logging.LogRecord) -> str:
    if record.name == "opentelemetry.util.re":
        # The SDK's own words have the header, which may be a key.
        return "is not a list of key=value, separated by commas and percent-encoded"
    return f"the SDK says: {_words(record)}"


def _words(record: logging.LogRecord) -> str:
    # Not an exception's own words: they hold the collector's address, whose query may be a key.
    arguments = record.args if isinstance(record.args, tuple) else ()
    shown = tuple(type(part).__name__ if isinstance(part, BaseException) else part for part in arguments)
    return str(record.msg) % shown if shown else str(record.msg)
