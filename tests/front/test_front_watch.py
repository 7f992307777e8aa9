"""WatchVideoTasks: what a stream shows, in which order, and how it ends."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import pairwise

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from grpc_server.hub import WAKE_SIZE, Hub, Subscription
from grpc_server.watch_plan import parse_watch
from kling_flows.ledger import State
from kling_flows.v1 import text_to_video_pb2 as spec_pb
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1 import video_task_service_pb2 as rpc

from .rig import PATIENCE, Rig, Served, new_record, refused, sights


async def test_a_watch_shows_what_is_there_then_says_so_then_every_event(served: Served) -> None:
    first, second = [(await served.create()).name for _ in range(2)]
    await served.touch(first)
    stream = served.watch()
    snapshot = await served.watch().next()
    shown = await stream.until_synced()
    third = (await served.create()).name
    live = await stream.take(1)
    await served.move(first, State.SUBMITTING)
    await served.cancel(second)
    live += await stream.take(2)

    assert not snapshot.synced
    assert sights(shown) == [(second, 1), (first, 2)]
    assert sights(live) == [(third, 1), (first, 3), (second, 2)]
    assert shown[0].text_to_video.prompt == "a cat"


async def test_an_empty_ledger_is_synced_at_once(served: Served) -> None:
    assert await served.watch().until_synced() == []


async def test_a_large_snapshot_comes_in_batches(served: Served) -> None:
    for number in range(250):
        await served.ledger.create(new_record(f"v{number}"))
    stream = served.watch(view=pb.BASIC)
    messages = [await stream.next() for _ in range(4)]

    assert [len(message.video_tasks) for message in messages] == [100, 100, 50, 0]
    assert [message.synced for message in messages] == [False, False, False, True]
    assert len({task.name for message in messages for task in message.video_tasks}) == 250


async def test_messages_stay_small_enough_for_every_client(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpc_server.watch.MESSAGE_BYTES", 10_000)
    before = await served.list()
    for _ in range(3):
        await served.create("猫" * 2_000)
    for stream in (served.watch(), served.watch(resume_token=before.resume_token)):
        messages = [await stream.next() for _ in range(4)]
        assert [len(message.video_tasks) for message in messages] == [1, 1, 1, 0]
        # Each message's own token is right, too.
        rest = await served.watch(resume_token=messages[0].resume_token).until_synced()
        assert len(rest) == 2


async def test_the_basic_view_is_the_same_stream_without_specs(served: Served) -> None:
    await served.create()
    full, basic = served.watch(view=pb.FULL), served.watch(view=pb.BASIC)
    shown = [(await full.until_synced())[0], (await basic.until_synced())[0]]
    await served.create()
    live = [(await full.take(1))[0], (await basic.take(1))[0]]

    for whole, part in (shown, live):
        assert part.WhichOneof("spec") is None
        whole.ClearField("text_to_video")
        assert whole == part


async def test_watched_names_are_shown_and_followed_and_nothing_else(served: Served) -> None:
    names = [(await served.create()).name for _ in range(5)]
    stream = served.watch(names=[names[1], names[3], names[1]])
    shown = await stream.until_synced()
    for name in names:
        await served.touch(name)
    live = await stream.take(2)

    assert sights(shown) == [(names[3], 1), (names[1], 1)]
    assert sights(live) == [(names[1], 2), (names[3], 2)]


async def test_a_watcher_of_names_is_not_woken_by_other_tasks_and_still_misses_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpc_server.hub.RING_SIZE", 8)
    monkeypatch.setattr("grpc_server.hub._TRIM", 4)
    mine = (await served.create()).name
    stream = served.watch(names=[mine])
    await stream.until_synced()
    everything = served.watch()
    await everything.until_synced()
    for number in range(100):
        await served.ledger.create(new_record(f"v{number}"))
    await everything.take(100)
    await served.touch(mine)

    assert sights(await stream.take(1)) == [(mine, 2)]


async def test_names_that_do_not_exist_are_not_found_whatever_else_is_watched(rig: Rig) -> None:
    served = await rig.serve()
    name = (await served.create()).name
    await served.ledger.create(new_record("theirs", tenant="other"))
    for token in ("", (await served.list()).resume_token):
        refusal = await refused(served.watch(names=[name, "videoTasks/theirs"], resume_token=token).next())
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "VIDEO_TASK_NOT_FOUND")
        assert refusal.info.metadata["video_task"] == "theirs"


async def test_a_bad_watch_is_refused_with_every_field(served: Served) -> None:
    both = {"names": ["videoTasks/a"], "filter": "state = QUEUED"}
    cases: list[tuple[dict[str, object], list[str]]] = [
        (both, ["filter"]),
        ({"filter": "state = X"}, ["filter"]),
        ({"names": [f"videoTasks/v{number}" for number in range(1_001)]}, ["names"]),
        ({"names": ["videoTasks/a", "b"]}, ["names[1]"]),
        ({"until_final": True}, ["until_final"]),
        ({"heartbeat": 0.0}, ["heartbeat_interval"]),
        ({"heartbeat": 0.999}, ["heartbeat_interval"]),
        ({"heartbeat": 300.001}, ["heartbeat_interval"]),
        ({**both, "names": ["a"], "heartbeat": 0.5, "view": 9}, ["filter", "heartbeat_interval", "names[0]", "view"]),
    ]
    for fields, violated in cases:
        refusal = await refused(served.watch(**fields).next())
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert sorted(refusal.fields) == violated


async def test_silence_ends_with_a_heartbeat_whose_token_is_the_newest_even_if_nothing_matched(served: Served) -> None:
    mine = (await served.create()).name
    streams = [
        served.watch(heartbeat=1, names=[mine]),
        served.watch(heartbeat=1, filter="labels.team = nobody"),
        served.watch(heartbeat=1, filter="state = QUEUED AND state = FAILED"),
    ]
    for stream in streams:
        await stream.until_synced()
    began = time.monotonic()
    await served.create()
    head = (await served.list()).resume_token
    for stream in streams:
        message = await stream.next()
        assert not message.video_tasks
        assert not message.synced
        assert message.resume_token == head
    assert time.monotonic() - began > 0.9


async def test_a_heartbeat_comes_also_while_there_is_nothing_but_silence_before(served: Served) -> None:
    stream = served.watch(heartbeat=1)
    await stream.until_synced()
    beats = [await stream.next() for _ in range(2)]

    assert all(not beat.video_tasks and beat.resume_token for beat in beats)


async def test_a_filtered_watch_shows_a_task_while_it_matches_and_once_more_when_it_stops(served: Served) -> None:
    stream = served.watch(filter="state = SUBMITTING")
    await stream.until_synced()
    name = (await served.create()).name
    other = (await served.create()).name
    await served.move(name, State.SUBMITTING)
    await served.touch(name)
    await served.move(name, State.SUBMITTED)
    await served.move(name, State.PROCESSING)
    await served.move(other, State.FAILED)
    await served.move((await served.create()).name, State.SUBMITTING)
    seen = await stream.take(4)

    assert sights(seen[:3]) == [(name, 2), (name, 3), (name, 4)]
    assert seen[2].state == pb.VideoTask.SUBMITTED
    assert seen[3].revision == 2


async def test_leaving_a_filter_is_shown_also_by_a_front_that_never_saw_the_task_match(rig: Rig) -> None:
    first = await rig.serve()
    name = (await first.create()).name
    await first.move(name, State.SUBMITTING)
    stream = first.watch(filter="state = SUBMITTING")
    await stream.until_synced()
    await first.move(name, State.SUBMITTED)
    await first.move(name, State.PROCESSING)
    second = await rig.serve()
    seen = await second.watch(filter="state = SUBMITTING", resume_token=stream.token).until_synced()

    assert sights(seen) == [(name, 3)]


async def test_leaving_a_filter_is_shown_when_the_state_before_is_in_the_ledger_only(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpc_server.hub.RING_SIZE", 4)
    monkeypatch.setattr("grpc_server.hub._TRIM", 2)
    name = (await served.create()).name
    stream = served.watch(filter="state = QUEUED")
    shown = await stream.until_synced()
    token = stream.token
    await served.move(name, State.SUBMITTING)
    for number in range(20):
        await served.ledger.create(new_record(f"v{number}"))
    everything = served.watch()
    await everything.until_synced()
    resumed = await served.watch(filter="state = QUEUED", resume_token=token).until_synced()

    assert sights(shown) == [(name, 1)]
    assert sights(resumed)[0] == (name, 2)
    assert len(resumed) == 21


async def test_labels_select_all_events_of_a_task(served: Served) -> None:
    stream = served.watch(filter='labels.team = "ads"')
    await stream.until_synced()
    await served.create(labels={"team": "art"})
    name = (await served.create(labels={"team": "ads"})).name
    await served.move(name, State.SUBMITTING)
    await served.cancel(name)

    assert sights(await stream.take(3)) == [(name, 1), (name, 2), (name, 3)]


async def test_models_and_create_times_select_all_events_of_a_task(served: Served) -> None:
    early = (await served.create(spec=spec_pb.TextToVideo(prompt="x", model_name="kling-v2-6"))).name
    since = datetime.now(UTC).isoformat()
    stream = served.watch(filter=f'model_name = "kling-v2-6" AND create_time >= "{since}"')
    assert await stream.until_synced() == []
    await served.create()
    name = (await served.create(spec=spec_pb.TextToVideo(prompt="y", model_name="kling-v2-6"))).name
    await served.touch(early)
    await served.move(name, State.SUBMITTING)
    await served.cancel(name)

    assert sights(await stream.take(3)) == [(name, 1), (name, 2), (name, 3)]


async def test_a_watch_of_end_times_shows_tasks_from_their_end_on_and_never_one_that_leaves(served: Served) -> None:
    old = await served.cancel((await served.create()).name)
    stream = served.watch(filter=f'end_time > "{old.end_time.ToJsonString()}"')
    both = served.watch(filter='state = QUEUED AND end_time > "2020-01-01T00:00:00Z"')
    assert await stream.until_synced() == []
    assert await both.until_synced() == []
    name = (await served.create()).name
    await served.move(name, State.SUBMITTING)
    await served.move(name, State.FAILED)
    await served.touch(name)

    assert sights(await stream.take(2)) == [(name, 3), (name, 4)]
    both.cancel()
    assert await served.watch(filter="state = QUEUED AND end_time > 2020-01-01T00:00:00Z").until_synced() == []


async def test_heartbeats_come_every_thirty_seconds_unless_asked_for_from_one_to_three_hundred() -> None:
    def heartbeat(seconds: int) -> float:
        request = rpc.WatchVideoTasksRequest(heartbeat_interval=Duration(seconds=seconds))
        return parse_watch(request, "default").heartbeat

    assert parse_watch(rpc.WatchVideoTasksRequest(), "default").heartbeat == 30
    assert [heartbeat(seconds) for seconds in (1, 300)] == [1, 300]


async def test_until_final_ends_after_the_last_final_task(served: Served) -> None:
    names = [(await served.create()).name for _ in range(2)]
    stream = served.watch(names=names, until_final=True)
    await stream.until_synced()
    await served.cancel(names[0])
    await stream.take(1)
    await served.move(names[1], State.SUBMITTING)
    await served.move(names[1], State.FAILED)

    assert sights(await stream.take(2)) == [(names[1], 2), (names[1], 3)]
    assert await stream.ended()
    assert await stream.call.code() is grpc.StatusCode.OK


async def test_until_final_ends_after_a_snapshot_in_which_all_are_final(served: Served) -> None:
    name = (await served.create()).name
    await served.cancel(name)
    stream = served.watch(names=[name], until_final=True)

    assert sights(await stream.until_synced()) == [(name, 2)]
    assert await stream.ended()


async def test_until_final_ends_after_a_replay_in_which_the_last_became_final(served: Served) -> None:
    names = [(await served.create()).name for _ in range(2)]
    await served.cancel(names[0])
    stream = served.watch(names=names)
    await stream.until_synced()
    await served.cancel(names[1])
    resumed = served.watch(names=names, resume_token=stream.token, until_final=True)

    assert sights(await resumed.until_synced()) == [(names[1], 2)]
    assert await resumed.ended()


async def test_until_final_ends_at_once_if_all_was_seen_before_the_token(served: Served) -> None:
    name = (await served.create()).name
    await served.cancel(name)
    token = (await served.list()).resume_token
    stream = served.watch(names=[name], resume_token=token, until_final=True)

    assert await stream.until_synced() == []
    assert await stream.ended()


async def test_another_tenants_events_are_never_seen(rig: Rig) -> None:
    ours = await rig.serve()
    theirs = await rig.serve(tenant="other")
    stream = ours.watch()
    await stream.until_synced()
    await theirs.create()
    name = (await ours.create()).name
    live = await stream.take(1)

    assert sights(live) == [(name, 1)]
    assert sights(await ours.watch().until_synced()) == [(name, 1)]
    assert len(await theirs.watch().until_synced()) == 1


async def test_two_fronts_on_one_ledger_see_each_others_events_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the signal of a commit is left that could wake them.
    monkeypatch.setattr("grpc_server.hub._LOOK_SECONDS", 1_000.0)
    one, two = await rig.serve(), await rig.serve()
    streams = [one.watch(), two.watch()]
    for stream in streams:
        await stream.until_synced()
    names = [(await one.create()).name, (await two.create()).name]
    for stream in streams:
        assert sights(await stream.take(2)) == [(name, 1) for name in names]


async def test_a_reader_that_does_not_read_costs_nothing_and_gets_everything_later(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpc_server.hub.RING_SIZE", 32)
    monkeypatch.setattr("grpc_server.hub._TRIM", 8)
    slow, quick = served.watch(), served.watch()
    await slow.until_synced()
    await quick.until_synced()
    for number in range(0, 400, 20):
        await asyncio.gather(*(served.create("x" * 2_000, video_task_id=f"v{number + n}") for n in range(20)))
    at_once = sights(await quick.take(400))
    later = sights(await slow.take(400))

    assert len(set(at_once)) == 400
    assert later == at_once


async def test_a_caller_that_goes_away_leaves_nothing_behind(served: Served) -> None:
    name = (await served.create()).name
    hub = served.front._hub
    streams = [served.watch(), served.watch(names=[name])]
    for stream in streams:
        await stream.until_synced()
    assert (len(hub._for_all), len(hub._by_task)) == (1, 1)
    for stream in streams:
        stream.cancel()
    async with asyncio.timeout(5):
        while hub._for_all or hub._by_task:
            await asyncio.sleep(0.01)


async def test_many_watchers_are_woken_a_few_at_a_time_so_that_calls_get_their_turn(rig: Rig) -> None:
    ledger = await rig.open_ledger()
    hub = Hub(ledger)
    await hub.start()
    woken = 0

    async def follow(subscription: Subscription) -> None:
        nonlocal woken
        await subscription.wait(PATIENCE)
        woken += 1

    with ExitStack() as stack:
        count = 5 * WAKE_SIZE
        subscriptions = [stack.enter_context(hub.subscribe("default", ["v"])) for _ in range(count)]
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            for subscription in subscriptions:
                group.create_task(follow(subscription))
            await ledger.create(new_record("v"))
            turns = [0]
            while woken < count:
                await asyncio.sleep(0)
                turns.append(woken)
    await hub.close()
    assert max(after - before for before, after in pairwise(turns)) <= 2 * WAKE_SIZE
