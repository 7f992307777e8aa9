"""The order in which QUEUED tasks are claimed, and when the next one can be.

The queue may hold a hundred thousand tasks: it is never read as a whole. An index leads to its groups, one look for
each, and to the head of each group.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Generator, Sequence
from itertools import groupby
from math import inf
from typing import Any, Final, NamedTuple

from sqlalchemy import CTE, Column, Connection, Select, bindparam, func, or_, select

from kling_flows.ledger.records import State
from kling_flows.ledger.schema import video_tasks
from kling_flows.ledger.slots import Places, slot_of

#: Fewest tasks that are read of a group at a time.
_LEAST_HEADS: Final = 8

#: Higher than every priority.
_ABOVE_ALL: Final = 1_000


class Group(NamedTuple):
    """What waiting tasks have in common that only their age tells apart."""

    priority: int
    tenant: str
    model_name: str


_QUEUED: Final = video_tasks.c.state == State.QUEUED.value
_DUE: Final = or_(video_tasks.c.not_before.is_(None), video_tasks.c.not_before <= bindparam("now"))
_UNHELD: Final = select(video_tasks.c.seq).where(_QUEUED).where(video_tasks.c.runner_id.is_(None))
_UNHELD_OF_GROUP: Final = (
    _UNHELD.where(video_tasks.c.priority == bindparam("priority"))
    .where(video_tasks.c.tenant == bindparam("tenant"))
    .where(video_tasks.c.model_name == bindparam("model_name"))
)

_HEADS: Final = (
    _UNHELD_OF_GROUP.where(_DUE)
    .where(video_tasks.c.seq > bindparam("after"))
    .order_by(video_tasks.c.seq)
    .limit(bindparam("size"))
)
_HEADS_TO_TAKE: Final = _HEADS.with_for_update(skip_locked=True)
_EARLIEST_OF_GROUP: Final = _UNHELD_OF_GROUP.with_only_columns(func.min(video_tasks.c.not_before))
_NEXT_PRIORITY: Final = (
    select(func.max(video_tasks.c.priority))
    .where(video_tasks.c.runner_id.is_(None))
    .where(video_tasks.c.active)
    .where(_QUEUED)
    .where(video_tasks.c.priority < bindparam("priority"))
)
_OLDEST: Final = (
    _UNHELD.where(video_tasks.c.active)
    .where(video_tasks.c.priority == bindparam("priority"))
    .where(_DUE)
    .order_by(video_tasks.c.seq)
    .limit(bindparam("size"))
    .with_for_update(skip_locked=True)
)


def _following(column: Column[Any], after: CTE | None, *equal: str) -> Any:
    """The least value of a column, beyond the one that ``after`` has for it if it has one, where others are equal."""
    query = select(func.min(column)).where(_QUEUED)
    if after is not None:
        query = query.where(*(video_tasks.c[name] == after.c[name] for name in equal))
        query = query.where(column > after.c[column.name]) if column.name in after.c else query
        query = query.correlate(after)
    return query.scalar_subquery().label(column.name)


def _select_groups() -> Select[*tuple[Any, ...]]:
    """Each group by a jump in the index: databases read all of it for a DISTINCT."""
    level: CTE | None = None
    names: list[str] = []
    for column in (video_tasks.c.priority, video_tasks.c.tenant, video_tasks.c.model_name):
        known = [] if level is None else [level.c[name] for name in names]
        first = select(*known, _following(column, level, *names))
        if level is not None:
            first = first.where(level.c[names[-1]].is_not(None))
        found = first.cte(f"each_{column.name}", recursive=True)
        more = select(*(found.c[name] for name in names), _following(column, found, *names))
        level = found.union_all(more.where(found.c[column.name].is_not(None)))
        names.append(column.name)
    assert level is not None
    groups = select(*(level.c[name] for name in names)).where(level.c[names[-1]].is_not(None))
    return groups.order_by(level.c.priority.desc())


_GROUPS: Final = _select_groups()


def first_in_line(conn: Connection, places: Places, size: int) -> list[int]:
    """Sequence numbers of the QUEUED tasks that go next, at most ``size``, in their order.

    Higher priorities go first. Among equals the tenant goes first that holds the fewest of the model's places, with
    what it gets here; then the oldest. Where no place is limited nobody has to be fair: then age alone follows.
    """
    return _shared_out(conn, places, size) if places.limited else _oldest(conn, size)


def next_in_line(conn: Connection, places: Places) -> float | None:
    """When a QUEUED task can be claimed, in seconds since the epoch; infinity: once a place is given back."""
    now = time.time()
    found: float | None = None
    for group in read_groups(conn):
        if places.room(group.model_name, now) <= 0:
            start = places.rise(group.model_name)
        elif conn.execute(_HEADS, {**group._asdict(), "after": 0, "now": now, "size": 1}).first() is not None:
            return 0.0
        else:
            start = conn.execute(_EARLIEST_OF_GROUP, group._asdict()).scalar_one()
        if start is not None:
            found = min(start, inf if found is None else found)
    return found


def read_groups(conn: Connection) -> list[Group]:
    """The groups of QUEUED tasks, the highest priority first."""
    return [Group(*row) for row in conn.execute(_GROUPS)]


def _oldest(conn: Connection, size: int) -> list[int]:
    chosen: list[int] = []
    priority: int | None = _ABOVE_ALL
    while len(chosen) < size:
        priority = conn.execute(_NEXT_PRIORITY, {"priority": priority}).scalar_one()
        if priority is None:
            break
        rest = {"priority": priority, "now": time.time(), "size": size - len(chosen)}
        chosen.extend(conn.execute(_OLDEST, rest).scalars())
    return chosen


def _shared_out(conn: Connection, places: Places, size: int) -> list[int]:
    now = time.time()
    room: dict[str, float] = {}
    held = {slot: dict(tenants) for slot, tenants in places.held.items()}
    chosen: list[int] = []
    for _, equals in groupby(read_groups(conn), key=lambda group: group.priority):
        open_groups = [g for g in equals if room.setdefault(g.model_name, places.room(g.model_name, now)) > 0]
        if open_groups and len(chosen) < size:
            lines = _Lines(conn, open_groups, size - len(chosen), now)
            chosen.extend(_take_turns(lines, places.account, room, held, size - len(chosen)))
    return chosen


class _Lines:
    """The groups' tasks, the oldest first, read as they are asked for."""

    def __init__(self, conn: Connection, groups: Sequence[Group], size: int, now: float) -> None:
        self.groups = groups
        self._conn = conn
        self._now = now
        self._read = max(_LEAST_HEADS, size // len(groups) + 1)
        self._lines = [self._tasks(group) for group in groups]

    def next(self, index: int) -> int | None:
        """The next task of a group; None at its end."""
        return next(self._lines[index], None)

    def _tasks(self, group: Group) -> Generator[int]:
        after = 0
        while True:
            which: dict[str, Any] = {**group._asdict(), "after": after, "now": self._now, "size": self._read}
            rows = self._conn.execute(_HEADS_TO_TAKE, which).scalars().all()
            yield from rows
            if len(rows) < self._read:
                return
            after = rows[-1]


def _take_turns(
    lines: _Lines, account: str, room: dict[str, float], held: dict[str, dict[str, int]], size: int
) -> list[int]:
    """Give out places one by one; ``room`` and ``held`` follow."""
    turns: list[tuple[int, int, int]] = []

    def stand_in_line(index: int) -> None:
        seq = lines.next(index)
        if seq is not None:
            group = lines.groups[index]
            of_tenant = held.get(slot_of(account, group.model_name), {}).get(group.tenant, 0)
            heapq.heappush(turns, (of_tenant, seq, index))

    for index in range(len(lines.groups)):
        stand_in_line(index)
    chosen: list[int] = []
    while turns and len(chosen) < size:
        _, seq, index = heapq.heappop(turns)
        group = lines.groups[index]
        if room[group.model_name] <= 0:
            continue
        room[group.model_name] -= 1
        of_slot = held.setdefault(slot_of(account, group.model_name), {})
        of_slot[group.tenant] = of_slot.get(group.tenant, 0) + 1
        chosen.append(seq)
        stand_in_line(index)
    return chosen
