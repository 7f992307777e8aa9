"""Logs: one line per event, to stderr."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

import structlog

LEVEL_VARIABLE: Final = "KLING_FLOWS_LOG_LEVEL"


def configure_logging() -> None:
    """Log from ``KLING_FLOWS_LOG_LEVEL`` up (``info`` if it is not set or unknown)."""
    level = getattr(logging, os.environ.get(LEVEL_VARIABLE, "info").upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Plain tracebacks: the pretty ones print local variables, and with them keys and headers.
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
