"""Which runners live: a row for each, which it renews and its peers end. See docs/decisions/0003.

Like all operations: synchronous, and part of one transaction.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, insert, select, update

from kling_flows.ledger.records import Lease
from kling_flows.ledger.schema import leases, video_tasks
from kling_flows.ledger.slots import SLOT_IF_BEGUN

_LEASES: Final = select(leases)
_RENEW: Final = (
    update(leases)
    .where(leases.c.runner_id == bindparam("runner"))
    .values(beat=leases.c.beat + 1)
    .returning(leases.c.beat)
)
_LEASE: Final = select(leases.c.runner_id).where(leases.c.runner_id == bindparam("runner"))


def has_lease(conn: Connection, runner_id: str) -> bool:
    """Whether the runner has announced itself and was not judged dead."""
    # Peers free what a lease holds: a task that is taken under a lease that they have ended would be held for ever.
    return conn.execute(_LEASE, {"runner": runner_id}).first() is not None


def open_lease(conn: Connection, lease: Lease) -> None:
    """Announce a runner."""
    conn.execute(insert(leases), lease.model_dump())


def renew_lease(conn: Connection, runner_id: str) -> bool:
    """Renew what the runner holds, all at once; false if peers have declared it dead."""
    return conn.execute(_RENEW, {"runner": runner_id}).first() is not None


def read_leases(conn: Connection) -> list[Lease]:
    """All runners that have announced themselves."""
    return [Lease.model_validate(dict(row)) for row in conn.execute(_LEASES).mappings()]


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
        .values(runner_id=None, slot=SLOT_IF_BEGUN)
        .returning(video_tasks.c.seq)
    )
    return len(freed.all())


def held_by(conn: Connection, runner_id: str) -> set[str]:
    """The ids of the tasks that a runner holds."""
    return set(conn.execute(select(video_tasks.c.id).where(video_tasks.c.runner_id == runner_id)).scalars())
