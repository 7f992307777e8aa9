"""Places for tasks that run at the provider: who holds one, how many there are, and who gets the next.

A place is held from the claim of a waiting task to the end at the provider, not to ours. Tasks wait for one QUEUED:
visible, free to cancel, and in nobody's flow run.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, bindparam, case, delete, func, insert, or_, select, update

from kling_flows.ledger.records import State, VideoTask
from kling_flows.ledger.schema import slot_limits, video_tasks
from kling_flows.ledger.spending import was_sent

#: Seconds after which a limit that a refusal has taught counts as one place higher.
RISE_SECONDS: Final = 60.0

#: A learned limit that has risen to this is forgotten.
FORGOTTEN_PLACES: Final = 10_000

#: A task that nobody follows any more frees its place after so many times its typical duration.
_ESTIMATE: Final = 2.0

#: Seconds that a video takes if its task does not say (fact sheet 5: one to ten minutes).
_LONG_SECONDS: Final = 600.0

#: States that only follow the provider's end, so that no place is held in them.
_MADE: Final = frozenset({State.ARCHIVING, State.SUCCEEDED, State.LOST})

NO_LIMIT: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Places:
    """How many places an account has, and who holds them.

    Args:
        account: `Account.name`.
        most: The limit of the settings for each of its slots, if any.
        learned: Limits that refusals have taught, by slot: places, and seconds since the epoch when they were learned.
        held: Places that each tenant holds, by slot.
    """

    account: str
    most: int | None
    learned: Mapping[str, tuple[int, float]]
    held: Mapping[str, Mapping[str, int]]

    @property
    def limited(self) -> bool:
        """Whether there is any limit at all."""
        return self.most is not None or bool(self.learned)

    def room(self, model_name: str, now: float) -> float:
        """Places of a model that are free; no limit is infinity."""
        slot = slot_of(self.account, model_name)
        limit = NO_LIMIT if self.most is None else self.most
        if slot in self.learned:
            places, since = self.learned[slot]
            limit = min(limit, places + max(0.0, now - since) // RISE_SECONDS)
        return max(0, limit - self._holders(slot))

    def rise(self, model_name: str) -> float:
        """When a learned limit will have risen enough for one more, in seconds since the epoch; else infinity."""
        slot = slot_of(self.account, model_name)
        holders = self._holders(slot)
        if slot not in self.learned or (self.most is not None and holders >= self.most):
            return NO_LIMIT
        places, since = self.learned[slot]
        return since + RISE_SECONDS * (holders + 1 - places)

    def _holders(self, slot: str) -> int:
        return sum(self.held.get(slot, {}).values())


_LEARNED: Final = select(slot_limits)

_HOLDERS: Final = (
    select(video_tasks.c.slot, video_tasks.c.tenant, func.count().label("places"))
    .where(video_tasks.c.slot.is_not(None))
    .where(or_(video_tasks.c.slot_until.is_(None), video_tasks.c.slot_until > bindparam("now")))
    .group_by(video_tasks.c.slot, video_tasks.c.tenant)
)


_FREE_ESTIMATED: Final = (
    update(video_tasks)
    .where(video_tasks.c.slot.is_not(None))
    .where(video_tasks.c.slot_until <= bindparam("now"))
    .values(slot=None, slot_until=None)
)

#: For what loses its holder: only what was begun keeps its place.
SLOT_IF_BEGUN: Final = case((video_tasks.c.state == State.QUEUED.value, None), else_=video_tasks.c.slot)


def slot_of(account: str, model_name: str) -> str:
    """The name of an account's places for a model; a refusal for one says nothing of the others."""
    return f"{account}/{model_name}"


def holds_slot(task: VideoTask) -> bool:
    """Whether a task that has got a place still needs it: until its end at the provider, or until it ends unsent."""
    if task.state in _MADE or (task.upstream is not None and task.upstream.end_time is not None):
        return False
    return not task.state.final or was_sent(task)


def slot_until(task: VideoTask) -> float | None:
    """When the place of a task whose end nobody will see counts as free, in seconds since the epoch; else None."""
    if not task.state.final or task.video_pending or task.upstream is None:
        return None
    sent = task.upstream.submit_time or task.upstream.intent_time
    return sent.timestamp() + _ESTIMATE * (task.typical_seconds or _LONG_SECONDS)


def slot_changes(before: VideoTask, after: VideoTask) -> Mapping[str, Any]:
    """What a change of a task means for the columns of its place."""
    if not holds_slot(after):
        return {"slot": None, "slot_until": None} if holds_slot(before) else {}
    until = slot_until(after)
    return {} if until == slot_until(before) else {"slot_until": until}


def learn_refusal(conn: Connection, slot: str) -> int:
    """Learn from a refusal for want of a place; returns how many places there seem to be.

    The refused task keeps its place, so that nothing else is claimed before what was refused is through.
    """
    now = time.time()
    places = max(1, sum(_held(conn, now).get(slot, {}).values()) - 1)
    conn.execute(delete(slot_limits).where(slot_limits.c.slot == slot))
    conn.execute(insert(slot_limits), {"slot": slot, "places": places, "change_time": now})
    return places


def read_places(conn: Connection, account: str, most: int | None) -> Places:
    """How many places the account has; who holds them is read only if there is a limit."""
    now = time.time()
    prefix = slot_of(account, "")
    learned = {
        row.slot: (row.places, row.change_time)
        for row in conn.execute(_LEARNED)
        if row.slot.startswith(prefix) and row.places + (now - row.change_time) // RISE_SECONDS < FORGOTTEN_PLACES
    }
    held = _held(conn, now) if most is not None or learned else {}
    return Places(account, most, learned, held)


def take_stock(conn: Connection, account: str, most: int | None) -> Places:
    """As :func:`read_places`; takes the places away from what nobody follows and what must have ended by now."""
    places = read_places(conn, account, most)
    if places.limited:
        conn.execute(_FREE_ESTIMATED, {"now": time.time()})
    return places


def _held(conn: Connection, now: float) -> dict[str, dict[str, int]]:
    held: dict[str, dict[str, int]] = defaultdict(dict)
    for row in conn.execute(_HOLDERS, {"now": now}):
        held[row.slot][row.tenant] = row.places
    return held
