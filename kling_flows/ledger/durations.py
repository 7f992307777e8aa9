"""How long videos took: a moving mean and about the shortest time, by what they have in common.

Like all operations: synchronous, and part of one transaction.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, bindparam, insert, select, update

from kling_flows.ledger.schema import durations

#: How much the newest sample counts in a learned duration once there are many.
_NEWEST_WEIGHT: Final = 0.2

#: How much a longer sample draws up what counts as the shortest duration.
_LOW_WEIGHT: Final = 1 / 256

_ALL_LEARNED: Final = select(durations)
_LEARNED: Final = _ALL_LEARNED.where(durations.c.key == bindparam("key"))
_LEARN: Final = (
    update(durations)
    .where(durations.c.key == bindparam("learned"))
    .values({name: bindparam(name) for name in ("samples", "mean_seconds", "low_seconds")})
)


def learn_duration(conn: Connection, key: str, seconds: float) -> None:
    """Add how long a video took, in seconds, to what is known of its like."""
    known = conn.execute(_LEARNED, {"key": key}).first()
    if known is None:
        conn.execute(insert(durations), {"key": key, "samples": 1, "mean_seconds": seconds, "low_seconds": seconds})
        return
    weight = max(1.0 / (known.samples + 1), _NEWEST_WEIGHT)
    mean = known.mean_seconds + weight * (seconds - known.mean_seconds)
    low = known.mean_seconds if known.low_seconds is None else known.low_seconds
    low = min(seconds, low + (seconds - low) * _LOW_WEIGHT)
    learned = {"samples": known.samples + 1, "mean_seconds": mean, "low_seconds": low}
    conn.execute(_LEARN, {"learned": key, **learned})


def read_durations(conn: Connection) -> dict[str, float]:
    """What is known of how long videos take: mean seconds by key."""
    return {row.key: row.mean_seconds for row in conn.execute(_ALL_LEARNED)}


def read_shortest(conn: Connection, key: str) -> tuple[float, int] | None:
    """About the shortest time that such a video took, in seconds, and out of how many; None if nothing is known."""
    row = conn.execute(_LEARNED, {"key": key}).first()
    return None if row is None or row.low_seconds is None else (row.low_seconds, row.samples)
