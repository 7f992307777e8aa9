"""Spans: what is timed and told to a collector.

Without a recorder, which is the rule, nothing is timed; the place in the caller's trace is passed on all the same, for
the logs and for whoever records further on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Protocol

from kling_flows.errors import KlingFlowsError
from kling_flows.telemetry.trace_context import TraceContext, current_trace, within

if TYPE_CHECKING:
    from kling_flows.telemetry.recorder import RecordedSpan, SdkRecorder

#: What an attribute may be.
Value = str | int | float | bool


class Kind(Enum):
    """Which end of a call the span is."""

    INTERNAL = auto()
    SERVER = auto()
    CLIENT = auto()


class Span(Protocol):
    """Something that takes time."""

    def set(self, name: str, value: Value) -> None:
        """Tell something more of it; never a secret."""
        ...

    def settle(self, error: str = "") -> None:
        """Say whether it failed, in words; an exception that passes afterwards does not change that."""
        ...


class _Unrecorded:
    """A span that nobody records; it may be entered by many at a time."""

    def __enter__(self) -> Span:
        return self

    def __exit__(self, *_error: object) -> None:
        return

    def set(self, name: str, value: Value) -> None:
        return

    def settle(self, error: str = "") -> None:
        return


_UNRECORDED: Final = _Unrecorded()

_recorders: Final[list[SdkRecorder]] = []


@contextmanager
def recording(recorder: SdkRecorder) -> Generator[None]:
    """Give the spans of this process to ``recorder`` while the context is open."""
    _recorders.append(recorder)
    try:
        yield
    finally:
        _recorders.remove(recorder)


def span(
    name: str,
    *,
    parent: TraceContext | None = None,
    kind: Kind = Kind.INTERNAL,
    root: bool = False,
    links: Sequence[TraceContext] = (),
    attributes: Mapping[str, Value] | None = None,
) -> AbstractContextManager[Span]:
    """Do what runs inside as a part of a trace.

    Args:
        name: What it is; one of a few, without ids.
        parent: What it is a part of; by default of what this code is in.
        kind: Which end of a call.
        root: Begin a trace if it is a part of none.
        links: Places in other traces that it belongs to as well.
        attributes: What is known of it; never a secret.
    """
    around = parent or current_trace()
    if not _recorders or (around is None and not root):
        return _UNRECORDED if parent is None else _unrecorded_within(parent)
    return _recorded(
        _recorders[-1].begin(name, around, remote=parent is not None, kind=kind, links=links, attributes=attributes)
    )


@contextmanager
def _unrecorded_within(place: TraceContext) -> Generator[Span]:
    with within(place):
        yield _UNRECORDED


@contextmanager
def _recorded(timed: RecordedSpan) -> Generator[Span]:
    with within(timed.place):
        try:
            yield timed
        except BaseException as error:
            if not timed.settled:
                _tell(timed, error)
            raise
        finally:
            timed.end()


def record(
    name: str,
    parent: TraceContext,
    start: datetime,
    end: datetime,
    attributes: Mapping[str, Value] | None = None,
) -> None:
    """Tell of something that is over, and that nobody could time while it lasted."""
    if not _recorders:
        return
    begun = _nanoseconds(start)
    over = _recorders[-1].begin(name, parent, remote=True, attributes=attributes, start=begun)
    over.end(max(begun, _nanoseconds(end)))


def _tell(timed: RecordedSpan, error: BaseException) -> None:
    if isinstance(error, KlingFlowsError):
        timed.set("error.type", error.reason)
        timed.settle(error.message)
    elif isinstance(error, asyncio.CancelledError | GeneratorExit):
        timed.set("kling_flows.cancelled", True)
    else:
        # Its own words may hold anything.
        timed.set("error.type", type(error).__name__)
        timed.settle(type(error).__name__)


def _nanoseconds(when: datetime) -> int:
    return int(when.timestamp() * 1_000_000) * 1_000
