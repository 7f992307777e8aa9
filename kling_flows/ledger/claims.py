"""Who carries which task: a runner takes what nobody holds."""

from __future__ import annotations

import time
from typing import Final

from sqlalchemy import Connection, String, and_, bindparam, case, func, or_, select, update

from kling_flows.errors import LeaseLost
from kling_flows.ledger.leases import has_lease
from kling_flows.ledger.line import first_in_line, next_in_line
from kling_flows.ledger.operations import HELD, not_found
from kling_flows.ledger.records import State, VideoTask
from kling_flows.ledger.schema import video_tasks
from kling_flows.ledger.slots import read_places, slot_of, take_stock

#: How the ids of runners begin that only hand tasks on: what one of them holds is anybody's who carries it.
HANDS_ON: Final = "dispatch-"

_FREE: Final = select(video_tasks.c.seq).where(video_tasks.c.runner_id.is_(None)).where(video_tasks.c.active)
_DUE: Final = or_(video_tasks.c.not_before.is_(None), video_tasks.c.not_before <= bindparam("now"))
_BEGUN: Final = video_tasks.c.state.in_([state.value for state in State if state is not State.QUEUED])

_BEGUN_TO_TAKE: Final = (
    _FREE.where(_BEGUN)
    .where(_DUE)
    .order_by(video_tasks.c.seq)
    .limit(bindparam("size"))
    .with_for_update(skip_locked=True)
)

_LET_GO: Final = (
    update(video_tasks)
    .where(video_tasks.c.seq == bindparam("chosen"))
    .where(video_tasks.c.runner_id == bindparam("holder"))
    .values(runner_id=None)
)

_TAKE: Final = (
    update(video_tasks)
    .where(video_tasks.c.seq.in_(bindparam("chosen", expanding=True)))
    .where(video_tasks.c.runner_id.is_(None))
    .values(
        runner_id=bindparam("runner"),
        slot=case(
            (
                and_(video_tasks.c.state == State.QUEUED.value, video_tasks.c.slot.is_(None)),
                bindparam("prefix", type_=String).concat(video_tasks.c.model_name),
            ),
            else_=video_tasks.c.slot,
        ),
    )
    .returning(video_tasks.c.seq, video_tasks.c.document)
)


def claim(
    conn: Connection, runner_id: str, limit: int, *, account: str = "", slots: int | None = None
) -> list[VideoTask]:
    """Take up to ``limit`` active tasks that nobody holds; none without a lease.

    What was begun goes first, the oldest first; QUEUED tasks follow in the order of :func:`first_in_line`, each with a
    place of its own.

    Args:
        conn: Writing connection.
        runner_id: Who takes them.
        limit: Most tasks.
        account: `Account.name` with which this runner submits QUEUED tasks.
        slots: Most places of that account for each model; None: as many as its refusals have taught.
    """
    if not has_lease(conn, runner_id):
        return []
    chosen = list(conn.execute(_BEGUN_TO_TAKE, {"now": time.time(), "size": limit}).scalars())
    if len(chosen) < limit:
        chosen.extend(first_in_line(conn, take_stock(conn, account, slots), limit - len(chosen)))
    return _take(conn, chosen, runner_id, account)


def claim_one(conn: Connection, task_id: str, runner_id: str, *, account: str = "") -> VideoTask:
    """Take this task, if nothing is left to do for it or nobody else carries it.

    A QUEUED one gets its place whatever is free: who asks for a task by its name does not stand in line. One that a
    dispatcher holds (`HANDS_ON`) has its place already, and keeps it.

    Raises:
        LeaseLost: another runner holds it, or peers have ended this one's lease.
    """
    row = conn.execute(HELD, {"id": task_id}).first()
    if row is None:
        raise not_found(task_id)
    task = VideoTask.model_validate_json(row.document)
    if (task.state.final and not task.video_pending) or row.runner_id == runner_id:
        return task
    if row.runner_id is not None and not row.runner_id.startswith(HANDS_ON):
        raise LeaseLost(f"videoTasks/{task_id} is held by runner {row.runner_id}; it goes on there")
    if not has_lease(conn, runner_id):
        raise LeaseLost(f"runner {runner_id} has no lease any more; videoTasks/{task_id} goes on with the next one")
    if row.runner_id is not None:
        conn.execute(_LET_GO, {"chosen": row.seq, "holder": row.runner_id})
    _take(conn, [row.seq], runner_id, account or task.account)
    return task


def claimable_from(conn: Connection, *, account: str = "", slots: int | None = None) -> float | None:
    """When the next task can be claimed, in seconds since the epoch; in the past: now; None: there is none.

    Infinity says that all that wait do so for a place. ``account`` and ``slots`` are those of :func:`claim`.
    """
    places = read_places(conn, account, slots)
    free = _FREE.where(_BEGUN) if places.limited else _FREE
    if conn.execute(free.where(_DUE).limit(1), {"now": time.time()}).first() is not None:
        return 0.0
    starts = [conn.execute(free.with_only_columns(func.min(video_tasks.c.not_before))).scalar_one()]
    if places.limited:
        starts.append(next_in_line(conn, places))
    return min((start for start in starts if start is not None), default=None)


def _take(conn: Connection, chosen: list[int], runner_id: str, account: str) -> list[VideoTask]:
    if not chosen:
        return []
    values = {"chosen": chosen, "runner": runner_id, "prefix": slot_of(account, "")}
    documents = {row.seq: row.document for row in conn.execute(_TAKE, values)}
    return [VideoTask.model_validate_json(documents[seq]) for seq in chosen if seq in documents]
