"""Videos in ranges, and events that go on where they stopped."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from grpc_server.console.streams import parse_range
from kling_flows.archive.reading import BLOCK_BYTES
from kling_flows.ledger import State
from tests.front.rig import PATIENCE, Rig, eventually, new_record

from .conftest import Console, consoled

FILM = random.Random(2).randbytes(BLOCK_BYTES + 50_000)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", (0, 100, False)),
        ("bytes=0-", (0, 100, True)),
        ("bytes=10-19", (10, 20, True)),
        ("bytes=90-1000", (90, 100, True)),
        ("bytes=-30", (70, 100, True)),
        ("bytes=-1000", (0, 100, True)),
        ("bytes=99-99", (99, 100, True)),
        # What is malformed, or several ranges, may be answered with the whole file (RFC 9110, 14.2).
        ("bytes=20-10", (0, 100, False)),
        ("bytes=0-1,5-6", (0, 100, False)),
        ("bytes=-", (0, 100, False)),
        ("pages=1-2", (0, 100, False)),
    ],
)
def test_ranges_are_read(header: str, expected: tuple[int, int, bool]) -> None:
    assert parse_range(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=500-600", "bytes=-0"])
def test_ranges_behind_the_end_are_refused(header: str) -> None:
    with pytest.raises(ValueError, match="behind the end"):
        parse_range(header, 100)


async def test_a_whole_video_comes_with_what_a_player_needs(console: Console) -> None:
    await console.archived("v-1", FILM)
    answer = await console.get("/api/tasks/v-1/video")

    assert (answer.status_code, answer.content) == (200, FILM)
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["content-length"] == str(len(FILM))
    again = await console.get("/api/tasks/v-1/video", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_a_range_of_a_video_is_exactly_that(console: Console) -> None:
    await console.archived("v-1", FILM)
    end = len(FILM) - 1
    for first, last in ((0, 0), (5, BLOCK_BYTES + 7), (BLOCK_BYTES, end), (300_000, 300_001)):
        answer = await console.get("/api/tasks/v-1/video", headers={"range": f"bytes={first}-{last}"})

        assert answer.status_code == 206
        assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(FILM)}"
        assert answer.content == FILM[first : last + 1]


async def test_a_range_of_another_file_than_this_one_is_the_whole_file(console: Console) -> None:
    await console.archived("v-1", b"0123456789")
    answer = await console.get("/api/tasks/v-1/video", headers={"range": "bytes=2-3", "if-range": '"other"'})

    assert (answer.status_code, answer.content) == (200, b"0123456789")


async def test_a_range_behind_the_end_says_how_long_it_is(console: Console) -> None:
    await console.archived("v-1", b"0123456789")
    answer = await console.get("/api/tasks/v-1/video", headers={"range": "bytes=10-"})

    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */10")


async def test_only_the_head_is_sent_if_only_that_is_asked_for(console: Console) -> None:
    await console.archived("v-1", FILM)
    answer = await console.http.head("/console/api/tasks/v-1/video")

    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, str(len(FILM)), b"")


async def test_a_download_has_a_name_and_what_is_no_video_is_never_shown(console: Console) -> None:
    await console.archived("v-1", b"<script>", media_type="text/html")
    await console.archived("v-2", b"film", media_type="video/mp4\r\nset-cookie: a=b")
    for name in ("v-1", "v-2"):
        answer = await console.get(f"/api/tasks/{name}/video", params={"download": "1"})

        assert answer.headers["content-disposition"] == f'attachment; filename="{name}.mp4"'
        assert answer.headers["content-type"] == "application/octet-stream"
        assert "set-cookie" not in answer.headers


async def test_what_is_not_there_is_a_clear_error(console: Console) -> None:
    await console.served.ledger.create(new_record("v-1"))
    for query, reason in (({}, "VIDEO_NOT_ARCHIVED"), ({"kind": "POEM"}, "INVALID_REQUEST")):
        answer = await console.get("/api/tasks/v-1/video", params=query)

        assert (answer.status_code, answer.json()["title"]) == (400, reason)


async def test_a_browser_that_leaves_ends_the_reading(console: Console) -> None:
    hub = console.served.front._hub
    async with console.events() as events:
        await anext(events)
        assert hub._for_all

    async def nobody_watches() -> bool:
        return not hub._for_all

    await eventually(nobody_watches)


async def test_events_come_as_they_happen_and_go_on_from_the_last_id(console: Console) -> None:
    await console.served.ledger.create(new_record("v-1"))
    async with console.events() as events:
        snapshot = await anext(events)
        synced = await anext(events)
        await console.served.move("v-1", State.SUBMITTING)
        live = await asyncio.wait_for(anext(events), PATIENCE)
    # While nobody looks.
    await console.served.move("v-1", State.SUBMITTED)
    await console.served.move("v-1", State.PROCESSING)
    async with console.events(last=live.id, resume_token="a stale one of the address") as events:
        missed = await anext(events)

    assert snapshot.sights == [("v-1", "QUEUED")]
    assert synced.data["synced"]
    assert live.sights == [("v-1", "SUBMITTING")]
    assert missed.sights == [("v-1", "SUBMITTED"), ("v-1", "PROCESSING")]


async def test_events_go_on_at_the_next_server_without_a_gap(console: Console, rig: Rig, tmp_path: Path) -> None:
    await console.served.ledger.create(new_record("v-1"))
    async with console.events() as events:
        await anext(events)
        last = await anext(events)
        await console.served.front.begin_drain()
        # The stream ends; it does not break.
        assert [event async for event in events if event.data["video_tasks"]] == []
    await console.served.move("v-1", State.SUBMITTING)
    async with consoled(rig, tmp_path) as next_one, next_one.events(last=last.id) as events:
        missed = await anext(events)

    assert missed.sights == [("v-1", "SUBMITTING")]


async def test_a_server_that_drains_says_so(console: Console) -> None:
    await console.served.front.begin_drain()
    answer = await console.get("/api/events")

    assert (answer.status_code, answer.json()["title"]) == (503, "SERVER_UNAVAILABLE")


async def test_events_can_be_of_a_filter_and_of_words(console: Console) -> None:
    record = new_record("v-1", labels={"team": "ads"})
    boat = record.request.model_copy(update={"prompt": "A Boat"})
    await console.served.ledger.create(record.model_copy(update={"request": boat}))
    await console.served.ledger.create(new_record("v-2", labels={"team": "ads"}))
    await console.served.ledger.create(new_record("v-3"))
    async with console.events(filter="labels.team = ads", text="boat") as events:
        event = await anext(events)

    assert event.sights == [("v-1", "QUEUED")]


async def test_a_token_that_is_none_is_refused(console: Console) -> None:
    answer = await console.get("/api/events", params={"resume_token": "made-up"})

    assert (answer.status_code, answer.json()["title"]) == (400, "TOKEN_INVALID")
