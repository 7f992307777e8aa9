"""Spans that are kept in memory, by the SDK itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from kling_flows.telemetry.recorder import SdkRecorder
from kling_flows.telemetry.spans import recording


class Kept:
    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()

    @property
    def spans(self) -> list[ReadableSpan]:
        """Those that have ended, in that order."""
        return list(self._exporter.get_finished_spans())

    @contextmanager
    def recording(self) -> Iterator[None]:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        with recording(SdkRecorder(provider)):
            yield


def trace_id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return trace.format_trace_id(span.context.trace_id)


def span_id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return trace.format_span_id(span.context.span_id)


def parent_id_of(span: ReadableSpan) -> str:
    """Empty for the first of a trace."""
    return "" if span.parent is None else trace.format_span_id(span.parent.span_id)
