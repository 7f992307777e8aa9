"""The ledger's operations, each one part of a transaction on a SQLAlchemy connection.

They are synchronous and may be run again on a fresh transaction, so they touch nothing but the connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from kling_flows.errors import LeaseLost, RequestIdReused, VideoTaskExists, VideoTaskFinal, VideoTaskNotFound
from kling_flows.ledger.records import ACTIVE_STATES, TRANSITIONS, Event, Lease, State, VideoTask
from kling_flows.ledger.schema import durations, events, labels, leases, meta, video_tasks

#: How long a request id makes a create idempotent, in seconds.
REQUEST_ID_SECONDS = 86_400

#: How much the newest sample counts in a learned duration once there are many.
_NEWEST_WEIGHT = 0.2

#: The one statement that standard SQL has no words for.
_INSERTS = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}

Change = Callable[[VideoTask], VideoTask]


def create(
    conn: Connection, task: VideoTask, *, request_id: str, request_digest: str, runner_id: str | None = None
) -> VideoTask:
    """Insert a new task and its first event; answers the earlier task if ``request_id`` repeats the same body."""
    seq = _insert(conn, task, request_id, request_digest, runner_id)
    if seq is None:
        # Only now is it worth a look at what stands in the way.
        earlier = _earlier(conn, task, request_id, request_digest) if request_id else None
        if earlier is not None:
            return earlier
        seq = _insert(conn, task, request_id, request_digest, runner_id)
    if seq is None:
        raise VideoTaskExists(
            f"videoTasks/{task.id} exists; choose another video_task_id, or get that one",
            metadata={"video_task": task.id},
        )
    document = task.model_dump_json(exclude_defaults=True)
    conn.execute(insert(events), {"task_seq": seq, "revision": task.revision, "document": document})
    if task.labels:
        conn.execute(insert(labels), [{"task_seq": seq, "key": k, "value": v} for k, v in task.labels.items()])
    return task


def _insert(
    conn: Connection, task: VideoTask, request_id: str, request_digest: str, runner_id: str | None
) -> int | None:
    """Insert the row; None if its id or its request id is taken."""
    insert_or_nothing = _INSERTS[conn.dialect.name](video_tasks).on_conflict_do_nothing()
    return conn.execute(
        insert_or_nothing.returning(video_tasks.c.seq),
        {
            "id": task.id,
            "tenant": task.tenant,
            "state": task.state.value,
            "revision": task.revision,
            "document": task.model_dump_json(exclude_defaults=True),
            "runner_id": runner_id if runner_id is not None and _has_lease(conn, runner_id) else None,
            "request_id": request_id or None,
            "request_digest": request_digest,
            "create_time": task.create_time.timestamp(),
            "active": task.active,
            "priority": task.priority,
            "model_name": task.request.model_name,
            "deadline": None if task.deadline is None else task.deadline.timestamp(),
        },
    ).scalar_one_or_none()


def _earlier(conn: Connection, task: VideoTask, request_id: str, request_digest: str) -> VideoTask | None:
    """The task that this request has made before; forgets the request after a day."""
    row = conn.execute(
        select(video_tasks.c.seq, video_tasks.c.document, video_tasks.c.request_digest, video_tasks.c.create_time)
        .where(video_tasks.c.tenant == task.tenant)
        .where(video_tasks.c.request_id == request_id)
    ).first()
    if row is None:
        return None
    if time.time() - row.create_time >= REQUEST_ID_SECONDS:
        conn.execute(update(video_tasks).where(video_tasks.c.seq == row.seq).values(request_id=None))
        return None
    found = VideoTask.model_validate_json(row.document)
    if row.request_digest != request_digest:
        raise RequestIdReused(
            f"request_id {request_id!r} was used for videoTasks/{found.id} with another body; "
            "send a new request_id for a new video, or repeat the body unchanged",
            metadata={"request_id": request_id, "video_task": found.id},
        )
    return found


def get(conn: Connection, task_id: str, *, tenant: str | None = None) -> VideoTask:
    """One task; another tenant's is as absent as one that never was."""
    query = select(video_tasks.c.document).where(video_tasks.c.id == task_id)
    if tenant is not None:
        query = query.where(video_tasks.c.tenant == tenant)
    document = conn.execute(query).scalar_one_or_none()
    if document is None:
        raise not_found(task_id)
    return VideoTask.model_validate_json(document)


def not_found(task_id: str) -> VideoTaskNotFound:
    """The error for a task that is not there."""
    return VideoTaskNotFound(
        f"videoTasks/{task_id} does not exist; ListVideoTasks shows those that do", metadata={"video_task": task_id}
    )


