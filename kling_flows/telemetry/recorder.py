"""Records spans with OpenTelemetry's SDK; only imported where traces are sent."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from kling_flows import __version__
from kling_flows.telemetry.sdk_logs import complaints_refused, tell_our_log
from kling_flows.telemetry.spans import Kind, Value
from kling_flows.telemetry.trace_context import TraceContext


class RecordedSpan:
    """A span of the SDK's, sampled or not.

    Args:
        span: It, started.
    """

    __slots__ = ("_span", "place", "settled")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self.place = _place(span.get_span_context())
        self.settled = False

    def set(self, name: str, value: Value) -> None:
        """Tell something more of it."""
        self._span.set_attribute(name, value)

    def settle(self, error: str = "") -> None:
        """Say whether it failed."""
        self.settled = True
        self._span.set_status(trace.StatusCode.ERROR if error else trace.StatusCode.OK, error or None)

    def end(self, when: int | None = None) -> None:
        """Say that it is over, now or at ``when`` (nanoseconds since the epoch)."""
        self._span.end(when)


class SdkRecorder:
    """Begins spans that end in a tracer provider of our own, until :meth:`close`.

    The global provider stays as it is: what Prefect would send through it is not asked for.

    Args:
        provider: Samples, and takes what has ended.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("kling-flows", __version__)

    @classmethod
    def open(cls, service: str) -> Self:
        """Send in batches by OTLP over HTTP, as the ``OTEL_*`` variables say.

        Args:
            service: The ``service.name`` unless the variables give one.

        Raises:
            ConfigurationError: a variable cannot be used.
        """
        with ExitStack() as opened:
            with complaints_refused():
                named = SERVICE_NAME in OTELResourceDetector().detect().attributes
                resource = Resource.create({} if named else {SERVICE_NAME: service})
                # Its own end of the process could take half a minute.
                provider = TracerProvider(resource=resource, shutdown_on_exit=False)
                provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
                opened.callback(provider.shutdown)
            opened.pop_all()
        tell_our_log()
        return cls(provider)

    def begin(
        self,
        name: str,
        parent: TraceContext | None,
        *,
        remote: bool,
        kind: Kind = Kind.INTERNAL,
        links: Sequence[TraceContext] = (),
        attributes: Mapping[str, Value] | None = None,
        start: int | None = None,
    ) -> RecordedSpan:
        """Begin a span.

        Args:
            name: What it is.
            parent: What it is a part of; None: it begins a trace.
            remote: Whether that is in another process.
            kind: Which end of a call.
            links: Places in other traces that it belongs to as well.
            attributes: What is known of it.
            start: Nanoseconds since the epoch; None: now.
        """
        around = Context()
        if parent is not None:
            around = trace.set_span_in_context(trace.NonRecordingSpan(_context(parent, remote=remote)), around)
        return RecordedSpan(
            self._tracer.start_span(
                name,
                around,
                trace.SpanKind[kind.name],
                attributes,
                [trace.Link(_context(link, remote=True)) for link in links],
                start,
            )
        )

    def close(self, seconds: float) -> None:
        """Send what waits, and return after ``seconds`` at the latest."""
        # A thread that no process waits for: the SDK's own bound is half a minute.
        closing = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        closing.start()
        closing.join(seconds)


def _place(context: trace.SpanContext) -> TraceContext:
    return TraceContext(
        trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id), context.trace_flags.sampled
    )


def _context(place: TraceContext, *, remote: bool) -> trace.SpanContext:
    flags = trace.TraceFlags.SAMPLED if place.sampled else trace.TraceFlags.DEFAULT
    return trace.SpanContext(int(place.trace_id, 16), int(place.span_id, 16), remote, trace.TraceFlags(flags))
