"""Logs: one line per event, to stderr; for people, or as JSON."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import Final, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from kling_flows.telemetry.trace_context import current_trace

LEVEL_VARIABLE: Final = "KLING_FLOWS_LOG_LEVEL"

#: ``json``: one JSON object per line; anything else: lines for people.
FORMAT_VARIABLE: Final = "KLING_FLOWS_LOG_FORMAT"


def configure_logging() -> None:
    """Log from ``KLING_FLOWS_LOG_LEVEL`` up (``info`` if it is not set or unknown), as ``KLING_FLOWS_LOG_FORMAT``."""
    level = getattr(logging, os.environ.get(LEVEL_VARIABLE, "info").upper(), logging.INFO)
    as_json = os.environ.get(FORMAT_VARIABLE, "").lower() == "json"
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_trace,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*common, *(_json() if as_json else _lines())],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Unfailing(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    if as_json:
        _take_in_libraries(common)


class _Unfailing:
    """A stream whose writes fail without a word: a full disk under the log must not end what is logged."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def _add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The trace that the line was written in, so that it is found from there and back."""
    current = current_trace()
    if current is not None:
        event["trace_id"], event["span_id"] = current.trace_id, current.span_id
    return event


def _lines() -> list[Processor]:
    # Plain tracebacks: the pretty ones print local variables, and with them keys and headers.
    return [
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    ]


def _json() -> list[Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _take_in_libraries(common: list[Processor]) -> None:
    """Libraries' own warnings must not break the format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_json()],
        )
    )
    logging.getLogger().addHandler(handler)
