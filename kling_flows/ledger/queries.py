"""Which of a tenant's tasks, in which order: the ledger's only search."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import BigInteger, Float, Select, func, literal, select, tuple_

from kling_flows.ledger.records import State, VideoTask
from kling_flows.ledger.schema import labels, video_tasks

#: How a time may be compared.
COMPARISONS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class TaskPlace(NamedTuple):
    """Where a task stands among its tenant's: by its create time, in seconds since the epoch, then by its number."""

    create_time: float
    seq: int


def place_of(seq: int, task: VideoTask) -> TaskPlace:
    """The place of a task."""
    return TaskPlace(task.create_time.timestamp(), seq)


@dataclass(frozen=True, slots=True)
class TimeBound:
    """A condition on one of a task's times; a task that has no such time does not meet it.

    Args:
        field: Which time.
        comparison: One of `COMPARISONS`.
        seconds: What it is compared with, in seconds since the epoch.
    """

    field: Literal["create_time", "end_time"]
    comparison: str
    seconds: float

    def holds(self, task: VideoTask) -> bool:
        """Whether the task meets it."""
        when = task.create_time if self.field == "create_time" else task.end_time
        return when is not None and COMPARISONS[self.comparison](when.timestamp(), self.seconds)


def select_tasks(
    *,
    tenant: str,
    states: Sequence[State] = (),
    label_values: Sequence[tuple[str, str]] = (),
    model_name: str | None = None,
    times: Sequence[TimeBound] = (),
    ids: Sequence[str] = (),
    oldest_first: bool = False,
    beyond: TaskPlace | None = None,
    limit: int | None = None,
) -> Select[int, str]:
    """Query for the sequence numbers and documents of a tenant's tasks, the newest first if nothing else is said.

    Args:
        tenant: Whose.
        states: Only those in one of these.
        label_values: Only those with all of these.
        model_name: Only those for this model.
        times: Only those that meet all of these.
        ids: Only these.
        oldest_first: Turns the order round.
        beyond: Only those that come after this place in the order.
        limit: At most so many.
    """
    columns = video_tasks.c
    query = select(columns.seq, columns.document)
    if ids:
        # Hidden from SQLite's planner, which would otherwise go through all of a tenant's tasks to save a sort.
        query = query.where(columns.id.in_(ids)).where(func.coalesce(columns.tenant, "") == tenant)
    else:
        query = query.where(columns.tenant == tenant)
    if states:
        query = query.where(columns.state.in_([s.value for s in states]))
    if model_name is not None:
        query = query.where(columns.model_name == model_name)
    for time in times:
        query = query.where(COMPARISONS[time.comparison](columns[time.field], time.seconds))
    for key, value in label_values:
        query = query.where(
            columns.seq.in_(select(labels.c.task_seq).where(labels.c.key == key).where(labels.c.value == value))
        )
    if beyond is not None:
        place = tuple_(columns.create_time, columns.seq)
        limits = tuple_(literal(beyond.create_time, Float), literal(beyond.seq, BigInteger))
        query = query.where(place > limits if oldest_first else place < limits)
    if oldest_first:
        query = query.order_by(columns.create_time, columns.seq)
    else:
        query = query.order_by(columns.create_time.desc(), columns.seq.desc())
    return query if limit is None else query.limit(limit)
