"""Figures of the whole ledger, of all tenants, for metrics: each from an index, in one snapshot."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from sqlalchemy import Connection, bindparam, func, literal_column, select

from kling_flows.ledger.callbacks import DeliveryState
from kling_flows.ledger.leases import read_leases
from kling_flows.ledger.records import FINAL_STATES, Lease, State
from kling_flows.ledger.schema import deliveries, spending, video_tasks
from kling_flows.ledger.spending import Charge

_NOT_FINAL: Final = tuple(state for state in State if state not in FINAL_STATES)

#: Final tasks are all that ever were, and are not counted. The smallest number is the oldest: their times are no index.
_TASKS: Final = (
    select(video_tasks.c.state, func.count().label("tasks"), func.min(video_tasks.c.seq).label("oldest"))
    .where(video_tasks.c.state.in_([state.value for state in _NOT_FINAL]))
    .group_by(video_tasks.c.state)
)
_CREATED: Final = select(video_tasks.c.create_time).where(video_tasks.c.seq == bindparam("seq"))

# Hidden from SQLite's planner, which would otherwise go through all days to save a sort.
_TENANT: Final = func.coalesce(spending.c.tenant, literal_column("''"))
_SPENDING: Final = (
    select(_TENANT.label("tenant"), *(func.sum(spending.c[name]).label(name) for name in Charge._fields))
    .where(spending.c.day >= bindparam("day"))
    .group_by(_TENANT)
)

#: What was delivered grows for ever.
_COUNTED_DELIVERIES: Final = (DeliveryState.PENDING, DeliveryState.DEAD)
_DELIVERIES: Final = (
    select(deliveries.c.state, func.count().label("deliveries"))
    .where(deliveries.c.state.in_([state.value for state in _COUNTED_DELIVERIES]))
    .group_by(deliveries.c.state)
)


@dataclass(frozen=True, slots=True)
class TenantSpending:
    """What a tenant's tasks of the current month (UTC, by their creation) have set aside and have cost."""

    tenant: str
    reserved_units: Decimal
    reserved_usd: Decimal
    settled_units: Decimal
    settled_usd: Decimal


@dataclass(frozen=True, slots=True)
class Figures:
    """The ledger at one moment.

    Args:
        tasks: Tasks in each state that is not final.
        queue_seconds: Age of the oldest QUEUED task; 0 if none waits.
        spending: By tenant, this month.
        leases: Of all runners.
        deliveries: Calls to the callers' own addresses that are due, or were given up.
    """

    tasks: Mapping[State, int] = field(default_factory=lambda: dict.fromkeys(_NOT_FINAL, 0))
    queue_seconds: float = 0.0
    spending: Sequence[TenantSpending] = ()
    leases: Sequence[Lease] = ()
    deliveries: Mapping[DeliveryState, int] = field(default_factory=lambda: dict.fromkeys(_COUNTED_DELIVERIES, 0))


def read_figures(conn: Connection) -> Figures:
    """The ledger as it is now."""
    none = Figures()
    tasks, counted, oldest = dict(none.tasks), dict(none.deliveries), None
    for row in conn.execute(_TASKS):
        tasks[State(row.state)] = row.tasks
        if row.state == State.QUEUED.value:
            oldest = row.oldest
    created = None if oldest is None else conn.execute(_CREATED, {"seq": oldest}).scalar_one()
    counted.update((DeliveryState(row.state), row.deliveries) for row in conn.execute(_DELIVERIES))
    month = datetime.now(UTC).date().replace(day=1).isoformat()
    return Figures(
        tasks=tasks,
        queue_seconds=0.0 if created is None else max(0.0, time.time() - created),
        spending=[
            TenantSpending(
                row.tenant,
                reserved_units=Decimal(int(row.reserved_milliunits)) / 1_000,
                reserved_usd=Decimal(int(row.reserved_microusd)) / 1_000_000,
                settled_units=Decimal(int(row.settled_milliunits)) / 1_000,
                settled_usd=Decimal(int(row.settled_microusd)) / 1_000_000,
            )
            for row in conn.execute(_SPENDING, {"day": month})
        ],
        leases=read_leases(conn),
        deliveries=counted,
    )