def advance(conn: Connection, task_id: str, change: Change, *, runner_id: str | None = None) -> VideoTask:
    """Apply ``change`` as the task's next event.

    With ``runner_id`` the write is fenced: it happens only while that runner holds the task.

    Raises:
        LeaseLost: another runner, or nobody, holds the task.
        VideoTaskFinal: the change would leave a final state.
        ValueError: the change asks for a state that cannot follow; a bug.
    """
    row = conn.execute(
        select(video_tasks.c.seq, video_tasks.c.document, video_tasks.c.runner_id)
        .where(video_tasks.c.id == task_id)
        .with_for_update()
    ).first()
    if row is None:
        raise not_found(task_id)
    if runner_id is not None and row.runner_id != runner_id:
        raise LeaseLost(f"videoTasks/{task_id} is held by {row.runner_id or 'nobody'}, not by {runner_id}")
    before = VideoTask.model_validate_json(row.document)
    after = change(before)
    if after is before:
        return before
    if after.state is not before.state and after.state not in TRANSITIONS[before.state]:
        if before.state.final:
            raise VideoTaskFinal(
                f"videoTasks/{task_id} is {before.state}, which is final",
                metadata={"video_task": task_id, "state": before.state.value},
            )
        raise ValueError(f"{before.state} cannot be followed by {after.state} (videoTasks/{task_id})")
    now = datetime.now(UTC)
    ended = after.state.final and not before.state.final
    after = after.model_copy(
        update={
            "revision": before.revision + 1,
            "update_time": now,
            "end_time": now if ended else before.end_time,
        }
    )
    document = after.model_dump_json(exclude_defaults=True)
    values: dict[str, Any] = {
        "state": after.state.value,
        "revision": after.revision,
        "document": document,
        "not_before": None,
        "active": after.active,
    }
    if after.state not in ACTIVE_STATES:
        values["runner_id"] = None
        values["deadline"] = None
    if after.upstream is not None and before.upstream is None:
        values["external_task_id"] = after.upstream.external_task_id
    conn.execute(update(video_tasks).where(video_tasks.c.seq == row.seq).values(values))
    conn.execute(insert(events), {"task_seq": row.seq, "revision": after.revision, "document": document})
    return after


