"""Which trace the code at hand belongs to, as W3C Trace Context tells it from process to process."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass
from typing import Final

#: The name of the header, and of the gRPC metadata.
TRACEPARENT: Final = "traceparent"

#: Later versions may have more fields; the first one has exactly these (W3C Trace Context, 3.2.2 and 4.3).
_FORMAT: Final = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})((?:-[!-~]*)?)")
_FIRST_VERSION: Final = "00"
_SAMPLED: Final = 0x01


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace.

    Args:
        trace_id: 32 hex digits.
        span_id: 16 hex digits; what comes next is a child of that span.
        sampled: Whether somebody records the trace.
    """

    trace_id: str
    span_id: str
    sampled: bool

    @property
    def traceparent(self) -> str:
        """As it is passed on."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse_traceparent(text: str | bytes) -> TraceContext | None:
    """The place that a caller names; None if it names none: such a header is ignored, as the standard asks for."""
    found = _FORMAT.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if (version == _FIRST_VERSION and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


_current: Final[ContextVar[TraceContext | None]] = ContextVar("kling-flows-trace", default=None)


def current_trace() -> TraceContext | None:
    """Where this code is; None outside of any trace."""
    return _current.get()


def current_traceparent() -> str:
    """As it is passed on; empty outside of any trace."""
    current = _current.get()
    return "" if current is None else current.traceparent


@contextmanager
def within(place: TraceContext | None) -> Generator[None]:
    """Make ``place`` the current one of what runs inside."""
    token = _current.set(place)
    try:
        yield
    finally:
        _current.reset(token)


def no_context() -> Context:
    """For asyncio tasks that serve many video tasks, whichever of them happened to start them."""
    return Context()
