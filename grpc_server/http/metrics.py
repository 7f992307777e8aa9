"""Prometheus metrics: what this front counts, and what all share in the ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, cast

import structlog
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from grpc_server.auth.authenticator import Authenticator, check_scope
from grpc_server.auth.identity import Scope
from grpc_server.http.caller import HttpCaller
from kling_flows.errors import CredentialsRejected, LedgerUnavailable, PermissionMissing
from kling_flows.ledger import FINAL_STATES, BudgetUse, Figures, Lease, Ledger
from kling_flows.settings import Budget
from kling_flows.telemetry.front import FrontMetrics

log = structlog.get_logger(__name__)

METRICS_PATH: Final = "/metrics"

#: Seconds that the ledger gets; a scrape without it still tells that it does not answer.
_READ_SECONDS: Final = 5.0


class MetricsEndpoint:
    """Answers scrapes.

    Args:
        ledger: Read at each scrape.
        budgets: What may be spent.
        authenticator: Says who asks.
    """

    def __init__(self, ledger: Ledger, budgets: Sequence[Budget], authenticator: Authenticator) -> None:
        self._ledger = ledger
        self._budgets = budgets
        self._authenticator = authenticator
        self._read = LedgerCollector()
        #: What the front counts itself.
        self.metrics = FrontMetrics(sorted(state.value for state in FINAL_STATES), self._read)

    async def scrape(self, request: Request) -> Response:
        """Answer ``GET /metrics``; 401 or 403 for whom the access file does not let see the figures of all tenants."""
        try:
            # The figures are of all tenants: a right to read one's own does not do.
            check_scope(self._authenticator.identify(cast(Any, HttpCaller(request))), Scope.ADMIN, METRICS_PATH)
        except CredentialsRejected as error:
            return Response(error.message, 401, {"www-authenticate": "Bearer"}, "text/plain")
        except PermissionMissing as error:
            return Response(error.message, 403, media_type="text/plain")
        try:
            async with asyncio.timeout(_READ_SECONDS):
                figures = await self._ledger.read_figures()
                budgets = await self._ledger.read_budgets(self._budgets) if self._budgets else []
            self._read.show(figures, budgets)
        except (LedgerUnavailable, TimeoutError) as error:
            log.warning("the ledger cannot be read for metrics", error=str(error) or f"no answer in {_READ_SECONDS} s")
            self._read.show(None)
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self.metrics.registry), headers={"content-type": content_type})


class LedgerCollector(Collector):
    """Gives the ledger's figures as they were last read, and nothing of them while they cannot be read."""

    def __init__(self) -> None:
        self._figures: Figures | None = None
        self._budgets: Sequence[BudgetUse] = ()
        self._lease_age = 0.0
        # The beat of each runner, and since when it stands still, by our own clock.
        self._beats: dict[str, tuple[int, float]] = {}

    def show(self, figures: Figures | None, budgets: Sequence[BudgetUse] = ()) -> None:
        """Give these from now on; None: the ledger does not answer."""
        self._figures, self._budgets = figures, budgets
        if figures is not None:
            self._lease_age = self._age_of(figures.leases, time.monotonic())

    def describe(self) -> Iterable[Metric]:
        """All metrics that there can be, without values."""
        return _families(Figures(), (), 0.0)

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        up = self._figures is not None
        yield GaugeMetricFamily("kling_flows_ledger_up", "Whether the ledger could be read.", value=float(up))
        if self._figures is not None:
            yield from _families(self._figures, self._budgets, self._lease_age)

    def _age_of(self, leases: Sequence[Lease], now: float) -> float:
        """Seconds for which the oldest beat has been seen to stand still."""
        known = self._beats
        self._beats = {
            lease.runner_id: known[lease.runner_id]
            if lease.runner_id in known and known[lease.runner_id][0] == lease.beat
            else (lease.beat, now)
            for lease in leases
        }
        return max((now - since for _, since in self._beats.values()), default=0.0)


def _families(figures: Figures, budgets: Sequence[BudgetUse], lease_age: float) -> Iterator[Metric]:
    tasks = GaugeMetricFamily("kling_flows_video_tasks", "Video tasks that have not ended, by state.", labels=["state"])
    for state, count in figures.tasks.items():
        tasks.add_metric([state.value], count)
    yield tasks
    yield GaugeMetricFamily(
        "kling_flows_queue_age_seconds", "Age of the oldest video task that is QUEUED.", value=figures.queue_seconds
    )
    units = GaugeMetricFamily(
        "kling_flows_spend_units",
        "Video units of the tasks created this month (UTC): reserved, or settled.",
        labels=["tenant", "kind"],
    )
    usd = GaugeMetricFamily(
        "kling_flows_spend_usd", "As units, in US dollars at list price.", labels=["tenant", "kind"]
    )
    for spent in figures.spending:
        units.add_metric([spent.tenant, "reserved"], float(spent.reserved_units))
        units.add_metric([spent.tenant, "settled"], float(spent.settled_units))
        usd.add_metric([spent.tenant, "reserved"], float(spent.reserved_usd))
        usd.add_metric([spent.tenant, "settled"], float(spent.settled_usd))
    yield units
    yield usd
    used = GaugeMetricFamily(
        "kling_flows_budget_used_ratio", "Share of a budget that is reserved or settled.", labels=["budget", "unit"]
    )
    for use in budgets:
        for unit, limit, amount in (
            ("units", use.budget.units, use.reserved_units + use.settled_units),
            ("usd", use.budget.usd, use.reserved_usd + use.settled_usd),
        ):
            if limit is not None:
                used.add_metric([use.budget.name, unit], float(amount / limit) if limit else 1.0)
    yield used
    yield GaugeMetricFamily("kling_flows_runners", "Runners that have a lease.", value=len(figures.leases))
    yield GaugeMetricFamily(
        "kling_flows_lease_age_seconds",
        "For how long the lease that was renewed longest ago has not been renewed, as seen by this front's scrapes.",
        value=lease_age,
    )
    deliveries = GaugeMetricFamily(
        "kling_flows_callback_deliveries", "Calls to callers that are due, or were given up.", labels=["state"]
    )
    for state, count in figures.deliveries.items():
        deliveries.add_metric([state.value], count)
    yield deliveries