def claim(conn: Connection, runner_id: str, limit: int) -> list[VideoTask]:
    """Take up to ``limit`` active tasks that nobody holds, the oldest first; none without a lease."""
    if not _has_lease(conn, runner_id):
        return []
    rows = conn.execute(
        select(video_tasks.c.seq, video_tasks.c.document)
        .where(video_tasks.c.runner_id.is_(None))
        .where(video_tasks.c.active)
        .where(video_tasks.c.not_before.is_(None) | (video_tasks.c.not_before <= time.time()))
        .order_by(video_tasks.c.seq)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if rows:
        conn.execute(
            update(video_tasks).where(video_tasks.c.seq.in_([r.seq for r in rows])).values(runner_id=runner_id)
        )
    return [VideoTask.model_validate_json(r.document) for r in rows]


def claim_one(conn: Connection, task_id: str, runner_id: str) -> VideoTask:
    """Take this task, if it is final or nobody else holds it.

    Raises:
        LeaseLost: another runner holds it, or peers have ended this one's lease.
    """
    row = conn.execute(
        select(video_tasks.c.document, video_tasks.c.runner_id).where(video_tasks.c.id == task_id).with_for_update()
    ).first()
    if row is None:
        raise not_found(task_id)
    task = VideoTask.model_validate_json(row.document)
    if task.state.final or row.runner_id == runner_id:
        return task
    if row.runner_id is not None:
        raise LeaseLost(f"videoTasks/{task_id} is held by runner {row.runner_id}; it goes on there")
    if not _has_lease(conn, runner_id):
        raise LeaseLost(f"runner {runner_id} has no lease any more; videoTasks/{task_id} goes on with the next one")
    conn.execute(update(video_tasks).where(video_tasks.c.id == task_id).values(runner_id=runner_id))
    return task


def release(conn: Connection, task_ids: Sequence[str], runner_id: str, *, not_before: float | None) -> None:
    """Give tasks back; ``not_before`` is when they may be taken again, in seconds since the epoch."""
    conn.execute(
        update(video_tasks)
        .where(video_tasks.c.id.in_(task_ids))
        .where(video_tasks.c.runner_id == runner_id)
        .values(runner_id=None, not_before=not_before)
    )


def claimable_from(conn: Connection) -> float | None:
    """When the next task can be claimed, in seconds since the epoch; in the past: now; None: there is none."""
    return conn.execute(
        select(func.min(func.coalesce(video_tasks.c.not_before, 0.0)))
        .where(video_tasks.c.runner_id.is_(None))
        .where(video_tasks.c.active)
    ).scalar_one()


def _has_lease(conn: Connection, runner_id: str) -> bool:
    # Peers free what a lease holds: a task that is taken under a lease that they have ended would be held for ever.
    return conn.execute(select(leases.c.runner_id).where(leases.c.runner_id == runner_id)).first() is not None


def open_lease(conn: Connection, lease: Lease) -> None:
    """Announce a runner."""
    conn.execute(insert(leases), lease.model_dump())


def renew_lease(conn: Connection, runner_id: str) -> bool:
    """Renew what the runner holds, all at once; false if peers have declared it dead."""
    result = conn.execute(
        update(leases).where(leases.c.runner_id == runner_id).values(beat=leases.c.beat + 1).returning(leases.c.beat)
    )
    return result.first() is not None


def read_leases(conn: Connection) -> list[Lease]:
    """All runners that have announced themselves."""
    return [Lease.model_validate(dict(row)) for row in conn.execute(select(leases)).mappings()]


def end_lease(conn: Connection, runner_id: str, beat: int | None) -> int:
    """End a runner's lease and free its tasks; with ``beat`` only if it has not been renewed since.

    Returns:
        How many tasks were freed.
    """
    condition: ColumnElement[bool] = leases.c.runner_id == runner_id
    if beat is not None:
        condition = and_(condition, leases.c.beat == beat)
    if conn.execute(delete(leases).where(condition).returning(leases.c.runner_id)).first() is None:
        return 0
    freed = conn.execute(
        update(video_tasks)
        .where(video_tasks.c.runner_id == runner_id)
        .values(runner_id=None)
        .returning(video_tasks.c.seq)
    )
    return len(freed.all())


def head(conn: Connection) -> int:
    """The newest position of the log; 0 while it is empty."""
    return conn.execute(select(func.coalesce(func.max(events.c.position), 0))).scalar_one()


def oldest(conn: Connection) -> int:
    """The oldest position that is kept; 0 while the log is empty."""
    return conn.execute(select(func.coalesce(func.min(events.c.position), 0))).scalar_one()


def read_events(conn: Connection, after: int, limit: int) -> list[tuple[int, str]]:
    """Positions and documents of the events after a position, in their order."""
    rows = conn.execute(
        select(events.c.position, events.c.document)
        .where(events.c.position > after)
        .order_by(events.c.position)
        .limit(limit)
    )
    return [(row.position, row.document) for row in rows]


def read_history(conn: Connection, task_id: str) -> list[Event]:
    """All events of one task, in their order."""
    rows = conn.execute(
        select(events.c.position, events.c.document)
        .join(video_tasks, video_tasks.c.seq == events.c.task_seq)
        .where(video_tasks.c.id == task_id)
        .order_by(events.c.revision)
    )
    return [Event(position=row.position, task=VideoTask.model_validate_json(row.document)) for row in rows]


def select_tasks(
    *,
    tenant: str,
    states: Sequence[State] = (),
    label_values: Sequence[tuple[str, str]] = (),
    ids: Sequence[str] = (),
    before_seq: int | None = None,
    limit: int | None = None,
) -> Select[int, str]:
    """Query for the sequence numbers and documents of a tenant's tasks, the newest first."""
    query = select(video_tasks.c.seq, video_tasks.c.document).where(video_tasks.c.tenant == tenant)
    if states:
        query = query.where(video_tasks.c.state.in_([s.value for s in states]))
    for key, value in label_values:
        query = query.where(
            video_tasks.c.seq.in_(select(labels.c.task_seq).where(labels.c.key == key).where(labels.c.value == value))
        )
    if ids:
        query = query.where(video_tasks.c.id.in_(ids))
    if before_seq is not None:
        query = query.where(video_tasks.c.seq < before_seq)
    query = query.order_by(video_tasks.c.seq.desc())
    return query if limit is None else query.limit(limit)


def count_waiting(conn: Connection) -> int:
    """How many tasks are QUEUED."""
    return conn.execute(
        select(func.count()).select_from(video_tasks).where(video_tasks.c.state == State.QUEUED.value)
    ).scalar_one()


def learn_duration(conn: Connection, key: str, seconds: float) -> None:
    """Add how long a video took, in seconds, to what is known of its like."""
    known = conn.execute(select(durations).where(durations.c.key == key).with_for_update()).first()
    if known is None:
        conn.execute(insert(durations), {"key": key, "samples": 1, "mean_seconds": seconds})
        return
    weight = max(1.0 / (known.samples + 1), _NEWEST_WEIGHT)
    mean = known.mean_seconds + weight * (seconds - known.mean_seconds)
    conn.execute(update(durations).where(durations.c.key == key).values(samples=known.samples + 1, mean_seconds=mean))


def read_durations(conn: Connection) -> dict[str, float]:
    """What is known of how long videos take: mean seconds by key."""
    return {row.key: row.mean_seconds for row in conn.execute(select(durations))}


def write_meta(conn: Connection, key: str, value: str) -> None:
    """Remember a fact, or a newer one of that name."""
    conn.execute(delete(meta).where(meta.c.key == key))
    conn.execute(insert(meta), {"key": key, "value": value})


def held_by(conn: Connection, runner_id: str) -> set[str]:
    """The ids of the tasks that a runner holds."""
    return set(conn.execute(select(video_tasks.c.id).where(video_tasks.c.runner_id == runner_id)).scalars())


def read_meta(conn: Connection) -> dict[str, str]:
    """What the ledger knows of itself and of accounts."""
    return {row.key: row.value for row in conn.execute(select(meta))}
