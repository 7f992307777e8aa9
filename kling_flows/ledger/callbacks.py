"""The ledger's operations on callbacks: the provider's to us (hints), and ours to the callers (deliveries).

As in :mod:`kling_flows.ledger.operations`, each is one part of a transaction on a SQLAlchemy connection.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Final, TypeAlias

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, bindparam, delete, func, insert, select, update

from kling_flows.errors import CallbackDeliveryNotFound
from kling_flows.ledger.dialects import insert_into
from kling_flows.ledger.records import VideoTask
from kling_flows.ledger.schema import deliveries, events, hints, video_tasks

_Row: TypeAlias = "Row[int, int, str, int, float, str, str]"

_LAST_HINT: Final = select(func.coalesce(func.max(hints.c.position), 0))
_URGENT_HINT: Final = (
    select(hints.c.position).where(hints.c.task_id == bindparam("task")).where(hints.c.urgent).limit(1)
)


@dataclass(frozen=True, slots=True)
class Hint:
    """A callback of the provider about a task.

    Args:
        task: As it is now.
        urgent: Whether the callback says that the upstream task has ended.
    """

    task: VideoTask
    urgent: bool


class DeliveryState(StrEnum):
    """Where a delivery is; the meaning of each is in ``protos/kling_flows/v1/video_task_service.proto``."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    DEAD = "DEAD"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A call to a caller's own address about one event.

    Args:
        id: Its number.
        event_position: Of the event, in the log.
        task: As the event left it.
        state: Where the delivery is.
        attempts: How often it was tried, the attempt under way included.
        next_time: When it is tried next, in seconds since the epoch; meaningless if it is not PENDING.
        last_error: Why the last attempt failed; never holds the address.
    """

    id: int
    event_position: int
    task: VideoTask
    state: DeliveryState
    attempts: int
    next_time: float
    last_error: str


def token_digest(token: str) -> str:
    """What the ledger keeps of the token in a callback's address."""
    return hashlib.sha256(token.encode()).hexdigest()


def expect_callback(conn: Connection, task_id: str, digest: str) -> None:
    """Know a task by the digest of its token from now on."""
    conn.execute(update(video_tasks).where(video_tasks.c.id == task_id).values(callback_token=digest))


def is_expected(conn: Connection, digest: str) -> bool:
    """Whether a token of that digest was given to the provider."""
    return conn.execute(select(video_tasks.c.id).where(video_tasks.c.callback_token == digest)).first() is not None


def note_hint(conn: Connection, digest: str, webhook_id: str, *, urgent: bool) -> bool:
    """Keep a callback; the same one only once. False if no task is known by that digest."""
    task_id = conn.execute(select(video_tasks.c.id).where(video_tasks.c.callback_token == digest)).scalar_one_or_none()
    if task_id is None:
        return False
    conn.execute(
        insert_into(conn.dialect.name, hints).on_conflict_do_nothing(),
        {"task_id": task_id, "webhook_id": webhook_id, "urgent": urgent, "receive_time": time.time()},
    )
    return True


def last_hint(conn: Connection) -> int:
    """The position of the newest hint; 0 if there is none."""
    return conn.execute(_LAST_HINT).scalar_one()


def read_hints(conn: Connection, after: int, runner_id: str) -> tuple[int, list[Hint]]:
    """The hints after a position about tasks that a runner holds, and the position to go on after."""
    newest = last_hint(conn)
    if newest <= after:
        return after, []
    rows = conn.execute(
        select(hints.c.urgent, video_tasks.c.document)
        .join(video_tasks, video_tasks.c.id == hints.c.task_id)
        .where(hints.c.position > after)
        .where(video_tasks.c.runner_id == runner_id)
        .order_by(hints.c.position)
    )
    return newest, [Hint(VideoTask.model_validate_json(row.document), row.urgent) for row in rows]


def is_hinted(conn: Connection, task_id: str) -> bool:
    """Whether the provider has said that the task has ended."""
    return conn.execute(_URGENT_HINT, {"task": task_id}).first() is not None


def prune_hints(conn: Connection, before: float) -> int:
    """Forget the hints that came before a time, in seconds since the epoch; answers how many."""
    pruned = conn.execute(delete(hints).where(hints.c.receive_time < before).returning(hints.c.position))
    return len(pruned.all())


def concerns_caller(before: VideoTask | None, after: VideoTask) -> bool:
    """Whether a caller who wants to be called is told of an event: a new state, or a video that came after the end."""
    if not after.request.callback_url:
        return False
    return before is None or before.state is not after.state or before.artifacts != after.artifacts


def queue_delivery(conn: Connection, task_seq: int, event_position: int) -> None:
    """Put the call about an event into the outbox."""
    conn.execute(
        insert(deliveries),
        {
            "task_seq": task_seq,
            "event_position": event_position,
            "state": DeliveryState.PENDING.value,
            "attempts": 0,
            "next_time": time.time(),
            "last_error": "",
        },
    )


