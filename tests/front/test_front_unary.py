"""Get, List and Cancel."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc.error_details_pb2 import ErrorInfo

from grpc_server.service import method_handlers
from kling_flows.ledger import ArtifactRecord, ErrorRecord, FlowRunRecord, LateVideo, QuoteRecord, State, VideoTask
from kling_flows.v1 import text_to_video_pb2 as spec_pb
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1 import video_task_service_pb2 as rpc

from .rig import Rig, Served, new_record, refused, upstream_record


async def test_everything_that_the_ledger_knows_of_a_task_is_shown(served: Served) -> None:
    name = (await served.create(video_task_id="v-1")).name

    def change(task: VideoTask) -> VideoTask:
        return task.model_copy(
            update={
                "state": State.FAILED,
                "upstream": upstream_record(task),
                "typical_seconds": 61.5,
                "quote": QuoteRecord(units="2.5", usd="0.35", uncertain=("sound",)),
                "deadline": datetime(2030, 1, 1, tzinfo=UTC),
                "on_deadline": LateVideo.DISCARD,
                "priority": 7,
                "video_pending": True,
                "flow_run": FlowRunRecord(id="f-1", name="text-to-video/v-1", url="http://x/f-1"),
                "error": ErrorRecord(
                    reason="UPSTREAM_POLICY", grpc_code="FAILED_PRECONDITION", message="no", metadata={"a": "b"}
                ),
                "artifacts": (
                    ArtifactRecord(
                        kind="WATERMARKED_VIDEO",
                        uri="file:///v-1.mp4",
                        manifest_uri="file:///v-1.json",
                        size_bytes=5_000_000_000,
                        sha256="ab" * 32,
                        media_type="video/mp4",
                        duration_seconds=5.1,
                    ),
                ),
            }
        )

    await served.ledger.advance("v-1", change)
    task = await served.get(name)

    assert (task.state, task.revision) == (pb.VideoTask.FAILED, 2)
    assert task.end_time == task.update_time
    assert task.upstream.external_task_id == "kf-v-1"
    assert task.upstream.submit_attempts == 2
    assert task.upstream.intent_time == task.create_time
    assert not task.upstream.HasField("end_time")
    assert task.cost.settled_units == "1.5"
    assert task.typical_duration.ToTimedelta().total_seconds() == 61.5
    assert task.flow_run == pb.FlowRun(id="f-1", name="text-to-video/v-1", url="http://x/f-1")
    artifact = task.artifacts[0]
    assert task.cost.quoted_units == "2.5"
    assert task.cost.quoted_usd == "0.35"
    assert list(task.cost.uncertainties) == ["sound"]
    assert task.deadline.ToDatetime(UTC) == datetime(2030, 1, 1, tzinfo=UTC)
    assert (task.on_deadline, task.priority, task.video_pending) == (pb.DISCARD, 7, True)
    assert (artifact.kind, artifact.size_bytes) == (pb.Artifact.WATERMARKED_VIDEO, 5_000_000_000)
    assert artifact.sha256 == b"\xab" * 32
    info = ErrorInfo()
    assert task.error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert task.error.details[0].Unpack(info)
    assert (info.domain, info.reason, dict(info.metadata)) == ("kling-flows", "UPSTREAM_POLICY", {"a": "b"})


@pytest.mark.parametrize("state", list(State))
async def test_every_state_of_the_ledger_has_its_value_on_the_wire(served: Served, state: State) -> None:
    record = new_record("v").model_copy(update={"state": state})
    await served.ledger.create(record)

    assert pb.VideoTask.State.Name((await served.get("videoTasks/v")).state) == state.value


async def test_the_basic_view_leaves_the_spec_out(served: Served) -> None:
    created = await served.create(labels={"a": "b"})
    basic = await served.get(created.name, view=pb.BASIC)
    listed = await served.list(view=pb.BASIC)

    assert basic.WhichOneof("spec") is None
    assert (basic.name, dict(basic.labels)) == (created.name, {"a": "b"})
    assert list(listed.video_tasks) == [basic]
    assert await served.get(created.name, view=pb.FULL) == created


BAD_NAMES = {
    "": "videoTasks/{video_task}",
    "v-1": "did you mean videoTasks/v-1?",
    "videotasks/v-1": "must be videoTasks/{video_task}",
    "videoTasks/": "begin with a letter",
    "videoTasks/V": "begin with a letter",
    "videoTasks/a/b": "'a/b'",
    "videoTasks/../x": "'../x'",
    "x" * 100_000: "must be videoTasks/{video_task}",
}


@pytest.mark.parametrize(("name", "help_"), BAD_NAMES.items(), ids=[name[:20] for name in BAD_NAMES])
async def test_a_malformed_name_is_refused_with_what_it_should_be(served: Served, name: str, help_: str) -> None:
    for call in (served.get(name), served.cancel(name), served.watch(names=[name]).next()):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert refusal.fields in (["name"], ["names[0]"])
        assert help_ in refusal.violations[0].description


async def test_a_task_that_does_not_exist_is_not_found(served: Served) -> None:
    for call in (
        served.get("videoTasks/v-1"),
        served.cancel("videoTasks/v-1"),
        served.watch(names=["videoTasks/v-1"]).next(),
    ):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "VIDEO_TASK_NOT_FOUND")
        assert refusal.info.metadata["video_task"] == "v-1"
        assert refusal.resource is not None
        assert refusal.resource.resource_name == "videoTasks/v-1"


async def test_another_tenants_tasks_are_as_absent_as_those_that_never_were(rig: Rig) -> None:
    served = await rig.serve()
    await served.ledger.create(new_record("theirs", tenant="other"))

    assert (await refused(served.get("videoTasks/theirs"))).reason == "VIDEO_TASK_NOT_FOUND"
    assert (await refused(served.cancel("videoTasks/theirs"))).reason == "VIDEO_TASK_NOT_FOUND"
    assert not (await served.list()).video_tasks


async def test_a_view_of_the_future_is_refused(served: Served) -> None:
    name = (await served.create()).name
    for call in (served.get(name, view=9), served.list(view=9), served.watch(view=9).next()):
        assert (await refused(call)).fields == ["view"]


async def test_a_list_comes_in_pages_newest_first_and_stays_whole_while_tasks_are_added(served: Served) -> None:
    names = [(await served.create()).name for _ in range(25)]
    seen: list[str] = []
    page = await served.list(page_size=10)
    while True:
        seen.extend(task.name for task in page.video_tasks)
        if not page.next_page_token:
            break
        await served.create()
        page = await served.list(page_size=10, page_token=page.next_page_token)

    assert seen == names[::-1]


async def test_page_sizes_have_a_default_and_a_limit(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpc_server.listing.MOST_PAGE_SIZE", 60)
    for number in range(70):
        await served.ledger.create(new_record(f"v{number}"))

    assert len((await served.list()).video_tasks) == 50
    assert len((await served.list(page_size=1_000_000)).video_tasks) == 60
    assert len((await served.list(page_size=60)).video_tasks) == 60


async def test_a_page_that_would_not_fit_in_a_message_is_shorter(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpc_server.listing.PAGE_BYTES", 10_000)
    names = [(await served.create("猫" * 2_000)).name for _ in range(3)]
    first = await served.list()
    second = await served.list(page_token=first.next_page_token)
    third = await served.list(page_token=second.next_page_token)

    assert [task.name for page in (first, second, third) for task in page.video_tasks] == names[::-1]
    assert not third.next_page_token


async def test_a_list_can_be_filtered_by_state_and_labels(served: Served) -> None:
    cat = await served.create(labels={"team": "ads", "kind": "cat"})
    dog = await served.create(labels={"team": "ads", "kind": "dog"})
    await served.create(labels={"team": "art"})
    await served.cancel(dog.name)

    async def names(text: str) -> list[str]:
        return [task.name for task in (await served.list(filter=text)).video_tasks]

    assert await names('labels.team = "ads"') == [dog.name, cat.name]
    assert await names("state = CANCELLED AND labels.team = ads") == [dog.name]
    assert await names("state = QUEUED AND labels.team = ads") == [cat.name]
    assert await names("labels.team = ads AND labels.kind = cat") == [cat.name]
    assert await names("state = QUEUED AND state = CANCELLED") == []
    assert await names("labels.kind = cat AND labels.kind = dog") == []


async def test_bad_list_requests_are_refused_with_every_field(served: Served) -> None:
    refusal = await refused(
        served.list(
            page_size=-1,
            filter="state > QUEUED",
            view=7,
            order_by="create_time asc",
            read_mask=FieldMask(paths=["nothing"]),
        )
    )

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert sorted(refusal.fields) == ["filter", "order_by", "page_size", "read_mask", "view"]


async def test_a_page_token_serves_only_the_list_that_it_was_made_for(served: Served) -> None:
    for _ in range(3):
        await served.create()
    page = await served.list(page_size=1)
    token = page.next_page_token
    changed = ("A" if token[-1] != "A" else "B", token[:-1])
    for fields in (
        {"page_token": token, "page_size": 1, "order_by": "create_time"},
        {"page_token": token, "page_size": 1, "read_mask": FieldMask(paths=["name"])},
        {"page_token": token, "page_size": 1, "filter": "state = QUEUED"},
        {"page_token": token, "page_size": 1, "view": pb.BASIC},
        {"page_token": changed[1] + changed[0], "page_size": 1},
        {"page_token": changed[1], "page_size": 1},
        {"page_token": token + "=", "page_size": 1},
        {"page_token": page.resume_token, "page_size": 1},
        {"page_token": "1", "page_size": 1},
        {"page_token": "ä", "page_size": 1},
    ):
        refusal = await refused(served.list(**fields))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOKEN_INVALID")


async def test_the_page_size_may_change_between_pages(served: Served) -> None:
    names = [(await served.create()).name for _ in range(6)]
    first = await served.list(page_size=1)
    second = await served.list(page_size=2, page_token=first.next_page_token)
    rest = await served.list(page_token=second.next_page_token)

    assert [task.name for page in (first, second, rest) for task in page.video_tasks] == names[::-1]
    assert not rest.next_page_token


async def test_a_list_goes_by_create_time_whatever_order_the_ledger_took_the_tasks_in(served: Served) -> None:
    """Two fronts whose clocks differ, and tasks of one and the same time."""
    now = datetime.now(UTC)
    seconds = [5, 1, 3, 3, 3, 4, 2]
    for number, second in enumerate(seconds):
        when = now + timedelta(seconds=second)
        await served.ledger.create(new_record(f"v{number}").model_copy(update={"create_time": when}))
    oldest_first = [f"videoTasks/v{number}" for number in (1, 6, 2, 3, 4, 5, 0)]
    for order, expected in (
        ("create_time", oldest_first),
        ("create_time desc", oldest_first[::-1]),
        (" create_time  desc ", oldest_first[::-1]),
        ("", oldest_first[::-1]),
    ):
        for size in (1, 2, 50):
            seen: list[str] = []
            token = ""
            while True:
                page = await served.list(order_by=order, page_size=size, page_token=token)
                seen.extend(task.name for task in page.video_tasks)
                token = page.next_page_token
                if not token:
                    break
            assert seen == expected
    assert [task.name for task in await served.watch().until_synced()] == oldest_first[::-1]


async def test_the_oldest_first_shows_also_what_is_added_meanwhile(served: Served) -> None:
    names = [(await served.create()).name for _ in range(3)]
    page = await served.list(order_by="create_time", page_size=2)
    names.append((await served.create()).name)
    rest = await served.list(order_by="create_time", page_size=2, page_token=page.next_page_token)

    assert [task.name for each in (page, rest) for task in each.video_tasks] == names


async def test_a_list_can_be_filtered_by_model_and_times(served: Served) -> None:
    cat = await served.create()
    dog = await served.create(spec=spec_pb.TextToVideo(prompt="a dog", model_name="kling-v2-6"))
    cat = await served.cancel(cat.name)

    async def names(text: str) -> list[str]:
        return [task.name for task in (await served.list(filter=text)).video_tasks]

    assert await names('model_name = "kling-v2-6"') == [dog.name]
    assert await names(f'create_time >= "{dog.create_time.ToJsonString()}"') == [dog.name]
    assert await names(f'create_time < "{dog.create_time.ToJsonString()}"') == [cat.name]
    assert await names(f'end_time >= "{cat.end_time.ToJsonString()}"') == [cat.name]
    assert await names(f'end_time > "{cat.end_time.ToJsonString()}"') == []
    assert await names(f'end_time <= "{cat.end_time.ToJsonString()}" AND model_name = kling-v2-6') == []


async def test_what_happens_after_a_list_is_seen_by_a_watch_with_its_token(served: Served) -> None:
    old = await served.create()
    page = await served.list()
    new = await served.create()
    await served.cancel(old.name)
    tasks = await served.watch(resume_token=page.resume_token).until_synced()

    assert [(task.name, task.revision) for task in tasks] == [(new.name, 1), (old.name, 2)]


async def test_a_cancel_before_anything_was_sent_is_free_and_can_be_repeated(served: Served) -> None:
    name = (await served.create()).name
    task = await served.cancel(name, reason="changed my mind")
    again = await served.cancel(name, reason="really")

    assert (task.state, task.revision) == (pb.VideoTask.CANCELLED, 2)
    assert "nothing is spent" in task.error.message
    assert "changed my mind" in task.error.message
    assert task.HasField("end_time")
    assert again == task


async def test_a_cancel_after_the_submission_says_that_it_may_be_billed(served: Served) -> None:
    name = (await served.create(video_task_id="v")).name
    await served.ledger.advance(
        "v", lambda task: task.model_copy(update={"state": State.SUBMITTING, "upstream": upstream_record(task)})
    )

    assert "bill" in (await served.cancel(name)).error.message


async def test_what_has_ended_otherwise_cannot_be_cancelled(served: Served) -> None:
    name = (await served.create()).name
    await served.move(name, State.EXPIRED)
    refusal = await refused(served.cancel(name))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VIDEO_TASK_FINAL")
    assert refusal.info.metadata["state"] == "EXPIRED"


async def test_a_reason_that_is_too_long_is_refused_and_cancels_nothing(served: Served) -> None:
    name = (await served.create()).name

    assert (await refused(served.cancel(name, reason="x" * 256))).fields == ["reason"]
    assert (await served.get(name)).state == pb.VideoTask.QUEUED


async def test_an_unforeseen_camera_in_the_ledger_is_shown(served: Served) -> None:
    """No living model takes one, but an older release may have stored it."""
    camera = {"type": "simple", "config": {"zoom": -3.0}}
    record = new_record("v")
    voices = [{"voice_id": "a"}]
    request = record.request.model_validate({"prompt": "x", "camera_control": camera, "voice_list": voices})
    await served.ledger.create(record.model_copy(update={"request": request}))
    spec = (await served.get("videoTasks/v")).text_to_video

    assert spec.camera_control == spec_pb.CameraControl(
        type=spec_pb.CameraControl.SIMPLE, config=spec_pb.CameraConfig(zoom=-3)
    )
    assert [voice.voice_id for voice in spec.voice_list] == ["a"]


def test_every_method_of_the_contract_is_served() -> None:
    handlers = method_handlers(MagicMock())
    for method in rpc.DESCRIPTOR.services_by_name["VideoTaskService"].methods:
        details = SimpleNamespace(method=f"/{method.containing_service.full_name}/{method.name}")
        handler: Any = handlers.service(details)
        assert handler.response_streaming is bool(method.server_streaming)
