"""GenerateVideo: a create and its watch in one stream."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from kling_flows.errors import LedgerUnavailable
from kling_flows.ledger import State
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1 import video_task_service_pb2 as rpc

from .rig import Rig, Served, Stream, create_request, refused, sights


def generate(served: Served, prompt: str = "a cat", *, view: int = 0, heartbeat: int = 30, **fields: Any) -> Stream:
    request = rpc.GenerateVideoRequest(
        create=create_request(prompt, **fields),
        view=pb.VideoTaskView.ValueType(view),
        heartbeat_interval=Duration(seconds=heartbeat),
    )
    return Stream(served.stub.GenerateVideo(request))


async def test_the_task_comes_first_then_every_event_then_the_end(served: Served) -> None:
    stream = generate(served, labels={"a": "b"})
    first = await stream.next()
    name = first.video_tasks[0].name
    assert await stream.until_synced() == []
    for state in (State.SUBMITTING, State.SUBMITTED, State.PROCESSING, State.ARCHIVING, State.SUCCEEDED):
        await served.move(name, state)
    tasks = await stream.take(5)

    assert sights(first.video_tasks) == [(name, 1)]
    assert first.video_tasks[0].state == pb.VideoTask.QUEUED
    assert first.video_tasks[0].text_to_video.prompt == "a cat"
    assert sights(tasks) == [(name, revision) for revision in range(2, 7)]
    assert tasks[-1].state == pb.VideoTask.SUCCEEDED
    assert await stream.ended()
    assert await stream.call.code() is grpc.StatusCode.OK


async def test_no_event_between_the_create_and_the_watch_is_missed(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runner is quicker than the watch: all of the task has happened before it begins."""
    create = served.ledger.create

    async def create_and_run(*args: Any, **kwargs: Any) -> Any:
        task = await create(*args, **kwargs)
        for state in (State.SUBMITTING, State.SUBMITTED, State.FAILED):
            await served.move(task.id, state)
        return task

    monkeypatch.setattr(served.ledger, "create", create_and_run)
    stream = generate(served)
    tasks = await stream.until_synced()

    assert [task.revision for task in tasks] == [1, 2, 3, 4]
    assert await stream.ended()


async def test_a_repeated_request_goes_on_with_the_task_as_it_is(served: Served) -> None:
    first = generate(served, request_id="r-1")
    name = (await first.until_synced())[0].name
    await served.move(name, State.SUBMITTING)
    first.cancel()
    again = generate(served, request_id="r-1")

    assert sights(await again.until_synced()) == [(name, 2)]
    await served.move(name, State.FAILED)
    assert sights(await again.take(1)) == [(name, 3)]
    assert await again.ended()
    late = generate(served, request_id="r-1")
    assert sights(await late.until_synced()) == [(name, 3)]
    assert await late.ended()


async def test_a_watch_goes_on_with_the_token_at_any_front(rig: Rig) -> None:
    one, two = await rig.serve(), await rig.serve()
    stream = generate(one)
    first = await stream.next()
    name = first.video_tasks[0].name
    await one.move(name, State.SUBMITTING)
    resumed = two.watch(names=[name], resume_token=first.resume_token, until_final=True)

    assert sights(await resumed.until_synced()) == [(name, 2)]


async def test_silence_ends_with_a_heartbeat_and_the_view_is_kept(served: Served) -> None:
    stream = generate(served, heartbeat=1, view=pb.BASIC)
    tasks = await stream.until_synced()
    beat = await stream.next()

    assert not tasks[0].HasField("text_to_video")
    assert not beat.video_tasks
    assert not beat.synced


async def test_a_bad_request_is_refused_with_the_fields_as_they_are_in_it(served: Served) -> None:
    both = await refused(generate(served, heartbeat=301, view=9, validate_only=True).next())
    inner = await refused(generate(served, "x" * 5_000).next())

    assert sorted(both.fields) == ["create.validate_only", "heartbeat_interval", "view"]
    assert inner.fields == ["create.video_task.text_to_video.prompt"]
    assert await served.ledger.head() == 0


async def test_a_draining_front_creates_nothing_and_one_that_begins_to_drain_says_how_to_go_on(rig: Rig) -> None:
    one, two = await rig.serve(), await rig.serve()
    stream = generate(one)
    name = (await stream.until_synced())[0].name
    await one.front.begin_drain()
    refusal = await refused(stream.next())
    await two.move(name, State.FAILED)
    token = refusal.info.metadata["resume_token"]
    resumed = two.watch(names=[f"videoTasks/{refusal.info.metadata['video_task']}"], resume_token=token)

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_UNAVAILABLE")
    assert sights(await resumed.until_synced()) == [(name, 2)]
    assert (await refused(generate(one).next())).reason == "SERVER_UNAVAILABLE"
    assert len((await two.list()).video_tasks) == 1


async def test_a_stream_that_breaks_before_its_first_message_names_the_task(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> Any:
        raise LedgerUnavailable("locked")

    monkeypatch.setattr(served.ledger, "list_tasks", away)
    refusal = await refused(generate(served, video_task_id="v-1").next())

    assert refusal.reason == "LEDGER_UNAVAILABLE"
    assert refusal.info.metadata["video_task"] == "v-1"
    assert (await served.get("videoTasks/v-1")).revision == 1
