"""Many creates in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, bindparam, func, insert, select

from kling_flows.errors import KlingFlowsError
from kling_flows.ledger.dialects import copy_without_gaps, insert_many_or_nothing
from kling_flows.ledger.operations import create, label_rows, new_row
from kling_flows.ledger.records import Event, State, VideoTask
from kling_flows.ledger.schema import events, labels, video_tasks
from kling_flows.ledger.spending import book_new
from kling_flows.settings import Budget


@dataclass(frozen=True, slots=True)
class Creation:
    """One of them; see `operations.create`."""

    task: VideoTask
    request_id: str = ""
    request_digest: str = ""
    budgets: Sequence[Budget] = ()
    runner_id: str | None = None

    @property
    def plain(self) -> bool:
        """Whether nothing has to be looked up or put into an outbox for it."""
        return (
            self.task.state is State.QUEUED
            and self.runner_id is None
            and not self.budgets
            and not self.task.request.callback_url
        )


@dataclass(frozen=True, slots=True)
class Created:
    """What came of several creates.

    Args:
        outcomes: The task of each, or why there is none.
        events: Some of the events that were written, the first ones of the operation, in their order.
    """

    outcomes: list[VideoTask | KlingFlowsError]
    events: Sequence[Event]


class CreationRefused(Exception):
    """One of several creates that stand or fall together was refused; carries which one, and why.

    It never leaves the process: whoever asked knows what the number means to its own caller.
    """

    def __init__(self, number: int, error: KlingFlowsError) -> None:
        super().__init__(number, error)
        self.number = number
        self.error = error


def create_each(conn: Connection, creations: Sequence[Creation]) -> Created:
    """Create those that can be; of the others, why not."""
    made = _create_together(conn, creations)
    outcomes = [
        creation.task if number in made else _create_or_tell(conn, creation)
        for number, creation in enumerate(creations)
    ]
    return Created(outcomes, tuple(made.values()))


def _create_together(conn: Connection, creations: Sequence[Creation]) -> dict[int, Event]:
    """Create the plain ones with a statement a table, where one for each task costs a multiple; says which were."""
    rows: dict[int, dict[str, Any]] = {}
    for number, creation in _first_of_each_key(creations):
        document = creation.task.model_dump_json(exclude_defaults=True)
        rows[number] = new_row(creation.task, document, creation.request_id, creation.request_digest)
    if not rows:
        return {}
    before = conn.execute(_NEWEST).scalar_one()
    insert_many_or_nothing(conn, video_tasks, list(rows.values()))
    made = _made(conn, rows, before)
    if not made:
        return {}
    conn.execute(_first_events(conn.dialect.name), {"before": before})
    first = conn.execute(_LAST_POSITION).scalar_one() - len(made) + 1
    tasks = [creations[number].task for number in made]
    book_new(conn, tasks)
    if any(task.labels for task in tasks):
        seqs: Mapping[str, int] = {row.id: row.seq for row in conn.execute(_IDS, {"before": before})}
        conn.execute(insert(labels), [row for task in tasks for row in label_rows(seqs[task.id], task)])
    numbered = zip(made, tasks, strict=True)
    return {number: Event(position=first + place, task=task) for place, (number, task) in enumerate(numbered)}


_NEWEST: Final = select(func.coalesce(func.max(video_tasks.c.seq), 0))
_LAST_POSITION: Final = select(func.max(events.c.position))

# Nobody else writes before the end of the transaction: what is newer is what it has made.
_NEWER: Final = video_tasks.c.seq > bindparam("before")
_COUNT: Final = select(func.count()).select_from(video_tasks).where(_NEWER)
_IDS: Final = select(video_tasks.c.id, video_tasks.c.seq).where(_NEWER)


@cache
def _first_events(dialect: str) -> Any:
    """An insert of the new tasks' first events, which hold the documents that are in their rows."""
    columns = (video_tasks.c.seq, video_tasks.c.revision, video_tasks.c.document)
    return copy_without_gaps(
        dialect,
        events.c.position,
        [events.c.task_seq.name, events.c.revision.name, events.c.document.name],
        select(*columns).where(_NEWER),
        video_tasks.c.seq,
    )


def _made(conn: Connection, rows: Mapping[int, Mapping[str, Any]], before: int) -> list[int]:
    """The numbers of those whose rows were inserted, in their order."""
    if conn.execute(_COUNT, {"before": before}).scalar_one() == len(rows):
        return list(rows)
    ids = {row.id for row in conn.execute(_IDS, {"before": before})}
    return [number for number, row in rows.items() if row["id"] in ids]


def _first_of_each_key(creations: Sequence[Creation]) -> Iterable[tuple[int, Creation]]:
    """The plain ones, with their numbers; whatever shares a key with an earlier one has to find it in the table."""
    ids: set[str] = set()
    requests: set[tuple[str, str]] = set()
    for number, creation in enumerate(creations):
        request = (creation.task.tenant, creation.request_id)
        repeated = creation.task.id in ids or (creation.request_id and request in requests)
        ids.add(creation.task.id)
        requests.add(request)
        if creation.plain and not repeated:
            yield number, creation


def _create_or_tell(conn: Connection, creation: Creation) -> VideoTask | KlingFlowsError:
    try:
        with conn.begin_nested():
            return _create(conn, creation)
    except KlingFlowsError as error:
        return error


def create_all(conn: Connection, creations: Sequence[Creation]) -> list[VideoTask] | CreationRefused:
    """Create all, or none because of the first that cannot be.

    The refusal is returned: raised, it would undo the work of all that share the transaction.
    """
    try:
        with conn.begin_nested():
            return [_create_or_refuse(conn, number, creation) for number, creation in enumerate(creations)]
    except CreationRefused as refusal:
        return refusal


def _create_or_refuse(conn: Connection, number: int, creation: Creation) -> VideoTask:
    try:
        return _create(conn, creation)
    except KlingFlowsError as error:
        raise CreationRefused(number, error) from error


def _create(conn: Connection, creation: Creation) -> VideoTask:
    return create(
        conn,
        creation.task,
        request_id=creation.request_id,
        request_digest=creation.request_digest,
        runner_id=creation.runner_id,
        budgets=creation.budgets,
    )
