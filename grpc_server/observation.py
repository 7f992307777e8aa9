"""What is told of every RPC: a span in the caller's trace, the metrics, and a line of the log at level ``debug``."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog

from kling_flows.telemetry.spans import Kind, span
from kling_flows.telemetry.trace_context import TRACEPARENT, TraceContext, parse_traceparent
from kling_flows.v1.video_task_service_pb2 import DESCRIPTOR

if TYPE_CHECKING:
    from kling_flows.telemetry.front import FrontMetrics

log = structlog.get_logger(__name__)

_SERVICE: Final = DESCRIPTOR.services_by_name["VideoTaskService"]

#: Strangers may call anything, and every name would be another series.
_METHODS: Final = frozenset(method.name for method in _SERVICE.methods)
_UNKNOWN: Final = "other"

#: RPCs that follow video tasks until their caller, or the tasks, have ended.
_WATCHING: Final = frozenset({"WatchVideoTasks", "GenerateVideo"})

#: Statuses that are the server's own failure (OpenTelemetry semantic conventions, gRPC, server spans).
_FAILURES: Final = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})

_NUMBERS: Final[dict[str, int]] = {code.name: code.value[0] for code in grpc.StatusCode}


@dataclass(slots=True)
class Rpc:
    """One RPC under way.

    Args:
        code: The name of the status that it will end with.
        answer: The message that answers it; None for streams, and until there is one.
    """

    code: str = "OK"
    answer: Any = None


class Observation:
    """Tells of RPCs.

    Args:
        metrics: Counts them; None if nobody asks for metrics.
    """

    def __init__(self, metrics: FrontMetrics | None) -> None:
        self._metrics = metrics

    @contextmanager
    def of(self, method: str, context: grpc.aio.ServicerContext[Any, Any], *, streaming: bool) -> Generator[Rpc]:
        """Observe an RPC while the context is open.

        Args:
            method: Its name, without the service; of those that the service does not have all count as ``other``.
            context: The caller's.
            streaming: Whether it answers with a stream.
        """
        if method not in _METHODS:
            method = _UNKNOWN
        rpc, watching, started = Rpc(), method in _WATCHING, time.perf_counter()
        metrics = self._metrics
        if metrics is not None:
            metrics.rpc_started(method, watching=watching)
        try:
            with span(
                f"{_SERVICE.full_name}/{method}",
                parent=_caller_trace(context),
                kind=Kind.SERVER,
                root=True,
            ) as timed:
                try:
                    yield rpc
                except asyncio.CancelledError:
                    rpc.code = "CANCELLED"
                    raise
                finally:
                    timed.set("rpc.system", "grpc")
                    timed.set("rpc.grpc.status_code", _NUMBERS[rpc.code])
                    timed.settle(rpc.code if rpc.code in _FAILURES else "")
                    _log(method, rpc, time.perf_counter() - started)
        finally:
            if metrics is not None:
                seconds = None if streaming else time.perf_counter() - started
                metrics.rpc_ended(method, rpc.code, seconds, watching=watching)


def _caller_trace(context: grpc.aio.ServicerContext[Any, Any]) -> TraceContext | None:
    for key, value in context.invocation_metadata() or ():
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
