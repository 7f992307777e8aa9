"""The metrics of a runner, and their endpoint."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from kling_flows.telemetry.measures import Measures

_LAG_SECONDS: Final = (0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0)
_ARCHIVE_SECONDS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class RunnerMetrics(Measures):
    """What one runner counts.

    Args:
        outcomes: What a call of the provider may end with.
        in_flight: How many video tasks it carries at the moment; asked at each scrape, from another thread.
    """

    def __init__(self, outcomes: Iterable[str], in_flight: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._calls = Counter(
            "kling_flows_upstream_calls",
            "Calls of the provider, by operation and by class of outcome.",
            ("operation", "outcome"),
            registry=self.registry,
        )
        self._lag = Histogram(
            "kling_flows_detection_lag_seconds",
            "From the end of an upstream task, by the provider's clock, until it was seen here.",
            buckets=_LAG_SECONDS,
            registry=self.registry,
        )
        self._archived_bytes = Counter(
            "kling_flows_archived_bytes", "Bytes that were copied into the archive.", registry=self.registry
        )
        self._archive_seconds = Histogram(
            "kling_flows_archive_seconds",
            "How long the copy of one file into the archive took.",
            buckets=_ARCHIVE_SECONDS,
            registry=self.registry,
        )
        self._runs = Counter(
            "kling_flows_flow_runs_started",
            "Starts of flow runs: of one video task, of a batch, or without a flow run while Prefect is away.",
            ("kind",),
            registry=self.registry,
        )
        self._carried = Counter(
            "kling_flows_video_tasks_carried", "Video tasks in those starts.", ("kind",), registry=self.registry
        )
        # An increase is only seen after a zero.
        for outcome in outcomes:
            self._calls.labels("create", outcome)
        for kind in ("single", "batch", "without"):
            self._runs.labels(kind)
        Gauge(
            "kling_flows_video_tasks_in_flight", "Video tasks that this runner carries.", registry=self.registry
        ).set_function(in_flight)

    def upstream_call(self, operation: str, outcome: str) -> None:
        """See :class:`Measures`."""
        self._calls.labels(operation, outcome).inc()

    def upstream_end_seen(self, lag: float) -> None:
        """See :class:`Measures`; clocks that disagree count as no lag."""
        self._lag.observe(max(lag, 0.0))

    def video_archived(self, size_bytes: int, seconds: float) -> None:
        """See :class:`Measures`."""
        self._archived_bytes.inc(size_bytes)
        self._archive_seconds.observe(seconds)

    def flow_run_started(self, kind: str, video_tasks: int) -> None:
        """See :class:`Measures`."""
        self._runs.labels(kind).inc()
        self._carried.labels(kind).inc(video_tasks)

    def serve(self, host: str, port: int) -> AbstractContextManager[int]:
        """Answer scrapes, on a thread, from now until the end of the context, which gives the real port.

        Raises:
            OSError: the port cannot be opened.
        """
        server, thread = start_http_server(port, host, self.registry)

        @contextmanager
        def serving() -> Generator[int]:
            try:
                yield server.server_port
            finally:
                server.shutdown()
                server.server_close()
                thread.join()

        return serving()
