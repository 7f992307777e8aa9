from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import grpc
import pytest

from kling_flows.cli.client import Patience, Seen, VideoTaskClient
from kling_flows.cli.status import details_of
from kling_flows.errors import ResumeTokenExpired, ServerUnavailable, VideoTaskExists, VideoTaskNotFound
from kling_flows.v1.video_task_service_pb2 import CreateVideoTaskRequest

from .front import NAME, Front, message, refuses, refuses_plainly, returns, serve, streams, task, unavailable

CREATE = CreateVideoTaskRequest(request_id="r-1")
SHORT = Patience(unreachable=1.5, unavailable=1.0, lost=2.0)


async def collect(client: VideoTaskClient, **rest: Any) -> list[Seen]:
    async with aclosing(client.watch([NAME], until_final=True, **rest)) as watch:
        return [seen async for seen in watch]


def revisions(seen: list[Seen]) -> list[int]:
    return [item.task.revision for item in seen]


async def test_create_is_repeated_with_the_same_request_id(front: Front) -> None:
    front.answers = [unavailable(0.01), unavailable(0.01), returns(task())]
    async with VideoTaskClient(front.address) as client:
        created = await client.create(CREATE)
    assert created.name == NAME
    assert [request.request_id for request in front.requests] == ["r-1"] * 3


async def test_a_repetition_waits_as_long_as_the_server_asks(front: Front) -> None:
    front.answers = [unavailable(0.6), returns(task())]
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with VideoTaskClient(front.address) as client:
        await client.create(CREATE)
    assert loop.time() - began >= 0.6


