"""What an audit of the provider needs of the ledger. Like all operations: synchronous, and part of one transaction."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from kling_flows.ledger import operations
from kling_flows.ledger.records import VideoTask
from kling_flows.ledger.schema import video_tasks

#: Documents that are read at a time.
_CHUNK = 1_000


def adopt(conn: Connection, task: VideoTask) -> bool:
    """Insert a task that the provider has accepted already; false if its id or its external id is known.

    Raises:
        ValueError: the task has no upstream task.
    """
    if task.upstream is None or not task.upstream.task_id:
        raise ValueError(f"videoTasks/{task.id} cannot be adopted: it has no upstream task")
    external_id = task.upstream.external_task_id or None
    known = (video_tasks.c.id == task.id) | (video_tasks.c.external_task_id == external_id)
    if conn.execute(select(video_tasks.c.seq).where(known)).first() is not None:
        return False
    operations.create(conn, task, request_id="", request_digest="")
    conn.execute(update(video_tasks).where(video_tasks.c.id == task.id).values(external_task_id=external_id))
    return True


def upstream_ids(conn: Connection, account: str, *, since: float) -> dict[str, str]:
    """The upstream tasks of an account that the ledger knows: the provider's ids, and whose they are.

    Args:
        conn: A connection.
        account: The account's name.
        since: Tasks that were created before are passed over; seconds since the epoch.
    """
    found: dict[str, str] = {}
    after = 0
    while True:
        rows = conn.execute(
            select(video_tasks.c.seq, video_tasks.c.document)
            .where(video_tasks.c.seq > after)
            .where(video_tasks.c.create_time >= since)
            .order_by(video_tasks.c.seq)
            .limit(_CHUNK)
        ).all()
        for row in rows:
            task = VideoTask.model_validate_json(row.document)
            if task.upstream is not None and task.upstream.task_id and task.upstream.account == account:
                found[task.upstream.task_id] = task.id
        if len(rows) < _CHUNK:
            return found
        after = rows[-1].seq
