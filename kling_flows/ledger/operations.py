"""The ledger's operations, each one part of a transaction on a SQLAlchemy connection.

They are synchronous and may be run again on a fresh transaction, so they touch nothing but the connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from kling_flows.errors import LeaseLost, RequestIdReused, VideoTaskExists, VideoTaskFinal, VideoTaskNotFound
from kling_flows.ledger import callbacks
from kling_flows.ledger.dialects import insert_into, insert_without_gaps
from kling_flows.ledger.leases import has_lease
from kling_flows.ledger.records import TRANSITIONS, Event, State, VideoTask
from kling_flows.ledger.schema import events, labels, meta, video_tasks
from kling_flows.ledger.slots import SLOT_IF_BEGUN, holds_slot, slot_changes, slot_of
from kling_flows.ledger.spending import book, paid_by, refusal
from kling_flows.settings import Budget

#: How long a request id makes a create idempotent, in seconds.
REQUEST_ID_SECONDS = 86_400

#: Seconds before a task that became final is followed up: its interrupted step looks every second and has noticed then.
NOTICE_SECONDS = 3.0

Change = Callable[[VideoTask], VideoTask]

# Statements are made once: making one costs more than running it.
_DOCUMENT: Final = select(video_tasks.c.document).where(video_tasks.c.id == bindparam("id"))
_DOCUMENT_OF_TENANT: Final = _DOCUMENT.where(video_tasks.c.tenant == bindparam("tenant"))
_DOCUMENTS: Final = select(video_tasks.c.id, video_tasks.c.document).where(
    video_tasks.c.id.in_(bindparam("ids", expanding=True))
)
_HEAD: Final = select(func.coalesce(func.max(events.c.position), 0))
_OLDEST: Final = select(func.coalesce(func.min(events.c.position), 0))
_EVENTS: Final = (
    select(events.c.position, events.c.document)
    .where(events.c.position > bindparam("after"))
    .order_by(events.c.position)
    .limit(bindparam("size"))
)
_META: Final = select(meta)

#: Number, document and holder of the task of an ``id``.
HELD: Final = select(video_tasks.c.seq, video_tasks.c.document, video_tasks.c.runner_id).where(
    video_tasks.c.id == bindparam("id")
)

#: Most ids in one query; the databases limit the parameters of a statement.
_IDS_LIMIT: Final = 500


def create(
    conn: Connection,
    task: VideoTask,
    *,
    request_id: str,
    request_digest: str,
    runner_id: str | None = None,
    budgets: Sequence[Budget] = (),
) -> VideoTask:
    """Insert a new task and its first event; answers the earlier task if ``request_id`` repeats the same body.

    Raises:
        BudgetExceeded: one of the budgets does not cover it. Nothing was written then.
        VideoTaskExists: its id is taken.
        RequestIdReused: the request id is taken by another body.
    """
    document = task.model_dump_json(exclude_defaults=True)
    refused = refusal(conn, task, budgets)
    seq = None if refused else _insert(conn, task, document, request_id, request_digest, runner_id)
    if seq is None:
        # Only now is it worth a look at what stands in the way. What was there before is answered, whatever is left.
        earlier = _earlier(conn, task, request_id, request_digest) if request_id else None
        if earlier is not None:
            return earlier
        if refused is None:
            seq = _insert(conn, task, document, request_id, request_digest, runner_id)
        elif conn.execute(select(video_tasks.c.seq).where(video_tasks.c.id == task.id)).first() is None:
            raise refused
    if seq is None:
        raise VideoTaskExists(
            f"videoTasks/{task.id} exists; choose another video_task_id, or get that one",
            metadata={"video_task": task.id},
        )
    _append(conn, seq, None, task, document)
    book(conn, None, task)
    if task.labels:
        conn.execute(insert(labels), label_rows(seq, task))
    return task


def label_rows(seq: int, task: VideoTask) -> list[dict[str, Any]]:
    """The rows of a task's labels."""
    return [{"task_seq": seq, "key": key, "value": value} for key, value in task.labels.items()]


