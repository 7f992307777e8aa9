"""CreateVideoTask: what it makes durable, what it refuses, and how it says so."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from kling_flows.errors import LedgerUnavailable
from kling_flows.ledger import State
from kling_flows.v1 import text_to_video_pb2 as spec_pb
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1 import video_task_service_pb2 as rpc

from .rig import Rig, Served, create_request, refused

Spec = spec_pb.TextToVideo
SPEC = "video_task.text_to_video"


async def test_a_create_answers_a_durable_queued_task_with_its_defaults_filled_in(served: Served) -> None:
    task = await served.create("a cat", labels={"team": "ads"})

    assert task.state == pb.VideoTask.QUEUED
    assert task.revision == 1
    assert dict(task.labels) == {"team": "ads"}
    assert task.create_time == task.update_time
    assert not task.HasField("end_time")
    assert not task.HasField("upstream")
    assert task.text_to_video == Spec(
        prompt="a cat", model_name="kling-v3", mode=Spec.STD, duration=5, aspect_ratio="16:9", sound=Spec.OFF
    )
    assert await served.get(task.name) == task
    assert await served.ledger.head() == 1


FULL_SPECS = {
    "shots of one's own": Spec(
        negative_prompt="rain",
        model_name="kling-v3",
        mode=Spec.PRO,
        duration=7,
        aspect_ratio="9:16",
        cfg_scale=0.0,
        sound=Spec.ON,
        multi_shot=True,
        shot_type=Spec.CUSTOMIZE,
        multi_prompt=[spec_pb.Shot(prompt="a", duration=3), spec_pb.Shot(prompt="b", duration=4)],
        watermark_info=spec_pb.WatermarkInfo(enabled=False),
        callback_url="https://example.com/hook",
    ),
    "shots by the model": Spec(
        prompt="a day",
        model_name="kling-v3",
        mode=Spec.FOUR_K,
        duration=15,
        aspect_ratio="1:1",
        sound=Spec.OFF,
        multi_shot=True,
        shot_type=Spec.INTELLIGENCE,
        watermark_info=spec_pb.WatermarkInfo(enabled=True),
    ),
}


@pytest.mark.parametrize("spec", FULL_SPECS.values(), ids=FULL_SPECS)
async def test_every_field_comes_back_as_it_was_sent(served: Served, spec: spec_pb.TextToVideo) -> None:
    task = await served.stub.CreateVideoTask(create_request(spec=spec))

    assert task.text_to_video == spec
    assert (await served.get(task.name)).text_to_video == spec


async def test_a_chosen_id_becomes_the_name_and_is_refused_the_second_time(served: Served) -> None:
    task = await served.create(video_task_id="my-video")
    refusal = await refused(served.create(video_task_id="my-video"))

    assert task.name == "videoTasks/my-video"
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "VIDEO_TASK_EXISTS")
    assert refusal.resource is not None
    assert refusal.resource.resource_name == "videoTasks/my-video"
    assert refusal.info.metadata["video_task"] == "my-video"


async def test_a_repeated_request_id_answers_the_task_as_it_is_now(served: Served) -> None:
    first = await served.create(request_id="r-1")
    await served.move(first.name, State.SUBMITTING)
    again = await served.create(request_id="r-1")

    assert again.name == first.name
    assert again.state == pb.VideoTask.SUBMITTING
    assert len((await served.list()).video_tasks) == 1


async def test_a_request_id_that_is_repeated_at_the_same_time_makes_one_task(served: Served) -> None:
    tasks = await asyncio.gather(*(served.create(request_id="r-1") for _ in range(50)))

    assert len({task.name for task in tasks}) == 1
    assert await served.ledger.head() == 1


@pytest.mark.parametrize(
    ("other", "fields"),
    [
        (create_request("a dog"), "video_task.text_to_video.prompt"),
        (create_request(labels={"a": "b"}), "video_task.labels"),
        (create_request(video_task_id="v"), "video_task_id"),
        (
            create_request(spec=spec_pb.TextToVideo(prompt="a dog", duration=10), labels={"a": "b"}),
            "video_task.text_to_video.prompt, video_task.text_to_video.duration, video_task.labels",
        ),
    ],
)
async def test_a_request_id_with_another_body_is_refused_with_what_differs(
    served: Served, other: rpc.CreateVideoTaskRequest, fields: str
) -> None:
    task = await served.create(request_id="r-1")
    other.request_id = "r-1"
    refusal = await refused(served.stub.CreateVideoTask(other))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert refusal.info.metadata["request_id"] == "r-1"
    assert refusal.info.metadata["fields"] == fields
    assert f"with another {fields};" in refusal.message
    assert "a dog" not in refusal.message
    assert refusal.resource is not None
    assert refusal.resource.resource_name == task.name


async def test_validate_only_answers_what_would_be_and_creates_nothing(served: Served) -> None:
    task = await served.create(validate_only=True, video_task_id="dry")
    refusal = await refused(served.create("", validate_only=True))

    assert task.name == "videoTasks/dry"
    assert task.text_to_video.duration == 5
    assert refusal.reason == "INVALID_REQUEST"
    assert await served.ledger.head() == 0


BAD_REQUESTS: dict[str, tuple[rpc.CreateVideoTaskRequest, set[str]]] = {
    "nothing at all": (rpc.CreateVideoTaskRequest(), {SPEC}),
    "no spec": (rpc.CreateVideoTaskRequest(video_task=pb.VideoTask(labels={"a": "b"})), {SPEC}),
    "an empty spec": (create_request(""), {SPEC}),
    "no prompt": (create_request(spec=Spec(duration=5)), {f"{SPEC}.prompt"}),
    "blank prompt": (create_request("  "), {f"{SPEC}.prompt"}),
    "long prompt": (create_request("x" * 2501), {f"{SPEC}.prompt"}),
    "unknown model": (create_request(spec=Spec(prompt="x", model_name="kling-v9")), {f"{SPEC}.model_name"}),
    "negative duration": (create_request(spec=Spec(prompt="x", duration=-1)), {f"{SPEC}.duration"}),
    "duration": (create_request(spec=Spec(prompt="x", duration=16)), {f"{SPEC}.duration"}),
    "ratio": (create_request(spec=Spec(prompt="x", aspect_ratio="4:3")), {f"{SPEC}.aspect_ratio"}),
    "cfg_scale": (create_request(spec=Spec(prompt="x", cfg_scale=1.5)), {f"{SPEC}.cfg_scale"}),
    "cfg_scale that is no number": (
        create_request(spec=Spec(prompt="x", cfg_scale=float("nan"))),
        {f"{SPEC}.cfg_scale"},
    ),
    "mode of the future": (create_request(spec=Spec(prompt="x", mode=9)), {f"{SPEC}.mode"}),
    "sound of the future": (create_request(spec=Spec(prompt="x", sound=9)), {f"{SPEC}.sound"}),
    "shot type of the future": (
        create_request(spec=Spec(prompt="x", multi_shot=True, shot_type=9)),
        {f"{SPEC}.shot_type"},
    ),
    "camera without type": (
        create_request(spec=Spec(prompt="x", camera_control=spec_pb.CameraControl())),
        {f"{SPEC}.camera_control.type", f"{SPEC}.camera_control"},
    ),
    "camera of the future": (
        create_request(spec=Spec(prompt="x", camera_control=spec_pb.CameraControl(type=9))),
        {f"{SPEC}.camera_control.type", f"{SPEC}.camera_control"},
    ),
    "a shot that is too long": (
        create_request(
            spec=Spec(
                multi_shot=True,
                shot_type=Spec.CUSTOMIZE,
                multi_prompt=[spec_pb.Shot(prompt="x" * 513, duration=5)],
            )
        ),
        {f"{SPEC}.multi_prompt[0].prompt"},
    ),
    "callback": (create_request(spec=Spec(prompt="x", callback_url="ftp://x")), {f"{SPEC}.callback_url"}),
    "label key": (create_request(labels={"Team": "x"}), {"video_task.labels"}),
    "label value": (create_request(labels={"team": "x" * 256}), {"video_task.labels['team']"}),
    "label with NUL": (create_request(labels={"team": "a\0b"}), {"video_task.labels['team']"}),
    "many labels": (create_request(labels={f"k{n}": "" for n in range(33)}), {"video_task.labels"}),
    "id": (create_request(video_task_id="My Video"), {"video_task_id"}),
    "request id": (create_request(request_id="x" * 65), {"request_id"}),
    "everything at once": (
        create_request(
            spec=Spec(duration=99, mode=7, camera_control=spec_pb.CameraControl()),
            labels={"Team": "x"},
            video_task_id="-",
            request_id="ä",
        ),
        {
            f"{SPEC}.mode",
            f"{SPEC}.prompt",
            f"{SPEC}.duration",
            f"{SPEC}.camera_control",
            f"{SPEC}.camera_control.type",
            "video_task.labels",
            "video_task_id",
            "request_id",
        },
    ),
}


@pytest.mark.parametrize(("request_", "fields"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
async def test_a_bad_request_is_refused_with_every_field_and_before_anything_is_stored(
    served: Served, request_: rpc.CreateVideoTaskRequest, fields: set[str]
) -> None:
    refusal = await refused(served.stub.CreateVideoTask(request_))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert set(refusal.fields) == fields
    assert all(violation.description and violation.reason for violation in refusal.violations)
    assert refusal.info.metadata["violations"] == str(len(refusal.violations))
    assert await served.ledger.head() == 0


@pytest.mark.parametrize("letter", ["x", "猫", "🐈"])
async def test_too_many_violations_are_cut_to_what_a_client_can_receive(served: Served, letter: str) -> None:
    request = create_request(labels={f"{letter * 60}{number}": letter * 256 for number in range(120)})
    refusal = await refused(served.stub.CreateVideoTask(request))

    assert refusal.reason == "INVALID_REQUEST"
    assert 1 <= len(refusal.violations) <= 50
    assert int(refusal.info.metadata["violations"]) > 100


async def test_short_violations_are_cut_to_fifty(served: Served) -> None:
    shots = [spec_pb.Shot(prompt="x", duration=0) for _ in range(80)]
    spec = Spec(multi_shot=True, shot_type=Spec.CUSTOMIZE, multi_prompt=shots)
    refusal = await refused(served.stub.CreateVideoTask(create_request(spec=spec)))

    assert 30 <= len(refusal.violations) <= 50
    assert int(refusal.info.metadata["violations"]) >= 80


@pytest.mark.parametrize("method", ["CreateVideoTask", "GetVideoTask", "ListVideoTasks", "CancelVideoTask"])
async def test_bytes_that_are_no_request_are_refused_with_details(served: Served, method: str) -> None:
    call = served.channel.unary_unary(f"/kling_flows.v1.VideoTaskService/{method}")
    refusal = await refused(call(b"\xff\xff\xff"))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_a_full_queue_refuses_with_a_delay_and_takes_again_once_it_is_emptier(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpc_server.admission.COUNT_SECONDS", 0.0)
    monkeypatch.setattr("grpc_server.admission.RECOUNT_SECONDS", 0.0)
    served = await rig.serve(max_queued=2)
    tasks = [await served.create() for _ in range(2)]
    refusal = await refused(served.create())
    checked = await served.create(validate_only=True)

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert refusal.retry_seconds == 5
    assert refusal.info.metadata["limit"] == "2"
    assert checked.state == pb.VideoTask.QUEUED
    await served.move(tasks[0].name, State.SUBMITTING)
    assert (await served.create()).revision == 1


async def test_the_queue_is_not_counted_for_every_create_and_its_limit_holds_all_the_same(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COUNT_SECONDS", "RECOUNT_SECONDS"):
        monkeypatch.setattr(f"grpc_server.admission.{name}", 3600.0)
    served = await rig.serve(max_queued=20)
    counts = 0
    count_waiting = served.ledger.count_waiting

    async def counted() -> int:
        nonlocal counts
        counts += 1
        return await count_waiting()

    monkeypatch.setattr(served.ledger, "count_waiting", counted)
    answers = await asyncio.gather(*(served.create() for _ in range(50)), return_exceptions=True)

    assert sum(isinstance(answer, pb.VideoTask) for answer in answers) == 20
    assert counts == 1


async def test_a_draining_front_takes_no_new_tasks_but_shows_the_old_ones(served: Served) -> None:
    task = await served.create()
    await served.front.begin_drain()
    refusal = await refused(served.create())

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_UNAVAILABLE")
    assert refusal.retry_seconds == 1
    assert (await served.get(task.name)).name == task.name


async def test_a_ledger_that_cannot_be_written_says_when_to_repeat(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(*_: object, **__: object) -> None:
        raise LedgerUnavailable("the disk is full", metadata={"cause": "OperationalError"})

    monkeypatch.setattr(served.ledger, "create", unavailable)
    refusal = await refused(served.create())

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "LEDGER_UNAVAILABLE")
    assert refusal.retry_seconds == 1
    assert refusal.info.metadata["cause"] == "OperationalError"


async def test_an_unforeseen_error_tells_the_caller_an_incident_and_only_the_log_the_rest(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise KeyError("my-secret")

    monkeypatch.setattr(served.ledger, "create", broken)
    refusal = await refused(served.create())
    log = "".join(capsys.readouterr())

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "my-secret" not in refusal.message + str(refusal.info)
    assert refusal.info.metadata["incident"] in refusal.message
    assert refusal.info.metadata["incident"] in log
    assert "my-secret" in log


async def test_a_burst_of_two_thousand_creates_is_taken_whole(served: Served) -> None:
    tasks = await asyncio.gather(*(served.create(f"cat {number}") for number in range(2_000)))

    assert len({task.name for task in tasks}) == 2_000
    assert await served.ledger.head() == 2_000
