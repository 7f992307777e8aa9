"""The metrics of a front."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.registry import Collector

#: Seconds; a create takes a few milliseconds, a list over a slow disk a few hundred.
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class FrontMetrics:
    """What one front counts by itself; its registry has what it reads as well.

    Args:
        final_states: States in which video tasks end.
        read: Collectors of what is read at each scrape.
    """

    def __init__(self, final_states: Iterable[str], *read: Collector) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        for collector in read:
            self.registry.register(collector)
        self._rpcs = Counter("kling_flows_rpcs", "RPCs that have ended.", ("method", "code"), registry=self.registry)
        self._open = Gauge("kling_flows_rpcs_open", "RPCs under way.", ("method",), registry=self.registry)
        self._seconds = Histogram(
            "kling_flows_rpc_seconds",
            "How long unary RPCs took.",
            ("method",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._watchers = Gauge("kling_flows_watchers", "Streams that follow video tasks.", registry=self.registry)
        self._ended = Counter(
            "kling_flows_video_tasks_ended",
            "Video tasks that came into a final state since this front started; every front counts all of them.",
            ("state",),
            registry=self.registry,
        )
        for state in final_states:
            # An increase is only seen after a zero.
            self._ended.labels(state)
        # A look-up by labels costs more than the counting itself.
        self._counters: dict[tuple[str, str], Counter] = {}
        self._methods: dict[str, tuple[Gauge, Histogram]] = {}

    def rpc_started(self, method: str, *, watching: bool) -> None:
        """An RPC begins; ``watching`` says that it follows video tasks."""
        self._of(method)[0].inc()
        if watching:
            self._watchers.inc()

    def rpc_ended(self, method: str, code: str, seconds: float | None, *, watching: bool) -> None:
        """An RPC has ended with a status; ``seconds`` is None for streams, which last as long as their callers want."""
        opened, histogram = self._of(method)
        opened.dec()
        if watching:
            self._watchers.dec()
        if seconds is not None:
            histogram.observe(seconds)
        counter = self._counters.get((method, code))
        if counter is None:
            counter = self._counters[method, code] = self._rpcs.labels(method, code)
        counter.inc()

    def video_task_ended(self, state: str) -> None:
        """The ledger's log shows that a video task came into a final state."""
        self._ended.labels(state).inc()

    def _of(self, method: str) -> tuple[Gauge, Histogram]:
        known = self._methods.get(method)
        if known is None:
            known = self._methods[method] = (self._open.labels(method), self._seconds.labels(method))
            # An increase is only seen after a zero.
            self._rpcs.labels(method, "INTERNAL")
        return known