@cache
def _insert_or_nothing(dialect: str) -> Any:
    return insert_into(dialect, video_tasks).on_conflict_do_nothing().returning(video_tasks.c.seq)


def _insert(
    conn: Connection, task: VideoTask, document: str, request_id: str, request_digest: str, runner_id: str | None
) -> int | None:
    """Insert the row; None if its id or its request id is taken."""
    held = runner_id is not None and has_lease(conn, runner_id)
    row = new_row(task, document, request_id, request_digest, runner_id=runner_id if held else None)
    inserted = conn.execute(_insert_or_nothing(conn.dialect.name), row).first()
    return None if inserted is None else inserted.seq


def new_row(
    task: VideoTask, document: str, request_id: str, request_digest: str, *, runner_id: str | None = None
) -> dict[str, Any]:
    """The columns of a new task; ``runner_id`` must have a lease."""
    # What waits has none. What is taken in as begun is at the provider already.
    takes_slot = holds_slot(task) and (runner_id is not None or task.state is not State.QUEUED)
    return {
        "id": task.id,
        "tenant": task.tenant,
        "state": task.state.value,
        "revision": task.revision,
        "document": document,
        "runner_id": runner_id,
        "request_id": request_id or None,
        "request_digest": request_digest,
        "create_time": task.create_time.timestamp(),
        "end_time": None if task.end_time is None else task.end_time.timestamp(),
        "active": task.active,
        "priority": task.priority,
        "model_name": task.request.model_name,
        "slot": slot_of(paid_by(task), task.request.model_name) if takes_slot else None,
        "deadline": None if task.deadline is None else task.deadline.timestamp(),
    }


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
        fields = ", ".join(_differences(found, task))
        what = f"with another {fields}" if fields else "with another body"
        raise RequestIdReused(
            f"request_id {request_id!r} was used for videoTasks/{found.id} {what}; "
            "send a new request_id for a new video, or repeat the body unchanged",
            metadata={"request_id": request_id, "video_task": found.id, "fields": fields},
        )
    return found


def _differences(found: VideoTask, task: VideoTask) -> Iterator[str]:
    """The fields of a create that two tasks were not given alike; never what stands in them."""
    for name in type(task.request).model_fields:
        if getattr(found.request, name) != getattr(task.request, name):
            yield f"video_task.text_to_video.{name}"
    for name in ("labels", "priority", "deadline", "on_deadline"):
        if getattr(found, name) != getattr(task, name):
            yield f"video_task.{name}"
    # Ids that nobody has chosen always differ; `kling_flows.engine.identity` makes them so.
    if found.id != task.id and not (found.id.startswith("vt-") and task.id.startswith("vt-")):
        yield "video_task_id"


def get(conn: Connection, task_id: str, *, tenant: str | None = None) -> VideoTask:
    """One task; another tenant's is as absent as one that never was."""
    query = _DOCUMENT if tenant is None else _DOCUMENT_OF_TENANT
    document = conn.execute(query, {"id": task_id, "tenant": tenant}).scalar_one_or_none()
    if document is None:
        raise not_found(task_id)
    return VideoTask.model_validate_json(document)