async def test_a_server_that_asks_for_more_than_our_patience_ends_it_at_once(front: Front) -> None:
    front.answers = [unavailable(3600)]
    async with VideoTaskClient(front.address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.create(CREATE)
    assert details_of(caught.value).retry_after == 3600
    assert len(front.requests) == 1


async def test_other_errors_are_not_repeated(front: Front) -> None:
    front.answers = [refuses(VideoTaskExists("taken"))]
    async with VideoTaskClient(front.address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.create(CREATE)
    assert details_of(caught.value).reason == "VIDEO_TASK_EXISTS"
    assert len(front.requests) == 1


async def test_a_create_without_a_request_id_is_never_sent(front: Front) -> None:
    async with VideoTaskClient(front.address) as client:
        with pytest.raises(ValueError, match="request_id"):
            await client.create(CreateVideoTaskRequest())
    assert front.requests == []


async def test_a_server_that_is_not_there_is_given_up_soon() -> None:
    notices: list[str] = []
    async with VideoTaskClient("127.0.0.1:1", patience=SHORT, notice=notices.append) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.get(NAME)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert notices == ["127.0.0.1:1 does not answer; trying again"]


async def test_a_watch_ends_when_all_are_final(front: Front) -> None:
    front.streams = [
        streams(
            message(task(revision=1), token="a"),
            message(token="b", synced=True),
            message(task("SUBMITTED", 2), task("SUCCEEDED", 3), token="c"),
        )
    ]
    async with VideoTaskClient(front.address) as client:
        seen = await collect(client)
    assert revisions(seen) == [1, 2, 3]
    assert [item.live for item in seen] == [False, True, True]
    [request] = front.watches
    assert list(request.names) == [NAME]
    assert request.until_final
    assert request.heartbeat_interval.seconds == 15


@pytest.mark.parametrize(
    "end",
    [
        refuses(ServerUnavailable("draining")),
        refuses_plainly(grpc.StatusCode.INTERNAL),
        refuses_plainly(grpc.StatusCode.UNKNOWN),
        refuses_plainly(grpc.StatusCode.CANCELLED),
        refuses_plainly(grpc.StatusCode.DEADLINE_EXCEEDED),
        None,
    ],
    ids=["draining", "internal", "unknown", "cancelled", "deadline", "end without a word"],
)
async def test_a_watch_goes_on_where_it_was_cut(front: Front, end: Any) -> None:
    front.streams = [
        streams(message(task(revision=1), token="a"), message(token="b", synced=True), then=end),
        streams(message(token="b", synced=True), message(task("SUCCEEDED", 2), token="c")),
    ]
    async with VideoTaskClient(front.address) as client:
        seen = await collect(client)
    assert revisions(seen) == [1, 2]
    assert [request.resume_token for request in front.watches] == ["", "b"]
    assert seen[1].live


async def test_a_watch_survives_a_restart_of_the_server() -> None:
    front = Front()
    notices: list[str] = []
    seen: list[Seen] = []
    front.streams = [
        streams(message(task(revision=1), token="a", synced=True), hang=True),
        streams(message(task("SUCCEEDED", 2), token="b", synced=True)),
    ]
    async with VideoTaskClient("127.0.0.1:0", notice=notices.append):
        pass
    async with serve(front):
        address = front.address
        client = VideoTaskClient(address, notice=notices.append)
        first = asyncio.Event()

        async def watch() -> None:
            async with client, aclosing(client.watch([NAME], until_final=True)) as watching:
                async for item in watching:
                    seen.append(item)
                    first.set()

        watcher = asyncio.create_task(watch())
        await first.wait()
    await asyncio.sleep(1)
    async with serve(front, address):
        await watcher
    assert revisions(seen) == [1, 2]
    assert notices == [f"{address} does not answer; trying again", f"{address} is back"]


async def test_a_lost_position_starts_over_and_drops_what_was_seen(front: Front) -> None:
    front.streams = [
        streams(message(task(revision=4), token="old", synced=True), then=refuses(ServerUnavailable("draining"))),
        streams(then=refuses(ResumeTokenExpired("too old"))),
        streams(message(task(revision=4), token="new"), message(task("SUCCEEDED", 6), token="newer", synced=True)),
    ]
    async with VideoTaskClient(front.address) as client:
        seen = await collect(client)
    assert revisions(seen) == [4, 6]
    assert [request.resume_token for request in front.watches] == ["", "old", ""]


async def test_an_early_end_with_ok_is_a_disconnect(front: Front) -> None:
    front.streams = [streams(message(task(revision=1), token="a", synced=True)), streams(message(task("FAILED", 2)))]
    async with VideoTaskClient(front.address) as client:
        assert revisions(await collect(client)) == [1, 2]


async def test_a_watch_of_what_does_not_exist_is_an_error(front: Front) -> None:
    front.streams = [streams(then=refuses(VideoTaskNotFound("no such task")))]
    async with VideoTaskClient(front.address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await collect(client)
    assert details_of(caught.value).reason == "VIDEO_TASK_NOT_FOUND"


async def test_patience_with_a_watch_has_an_end(front: Front) -> None:
    front.streams = [
        streams(message(task(), token="a", synced=True), then=refuses_plainly(grpc.StatusCode.INTERNAL)),
        streams(then=refuses_plainly(grpc.StatusCode.INTERNAL)),
    ]
    async with VideoTaskClient(front.address, patience=SHORT) as client:
        with pytest.raises(grpc.aio.AioRpcError):
            await collect(client)
    assert len(front.watches) > 3


async def test_a_stream_that_only_ends_is_given_up(front: Front) -> None:
    front.streams = [streams()]
    async with VideoTaskClient(front.address, patience=SHORT) as client:
        with pytest.raises(ServerUnavailable):
            await collect(client)


async def test_silence_is_a_disconnect(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kling_flows.cli.client._SILENCE_SECONDS", 0.3)
    front.streams = [
        streams(message(task(), token="a", synced=True), hang=True),
        streams(message(task("SUCCEEDED", 2), token="b", synced=True)),
    ]
    async with VideoTaskClient(front.address) as client:
        assert revisions(await collect(client)) == [1, 2]
    assert [request.resume_token for request in front.watches] == ["", "a"]


async def test_leaving_a_watch_cancels_the_stream(front: Front) -> None:
    front.streams = [streams(message(task(), token="a", synced=True), hang=True)]
    async with VideoTaskClient(front.address) as client:
        async with aclosing(client.watch()) as watch:
            async for _ in watch:
                break
        async with asyncio.timeout(5):
            while front.open_streams:
                await asyncio.sleep(0.01)
