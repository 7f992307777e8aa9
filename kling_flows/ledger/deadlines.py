"""The video tasks whose own deadline has passed. Like all operations: synchronous, and part of one transaction."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, bindparam, func, select

from kling_flows.ledger.operations import Change, advance
from kling_flows.ledger.records import FINAL_STATES, VideoTask
from kling_flows.ledger.schema import video_tasks

_FINAL: Final = [state.value for state in FINAL_STATES]

_FIRST: Final = select(func.min(video_tasks.c.deadline))
_DUE: Final = (
    select(video_tasks.c.id)
    .where(video_tasks.c.deadline <= bindparam("now"))
    .where(video_tasks.c.state.not_in(_FINAL))
    .order_by(video_tasks.c.deadline)
    .limit(bindparam("size"))
    .with_for_update(skip_locked=True)
)


def first_deadline(conn: Connection) -> float | None:
    """The earliest deadline of a task that is not final, in seconds since the epoch; None if there is none."""
    return conn.execute(_FIRST).scalar_one()


def expire_due(conn: Connection, change: Change, now: float, limit: int) -> list[VideoTask]:
    """Apply ``change`` to up to ``limit`` tasks whose deadline is at or before ``now``, the earliest first.

    It is not fenced: who holds such a task learns of it by losing it.
    """
    due = conn.execute(_DUE, {"now": now, "size": limit}).scalars()
    return [advance(conn, task_id, change) for task_id in due.all()]