def next_delivery_time(conn: Connection) -> float | None:
    """When the next delivery is to be tried, in seconds since the epoch; None if nothing is PENDING."""
    return conn.execute(_next_delivery()).scalar_one()


@cache
def _next_delivery() -> Select[float | None]:
    return select(func.min(deliveries.c.next_time)).where(_pending_heads())


def claim_deliveries(conn: Connection, limit: int, lease_seconds: float) -> list[Delivery]:
    """Take up to ``limit`` deliveries that are due, of each task only its earliest; each counts as an attempt.

    Nobody else takes them for ``lease_seconds``; by then :func:`settle_delivery` has to have been called.
    """
    now = time.time()
    ids = conn.execute(
        select(deliveries.c.id)
        .where(_pending_heads())
        .where(deliveries.c.next_time <= now)
        # What was never tried goes first: addresses that are silent must not hold up the others.
        .order_by(deliveries.c.attempts, deliveries.c.next_time)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).scalars()
    taken = list(ids)
    if not taken:
        return []
    conn.execute(
        update(deliveries)
        .where(deliveries.c.id.in_(taken))
        .values(attempts=deliveries.c.attempts + 1, next_time=now + lease_seconds)
    )
    return [_delivery(row) for row in conn.execute(_select().where(deliveries.c.id.in_(taken)))]


def settle_delivery(
    conn: Connection, delivery: Delivery, state: DeliveryState, *, next_time: float, last_error: str
) -> bool:
    """Write down what became of an attempt; false if another one has begun since."""
    settled = conn.execute(
        update(deliveries)
        .where(deliveries.c.id == delivery.id)
        .where(deliveries.c.state == DeliveryState.PENDING.value)
        .where(deliveries.c.attempts == delivery.attempts)
        .values(state=state.value, next_time=next_time, last_error=last_error)
        .returning(deliveries.c.id)
    )
    return settled.first() is not None


def list_deliveries(
    conn: Connection,
    tenant: str,
    *,
    state: DeliveryState | None = None,
    task_id: str | None = None,
    before_id: int | None = None,
    limit: int,
) -> list[Delivery]:
    """A tenant's deliveries, the newest first."""
    query = _select().where(video_tasks.c.tenant == tenant)
    if state is not None:
        query = query.where(deliveries.c.state == state.value)
    if task_id is not None:
        query = query.where(video_tasks.c.id == task_id)
    if before_id is not None:
        query = query.where(deliveries.c.id < before_id)
    return [_delivery(row) for row in conn.execute(query.order_by(deliveries.c.id.desc()).limit(limit))]


def retry_delivery(conn: Connection, tenant: str, delivery_id: int) -> Delivery:
    """Begin a DEAD delivery anew; any other one is answered as it is.

    Raises:
        CallbackDeliveryNotFound: the tenant has none of that number.
    """
    query = _select().where(deliveries.c.id == delivery_id).where(video_tasks.c.tenant == tenant)
    row = conn.execute(query).first()
    if row is None:
        raise CallbackDeliveryNotFound(
            f"callbackDeliveries/{delivery_id} does not exist; ListCallbackDeliveries shows those that do",
            metadata={"callback_delivery": str(delivery_id)},
        )
    if row.state != DeliveryState.DEAD.value:
        return _delivery(row)
    conn.execute(
        update(deliveries)
        .where(deliveries.c.id == delivery_id)
        .where(deliveries.c.state == DeliveryState.DEAD.value)
        .values(state=DeliveryState.PENDING.value, attempts=0, next_time=time.time())
    )
    return _delivery(conn.execute(query).one())


def _pending_heads() -> ColumnElement[bool]:
    """Those that are PENDING and wait for no earlier one of the same task."""
    earlier = deliveries.alias("earlier")
    waits = (
        select(earlier.c.id)
        .where(earlier.c.task_seq == deliveries.c.task_seq)
        .where(earlier.c.state == DeliveryState.PENDING.value)
        .where(earlier.c.id < deliveries.c.id)
        .exists()
    )
    return and_(deliveries.c.state == DeliveryState.PENDING.value, ~waits)


def _select() -> Select[int, int, str, int, float, str, str]:
    return (
        select(
            deliveries.c.id,
            deliveries.c.event_position,
            deliveries.c.state,
            deliveries.c.attempts,
            deliveries.c.next_time,
            deliveries.c.last_error,
            events.c.document,
        )
        .join(events, events.c.position == deliveries.c.event_position)
        .join(video_tasks, video_tasks.c.seq == deliveries.c.task_seq)
    )


def _delivery(row: _Row) -> Delivery:
    return Delivery(
        id=row.id,
        event_position=row.event_position,
        task=VideoTask.model_validate_json(row.document),
        state=DeliveryState(row.state),
        attempts=row.attempts,
        next_time=row.next_time,
        last_error=row.last_error,
    )
