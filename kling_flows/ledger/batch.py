"""Many creates in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert

from kling_flows.errors import KlingFlowsError
from kling_flows.ledger.dialects import insert_many_without_gaps
from kling_flows.ledger.operations import create, insert_or_nothing, label_rows, new_row
from kling_flows.ledger.records import State, VideoTask
from kling_flows.ledger.schema import events, labels
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


class CreationRefused(Exception):
    """One of several creates that stand or fall together was refused; carries which one, and why.

    It never leaves the process: whoever asked knows what the number means to its own caller.
    """

    def __init__(self, number: int, error: KlingFlowsError) -> None:
        super().__init__(number, error)
        self.number = number
        self.error = error


def create_each(conn: Connection, creations: Sequence[Creation]) -> list[VideoTask | KlingFlowsError]:
    """Create those that can be; of the others, why not."""
    made = _create_together(conn, creations)
    return [
        creation.task if number in made else _create_or_tell(conn, creation)
        for number, creation in enumerate(creations)
    ]


def _create_together(conn: Connection, creations: Sequence[Creation]) -> set[int]:
    """Create the plain ones with a statement a table, where one for each task costs a multiple; says which were."""
    rows: dict[int, dict[str, Any]] = {}
    for number, creation in _first_of_each_key(creations):
        document = creation.task.model_dump_json(exclude_defaults=True)
        rows[number] = new_row(creation.task, document, creation.request_id, creation.request_digest)
    if not rows:
        return set()
    inserted = conn.execute(insert_or_nothing(conn.dialect.name), list(rows.values()))
    seqs: Mapping[str, int] = {row.id: row.seq for row in inserted}
    made = {number: seqs[row["id"]] for number, row in rows.items() if row["id"] in seqs}
    if not made:
        return set()
    insert_many_without_gaps(
        conn,
        events.c.position,
        [
            {"task_seq": seq, "revision": rows[number]["revision"], "document": rows[number]["document"]}
            for number, seq in made.items()
        ],
    )
    book_new(conn, (creations[number].task for number in made))
    if labelled := [row for number, seq in made.items() for row in label_rows(seq, creations[number].task)]:
        conn.execute(insert(labels), labelled)
    return set(made)


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
