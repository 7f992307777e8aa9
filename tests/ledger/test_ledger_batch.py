"""Many creates in one transaction."""

from __future__ import annotations

import asyncio

import pytest

from kling_flows.errors import RequestIdReused, VideoTaskExists
from kling_flows.ledger import Creation, CreationRefused, Ledger, VideoTask

from .make import task


async def test_each_is_created_that_can_be(ledger: Ledger) -> None:
    await ledger.create(task("taken"))
    results = await ledger.create_each(
        [
            Creation(task("a", labels={"k": "v"}), "r", "one"),
            Creation(task("taken")),
            Creation(task("b"), "r", "two"),
            Creation(task("c"), "r", "one"),
            Creation(task("d")),
        ]
    )

    assert [result.id if isinstance(result, VideoTask) else type(result) for result in results] == [
        "a",
        VideoTaskExists,
        RequestIdReused,
        "a",
        "d",
    ]
    assert [event.task.id for event in await ledger.read_events(0, 10)] == ["taken", "a", "d"]


async def test_all_are_created_or_none_and_neighbours_are_left_alone(ledger: Ledger) -> None:
    await ledger.create(task("taken"))
    bad = [Creation(task("a", labels={"k": "v"}), "r", "one"), Creation(task("b")), Creation(task("taken"))]
    results = await asyncio.gather(
        ledger.create(task("before")),
        ledger.create_all(bad),
        ledger.create(task("after")),
        ledger.create_all(bad[:2]),
        return_exceptions=True,
    )

    assert isinstance(results[1], CreationRefused)
    assert (results[1].number, type(results[1].error)) == (2, VideoTaskExists)
    assert [event.task.id for event in await ledger.read_events(0, 10)] == ["taken", "before", "after", "a", "b"]
    assert [found.id for _, found in await ledger.list_tasks(tenant="default", label_values=[("k", "v")])] == ["a"]


async def test_a_batch_is_one_commit(ledger: Ledger) -> None:
    signal = ledger.changes()
    await ledger.create_all([Creation(task(f"t-{n}")) for n in range(300)])
    assert await signal.wait(5)

    assert await ledger.head() == 300
    assert await ledger.create_all([]) == []
    with pytest.raises(CreationRefused):
        await ledger.create_all([Creation(task("t-1"))])
