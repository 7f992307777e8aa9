"""Many creates in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from kling_flows.errors import KlingFlowsError
from kling_flows.ledger.operations import create
from kling_flows.ledger.records import VideoTask
from kling_flows.settings import Budget


@dataclass(frozen=True, slots=True)
class Creation:
    """One of them; see `operations.create`."""

    task: VideoTask
    request_id: str = ""
    request_digest: str = ""
    budgets: Sequence[Budget] = ()


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
    results: list[VideoTask | KlingFlowsError] = []
    for creation in creations:
        try:
            with conn.begin_nested():
                results.append(_create(conn, creation))
        except KlingFlowsError as error:
            results.append(error)
    return results


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
        budgets=creation.budgets,
    )