def get_each(conn: Connection, task_ids: Sequence[str]) -> list[VideoTask]:
    """Tasks in the order of their ids; raises VideoTaskNotFound if one is not there."""
    documents: dict[str, str] = {}
    for start in range(0, len(task_ids), _IDS_LIMIT):
        rows = conn.execute(_DOCUMENTS, {"ids": list(task_ids[start : start + _IDS_LIMIT])})
        documents.update((row.id, row.document) for row in rows)
    for task_id in task_ids:
        if task_id not in documents:
            raise not_found(task_id)
    return [VideoTask.model_validate_json(documents[task_id]) for task_id in task_ids]


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
    row = conn.execute(HELD, {"id": task_id}).first()
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
        "end_time": None if after.end_time is None else after.end_time.timestamp(),
    }
    starts_over = after.video_pending and not before.video_pending
    if starts_over or not after.active:
        values["runner_id"] = None
    if starts_over:
        values["not_before"] = now.timestamp() + NOTICE_SECONDS
    if after.state.final:
        values["deadline"] = None
    if after.upstream is not None and before.upstream is None:
        values["external_task_id"] = after.upstream.external_task_id
    values.update(slot_changes(before, after))
    conn.execute(_update_of(tuple(values)), {"changed": row.seq, **values})
    _append(conn, row.seq, before, after, document)
    book(conn, before, after)
    return after


@cache
def _update_of(columns: tuple[str, ...]) -> Any:
    """An update of these columns of the task whose number is ``changed``."""
    values: dict[str, Any] = {column: bindparam(column) for column in columns}
    return update(video_tasks).where(video_tasks.c.seq == bindparam("changed")).values(values)


@cache
def _insert_event(dialect: str) -> Any:
    return insert_without_gaps(dialect, events.c.position)


def _append(conn: Connection, seq: int, before: VideoTask | None, after: VideoTask, document: str) -> None:
    """Add the event to the log, and the call about it to the outbox if its caller wants one."""
    values = {"task_seq": seq, "revision": after.revision, "document": document}
    if not callbacks.concerns_caller(before, after):
        conn.execute(_insert_event(conn.dialect.name), values)
        return
    position = conn.execute(_insert_event(conn.dialect.name).returning(events.c.position), values).scalar_one()
    callbacks.queue_delivery(conn, seq, position)


def release(conn: Connection, task_ids: Sequence[str], runner_id: str, *, not_before: float | None) -> None:
    """Give tasks back; ``not_before`` is when they may be taken again, in seconds since the epoch."""
    conn.execute(
        update(video_tasks)
        .where(video_tasks.c.id.in_(task_ids))
        .where(video_tasks.c.runner_id == runner_id)
        .values(runner_id=None, not_before=not_before, slot=SLOT_IF_BEGUN)
    )


def head(conn: Connection) -> int:
    """The newest position of the log; 0 while it is empty."""
    return conn.execute(_HEAD).scalar_one()


def oldest(conn: Connection) -> int:
    """The oldest position that is kept; 0 while the log is empty."""
    return conn.execute(_OLDEST).scalar_one()


def read_events(conn: Connection, after: int, limit: int) -> list[tuple[int, str]]:
    """Positions and documents of the events after a position, in their order."""
    rows = conn.execute(_EVENTS, {"after": after, "size": limit})
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


def count_waiting(conn: Connection) -> int:
    """How many tasks are QUEUED."""
    return conn.execute(
        select(func.count()).select_from(video_tasks).where(video_tasks.c.state == State.QUEUED.value)
    ).scalar_one()


def write_meta(conn: Connection, key: str, value: str) -> None:
    """Remember a fact, or a newer one of that name."""
    conn.execute(delete(meta).where(meta.c.key == key))
    conn.execute(insert(meta), {"key": key, "value": value})


def move_meta(conn: Connection, key: str, before: str | None, after: str) -> bool:
    """Replace a fact if it is still what the caller has read; None: it was not there. Says whether it was."""
    if before is None:
        added = insert_into(conn.dialect.name, meta).on_conflict_do_nothing().values(key=key, value=after)
        return conn.execute(added.returning(meta.c.key)).first() is not None
    moved = update(meta).where(meta.c.key == key).where(meta.c.value == before).values(value=after)
    return conn.execute(moved.returning(meta.c.key)).first() is not None


def read_meta(conn: Connection) -> dict[str, str]:
    """What the ledger knows of itself and of accounts."""
    return {row.key: row.value for row in conn.execute(_META)}
