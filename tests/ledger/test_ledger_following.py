"""Who follows the log gets every event once and in order, whether it was written here, elsewhere, or before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from kling_flows.errors import LedgerUnavailable
from kling_flows.ledger import Event, Ledger, State, VideoTask
from kling_flows.ledger.following import Following

from .make import task

PATIENCE = 30.0


async def _ids(following: Following, position: int, count: int) -> list[str]:
    """What comes after a position until there are so many."""
    found: list[str] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < count:
            events, behind = await following.after(position, 2)
            assert [event.position for event in events] == list(range(position + 1, position + 1 + len(events)))
            position += len(events)
            found += [f"{event.task.id}/{event.task.revision}" for event in events]
            if not behind and len(found) < count:
                await following.wait(PATIENCE)
    return found


async def test_what_was_there_before_and_what_is_created_then_come_once(ledger: Ledger) -> None:
    for name in "abc":
        await ledger.create(task(name))
    following = ledger.follow()
    assert await _ids(following, 0, 3) == ["a/1", "b/1", "c/1"]

    creates = asyncio.gather(*(ledger.create(task(f"t-{number}")) for number in range(20)))
    assert await _ids(following, 3, 20) == [f"t-{number}/1" for number in range(20)]
    await creates


async def test_changes_between_creates_are_not_passed_over(ledger: Ledger) -> None:
    following = ledger.follow()

    def cancel(before: VideoTask) -> VideoTask:
        return before.model_copy(update={"state": State.CANCELLED})

    async def create_and_cancel(name: str) -> None:
        await ledger.create(task(name))
        await ledger.advance(name, cancel)

    work = asyncio.gather(*(create_and_cancel(f"t-{number}") for number in range(30)))
    found = await _ids(following, 0, 60)
    await work

    assert sorted(found) == sorted(f"t-{number}/{revision}" for number in range(30) for revision in (1, 2))


async def test_two_who_follow_both_get_all(ledger: Ledger) -> None:
    first, second = ledger.follow(), ledger.follow()
    await asyncio.gather(*(ledger.create(task(name)) for name in "abcd"))

    assert await _ids(first, 0, 4) == await _ids(second, 0, 4) == ["a/1", "b/1", "c/1", "d/1"]


async def test_what_could_not_be_read_is_read_the_next_time() -> None:
    away, reads = True, 0

    async def read(_after: int, _limit: int) -> Sequence[Event]:
        nonlocal reads
        reads += 1
        if away:
            raise LedgerUnavailable("locked")
        return [Event(position=1, task=task("a"))]

    following = Following(read)
    with pytest.raises(LedgerUnavailable):
        await following.after(0, 10)
    away = False
    events, behind = await following.after(0, 10)

    assert [event.task.id for event in events] == ["a"]
    assert not behind
    assert reads == 2


async def test_kept_events_need_no_read_and_those_behind_a_gap_wait_for_one() -> None:
    log = [Event(position=number, task=task(f"t-{number}")) for number in range(1, 6)]
    asked: list[int] = []

    async def read(after: int, limit: int) -> Sequence[Event]:
        asked.append(after)
        return log[after : after + limit]

    following = Following(read)
    assert (await following.after(5, 10))[0] == []
    asked.clear()
    following.note(log[:2])
    # Somebody else's is between.
    following.note(log[3:])
    following.miss()

    events, behind = await following.after(0, 10)
    assert (events, behind, asked) == (log[:2], True, [])
    events, behind = await following.after(2, 10)
    assert (events, behind, asked) == (log[2:], False, [2])


async def test_more_than_is_kept_is_read(ledger: Ledger) -> None:
    following = ledger.follow()
    names = [f"t-{number}" for number in range(1_200)]
    await asyncio.gather(*(ledger.create(task(name)) for name in names))

    found: list[str] = []
    position, behind = 0, True
    while behind or not found:
        events, behind = await following.after(position, 500)
        position += len(events)
        found += [event.task.id for event in events]
    assert found == names
