"""Rows become video tasks: those that are missing are stored, all or none, and then carried a few at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from kling_flows.engine.engine import Engine
from kling_flows.engine.identity import ledger_task_id, public_task_id
from kling_flows.errors import InvalidRequest, VideoTaskExists, VideoTaskNotFound, Violation
from kling_flows.flows.rows import Row, refuse, within_row
from kling_flows.ledger import Creation, CreationRefused, State
from kling_flows.steps import creation_of


class Again(StrEnum):
    """Which rows are made again that have ended without a video."""

    NOTHING = "nothing"
    FAILED = "failed"
    ENDED = "ended"


#: UNRESOLVED and LOST are nobody's to guess at: they may have been billed.
_AGAIN: Final[Mapping[Again, frozenset[State]]] = {
    Again.NOTHING: frozenset(),
    Again.FAILED: frozenset({State.FAILED}),
    Again.ENDED: frozenset({State.FAILED, State.CANCELLED, State.EXPIRED}),
}


async def create_missing(engine: Engine, rows: Sequence[Row], again: Again) -> list[str]:
    """Store a task for each row that has none, all or none of them; returns the ids of all, in the order of the rows.

    Raises:
        InvalidRequest: rows break rules; nothing was stored.
        VideoTaskExists: a row's id is another video's; nothing was stored.
        BudgetExceeded: a budget does not cover all of them; nothing was stored.
    """
    ids: list[str] = []
    new: dict[str, Creation] = {}
    violations: list[Violation] = []
    for row in rows:
        task_id, exists = await _attempt(engine, row, again)
        ids.append(task_id)
        if not exists and task_id not in new:
            try:
                new[task_id] = creation_of(engine, row.request, task_id, labels=row.labels, priority=row.priority)
            except InvalidRequest as error:
                violations += within_row(row.number, error)
        elif not exists and new[task_id].task.request != row.request:
            raise _another(row, task_id)
    refuse(violations)
    if not new:
        # What only goes on needs no write, which might have to wait.
        return ids
    try:
        await engine.ledger.create_all(list(new.values()))
    except CreationRefused as refused:
        raise refused.error from refused
    return ids


async def _attempt(engine: Engine, row: Row, again: Again) -> tuple[str, bool]:
    """The id of the row's latest task, or of its next one; and whether it exists."""
    number = 1
    while True:
        public = row.task_id if number == 1 else f"{row.task_id}-{number}"
        task_id = ledger_task_id(engine.settings.tenant, public)
        try:
            task = await engine.ledger.get(task_id)
        except VideoTaskNotFound:
            return task_id, False
        if task.request != row.request:
            raise _another(row, task_id)
        repeated = row.repeatable and task.state in _AGAIN[again]
        if not repeated or task.active or task.artifacts:
            return task_id, True
        number += 1


def _another(row: Row, task_id: str) -> VideoTaskExists:
    return VideoTaskExists(
        f"rows[{row.number}]: videoTasks/{public_task_id(task_id)} is a video of another request; name another "
        "video_task_id, or leave it out",
        metadata={"video_task": task_id},
    )
