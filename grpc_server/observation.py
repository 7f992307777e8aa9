"""What is told of every RPC: a span in the caller's trace, the metrics, and a line of the log at level ``debug``."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import grpc
import structlog

from grpc_server.auth.authenticator import Metadata
from kling_flows.telemetry.spans import Kind, Span, span
from kling_flows.telemetry.trace_context import TRACEPARENT, TraceContext, parse_traceparent
from kling_flows.v1.video_task_service_pb2 import DESCRIPTOR

if TYPE_CHECKING:
    from kling_flows.telemetry.front import FrontMetrics

log = structlog.get_logger(__name__)

_SERVICE: Final = DESCRIPTOR.services_by_name["VideoTaskService"]

#: Strangers may call anything, and every name would be another series.
_METHODS: Final = frozenset(method.name for method in _SERVICE.methods)
_UNKNOWN: Final = "other"
_SPANS: Final = {method: f"{_SERVICE.full_name}/{method}" for method in (*_METHODS, _UNKNOWN)}

#: RPCs that follow video tasks until their caller, or the tasks, have ended.
_WATCHING: Final = frozenset({"WatchVideoTasks", "GenerateVideo"})

#: Statuses that are the server's own failure (OpenTelemetry semantic conventions, gRPC, server spans).
_FAILURES: Final = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})

_NUMBERS: Final[dict[str, int]] = {code.name: code.value[0] for code in grpc.StatusCode}


class Rpc:
    """One RPC under way, observed while it is open as a context."""

    # A class: what `contextmanager` makes of a generator costs a call three times as much.
    __slots__ = ("_method", "_metrics", "_span", "_started", "_streaming", "_timed", "_watching", "answer", "code")

    _started: float
    _timed: Span

    def __init__(
        self, method: str, metrics: FrontMetrics | None, around: AbstractContextManager[Span], *, streaming: bool
    ) -> None:
        self._method = method
        self._metrics = metrics
        self._span = around
        self._streaming = streaming
        self._watching = method in _WATCHING
        #: The name of the status that it will end with.
        self.code = "OK"
        #: The message that answers it; None for streams, and until there is one.
        self.answer: Any = None

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        if self._metrics is not None:
            self._metrics.rpc_started(self._method, watching=self._watching)
        self._timed = self._span.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, asyncio.CancelledError):
            self.code = "CANCELLED"
        seconds = time.perf_counter() - self._started
        try:
            self._timed.set("rpc.system", "grpc")
            self._timed.set("rpc.grpc.status_code", _NUMBERS[self.code])
            self._timed.settle(self.code if self.code in _FAILURES else "")
            _log(self._method, self, seconds)
        finally:
            self._span.__exit__(kind, error, trace)
            if self._metrics is not None:
                lasted = None if self._streaming else seconds
                self._metrics.rpc_ended(self._method, self.code, lasted, watching=self._watching)


class Observation:
    """Tells of RPCs.

    Args:
        metrics: Counts them; None if nobody asks for metrics.
    """

    def __init__(self, metrics: FrontMetrics | None) -> None:
        self._metrics = metrics

    def of(self, method: str, metadata: Metadata, *, streaming: bool) -> Rpc:
        """Observe an RPC while the context is open.

        Args:
            method: Its name, without the service; of those that the service does not have all count as ``other``.
            metadata: The caller's.
            streaming: Whether it answers with a stream.
        """
        if method not in _METHODS:
            method = _UNKNOWN
        around = span(_SPANS[method], parent=_caller_trace(metadata), kind=Kind.SERVER, root=True)
        return Rpc(method, self._metrics, around, streaming=streaming)


def _caller_trace(metadata: Metadata) -> TraceContext | None:
    for key, value in metadata:
        if key == TRACEPARENT:
            return parse_traceparent(value)
    return None


def _log(method: str, rpc: Rpc, seconds: float) -> None:
    if not log.is_enabled_for(logging.DEBUG):
        return
    facts = {"method": method, "code": rpc.code, "milliseconds": round(seconds * 1_000, 1)}
    name = getattr(rpc.answer, "name", "")
    if name.startswith("videoTasks/"):
        facts["video_task"] = name.removeprefix("videoTasks/")
    log.debug("rpc ended", **facts)
