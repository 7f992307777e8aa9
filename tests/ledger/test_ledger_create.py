from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import update

from kling_flows.errors import RequestIdReused, VideoTaskExists, VideoTaskNotFound
from kling_flows.ledger import Ledger, State, place_of
from kling_flows.ledger.operations import REQUEST_ID_SECONDS
from kling_flows.ledger.schema import video_tasks

from .conftest import OpenLedger
from .make import task, to


async def _make_older(ledger: Ledger, task_id: str, seconds: float) -> None:
    earlier = update(video_tasks).where(video_tasks.c.id == task_id)
    earlier = earlier.values(create_time=video_tasks.c.create_time - seconds)
    await ledger._write(lambda c: c.execute(earlier).rowcount)


async def test_a_created_task_can_be_read_at_once(ledger: Ledger, open_ledger: OpenLedger) -> None:
    created = await ledger.create(task("t", labels={"a": "b"}))
    assert await ledger.get("t") == created
    assert await (await open_ledger()).get("t") == created


async def test_the_same_request_id_and_body_is_the_same_task(ledger: Ledger) -> None:
    first = await ledger.create(task("t-1"), request_id="r", request_digest="same")
    assert await ledger.create(task("t-2"), request_id="r", request_digest="same") == first
    assert await ledger.head() == 1


async def test_a_repeated_request_shows_how_far_the_task_has_come(ledger: Ledger) -> None:
    await ledger.create(task("t-1"), request_id="r", request_digest="same")
    now = await ledger.advance("t-1", to(State.CANCELLED))
    assert await ledger.create(task("t-2"), request_id="r", request_digest="same") == now


async def test_the_same_request_id_with_another_body_is_refused(ledger: Ledger) -> None:
    await ledger.create(task("t-1"), request_id="r", request_digest="one")
    with pytest.raises(RequestIdReused) as caught:
        await ledger.create(task("t-2"), request_id="r", request_digest="another")
    assert caught.value.metadata == {
        "request_id": "r",
        "video_task": "t-1",
        "fields": "video_task.text_to_video.prompt, video_task_id",
    }
    with pytest.raises(VideoTaskNotFound):
        await ledger.get("t-2")


async def test_concurrent_repetitions_create_one_task(ledger: Ledger, open_ledger: OpenLedger) -> None:
    ledgers = (ledger, await open_ledger())
    created = await asyncio.gather(
        *(ledgers[n % 2].create(task(f"t-{n}"), request_id="r", request_digest="same") for n in range(40))
    )
    assert len({made.id for made in created}) == 1
    assert await ledger.head() == 1


async def test_a_request_id_of_yesterday_makes_a_new_task(ledger: Ledger) -> None:
    await ledger.create(task("t-1"), request_id="r", request_digest="one")
    await _make_older(ledger, "t-1", REQUEST_ID_SECONDS - 60)
    with pytest.raises(RequestIdReused):
        await ledger.create(task("t-2"), request_id="r", request_digest="another")
    await _make_older(ledger, "t-1", 120)
    assert (await ledger.create(task("t-2"), request_id="r", request_digest="another")).id == "t-2"
    assert (await ledger.create(task("t-3"), request_id="r", request_digest="another")).id == "t-2"
    assert (await ledger.get("t-1")).id == "t-1"


async def test_request_ids_of_two_tenants_have_nothing_to_do_with_each_other(ledger: Ledger) -> None:
    await ledger.create(task("t-1", tenant="a"), request_id="r", request_digest="one")
    assert (await ledger.create(task("t-2", tenant="b"), request_id="r", request_digest="two")).id == "t-2"


async def test_an_id_that_is_taken_is_refused(ledger: Ledger) -> None:
    await ledger.create(task("t"))
    with pytest.raises(VideoTaskExists):
        await ledger.create(task("t"))
    assert await ledger.head() == 1


async def test_create_or_get_gives_the_task_that_is_there(ledger: Ledger) -> None:
    first = await ledger.create_or_get(task("t"), "digest")
    assert await ledger.create_or_get(task("t", labels={"x": "y"}), "digest") == first


async def test_a_tenant_sees_its_own_tasks_only(ledger: Ledger) -> None:
    for tenant in ("a", "b"):
        await ledger.create(task(f"of-{tenant}", tenant=tenant, labels={"shared": "yes"}))
    assert (await ledger.get("of-a", tenant="a")).tenant == "a"
    with pytest.raises(VideoTaskNotFound) as hidden:
        await ledger.get("of-b", tenant="a")
    with pytest.raises(VideoTaskNotFound) as absent:
        await ledger.get("of-c", tenant="a")
    assert hidden.value.message == absent.value.message.replace("of-c", "of-b")
    for filters in ({}, {"ids": ["of-a", "of-b"]}, {"label_values": [("shared", "yes")]}, {"states": [State.QUEUED]}):
        listed = await ledger.list_tasks(tenant="a", **filters)
        assert [found.id for _, found in listed] == ["of-a"]
    assert [found.id for found in await ledger.get_many(["of-a", "of-b"], tenant="b")] == ["of-b"]


async def test_nobody_asked_for_is_nobody_found(ledger: Ledger) -> None:
    await ledger.create(task("t"))
    assert await ledger.get_many([], tenant="default") == []


async def test_a_list_is_filtered_and_paged_newest_first(ledger: Ledger) -> None:
    for n in range(6):
        await ledger.create(task(f"t-{n}", labels={"half": "low" if n < 3 else "high", "all": "yes"}))
    await ledger.advance("t-4", to(State.CANCELLED))

    async def names(**filters: object) -> list[str]:
        return [found.id for _, found in await ledger.list_tasks(tenant="default", **filters)]  # type: ignore[arg-type]

    assert await names() == ["t-5", "t-4", "t-3", "t-2", "t-1", "t-0"]
    assert await names(states=[State.CANCELLED]) == ["t-4"]
    assert await names(label_values=[("half", "high"), ("all", "yes")]) == ["t-5", "t-4", "t-3"]
    assert await names(label_values=[("half", "high")], states=[State.QUEUED]) == ["t-5", "t-3"]
    assert await names(label_values=[("half", "none")]) == []
    first = await ledger.list_tasks(tenant="default", limit=4)
    rest = await ledger.list_tasks(tenant="default", limit=4, beyond=place_of(*first[-1]))
    assert [found.id for _, found in first + rest] == await names()


async def test_what_waits_is_counted(ledger: Ledger) -> None:
    for n in range(3):
        await ledger.create(task(f"t-{n}"))
    await ledger.advance("t-1", to(State.SUBMITTING))
    assert await ledger.count_waiting() == 2
