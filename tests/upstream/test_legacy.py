from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from kling_flows.upstream import Shot, UnreadableAnswer, UpstreamStatus, UpstreamTask, UpstreamVideo, parse_request
from kling_flows.upstream.legacy import encode_create, parse_list, parse_task

from .data import load, request


def answer(task: dict[str, Any], **envelope: Any) -> dict[str, Any]:
    return {"code": 0, "message": "SUCCEED", "request_id": "r", "data": {"task_id": "1", **task}, **envelope}


# ---------------------------------------------------------------------------------------------------------- encoding


def test_plain_request_is_encoded_as_published() -> None:
    body = load("request_text2video_cometapi_default.json")
    encoded = encode_create(parse_request(body), "ext-1")
    assert encoded == {**body, "aspect_ratio": "16:9", "external_task_id": "ext-1"}


def test_multi_shot_request_is_encoded_as_published() -> None:
    body = load("request_text2video_v3_multishot.json")
    shots = [Shot(prompt=shot["prompt"], duration=int(shot["duration"])) for shot in body["multi_prompt"]]
    made = parse_request({**body, "multi_prompt": shots})
    assert encode_create(made, "ext-1") == {**body, "external_task_id": "ext-1"}


def test_every_field_that_is_set_is_sent() -> None:
    made = request(
        negative_prompt="rain",
        model_name="kling-v1-6",
        mode="pro",
        duration=10,
        aspect_ratio="1:1",
        sound="on",
        cfg_scale=0.0,
        camera_control={"type": "simple", "config": {"zoom": 5, "pan": 0.5}},
        multi_shot=True,
        shot_type="intelligence",
        multi_prompt=[{"prompt": "a", "duration": 10}],
        voice_list=[{"voice_id": "v"}],
        watermark_info={"enabled": False},
        callback_url="https://host/x",
    )
    assert encode_create(made, "ext-1") == {
        "model_name": "kling-v1-6",
        "prompt": "A paper boat on a pond",
        "negative_prompt": "rain",
        "mode": "pro",
        "duration": "10",
        "aspect_ratio": "1:1",
        "sound": "on",
        "cfg_scale": 0.0,
        "camera_control": {
            "type": "simple",
            "config": {"horizontal": 0, "vertical": 0, "pan": 0.5, "tilt": 0, "roll": 0, "zoom": 5},
        },
        "multi_shot": True,
        "shot_type": "intelligence",
        "multi_prompt": [{"index": 1, "prompt": "a", "duration": "10"}],
        "voice_list": [{"voice_id": "v"}],
        "watermark_info": {"enabled": False},
        "callback_url": "https://host/x",
        "external_task_id": "ext-1",
    }


def test_camera_preset_has_no_config() -> None:
    made = request(camera_control={"type": "down_back"})
    assert encode_create(made, "ext-1")["camera_control"] == {"type": "down_back"}


def test_integral_axis_is_sent_as_an_integer() -> None:
    made = request(camera_control={"type": "simple", "config": {"zoom": 5.0}})
    assert isinstance(encode_create(made, "ext-1")["camera_control"]["config"]["zoom"], int)


@pytest.mark.parametrize(
    ("model", "absent"),
    [
        ("kling-v3", set[str]()),
        ("kling-v2-6", set[str]()),
        ("kling-v2-5-turbo", {"sound"}),
        ("kling-v2-master", {"sound", "mode"}),
        ("a-model-of-tomorrow", set[str]()),
    ],
)
def test_mode_and_sound_are_left_out_where_the_model_has_none(model: str, absent: set[str]) -> None:
    assert {"mode", "sound"} - set(encode_create(request(model_name=model), "ext-1")) == absent


def test_mode_and_sound_that_ask_for_something_are_never_left_out() -> None:
    body = encode_create(request(model_name="kling-v2-master", mode="pro", sound="on"), "ext-1")
    assert (body["mode"], body["sound"]) == ("pro", "on")


def test_create_needs_an_external_task_id() -> None:
    with pytest.raises(ValueError, match="external_task_id"):
        encode_create(request(), "")


# ----------------------------------------------------------------------------------------------------------- reading


def test_created_task_is_read() -> None:
    assert parse_task(load("official_create_submitted_with_external_id.json")) == UpstreamTask(
        task_id="850000000000000001",
        external_task_id="ext-0001",
        status=UpstreamStatus.SUBMITTED,
        status_word="submitted",
        status_message="",
        request_id="00000000-0000-4000-8000-000000000001",
        created_at=datetime(2026, 3, 8, 20, 0, tzinfo=UTC),
        updated_at=datetime(2026, 3, 8, 20, 0, tzinfo=UTC),
        videos=(),
        unit_deduction=None,
    )


def test_succeeded_task_is_read() -> None:
    task = parse_task(load("official_query_succeed_doc_shape.json"))
    assert task.status is UpstreamStatus.SUCCEEDED
    assert task.unit_deduction == Decimal(3)
    assert task.videos == (
        UpstreamVideo(
            id="850000000000000002",
            url="https://v16-kling-fdl.klingai.com/bs2/synthetic/output.mp4?x-kcdn-pid=112452",
            watermark_url=None,
            duration_seconds=5.041,
        ),
    )


@pytest.mark.parametrize(
    ("name", "status", "external_task_id"),
    [
        ("official_create_submitted_no_external_id.json", UpstreamStatus.SUBMITTED, None),
        ("official_create_submitted_with_external_id.json", UpstreamStatus.SUBMITTED, "ext-0001"),
        ("official_query_processing.json", UpstreamStatus.PROCESSING, None),
        ("official_query_failed_image_invalid.json", UpstreamStatus.FAILED, None),
        ("official_query_succeed_doc_shape.json", UpstreamStatus.SUCCEEDED, "ext-0001"),
        ("cometapi_query_processing.json", UpstreamStatus.PROCESSING, None),
        ("cometapi_omni_query_processing_native.json", UpstreamStatus.PROCESSING, None),
        ("callback_legacy_submitted.json", UpstreamStatus.SUBMITTED, "ext-0001"),
        ("callback_legacy_succeed.json", UpstreamStatus.SUCCEEDED, "ext-0001"),
        ("callback_legacy_failed.json", UpstreamStatus.FAILED, "ext-0004"),
    ],
)
def test_every_published_task_is_read(name: str, status: UpstreamStatus, external_task_id: str | None) -> None:
    task = parse_task(load(name))
    assert (task.status, task.external_task_id) == (status, external_task_id)
    assert task.created_at is not None
    assert task.updated_at is not None
    assert bool(task.videos) is (status is UpstreamStatus.SUCCEEDED)


def test_reason_of_a_failure_is_in_the_task_not_in_the_envelope() -> None:
    task = parse_task(load("official_query_failed_image_invalid.json"))
    assert task.status_message == "Image pixel is invalid"
    assert task.status.final


def test_unknown_word_is_not_final_and_kept() -> None:
    task = parse_task(answer({"task_status": "queued"}))
    assert (task.status, task.status_word) == (UpstreamStatus.UNKNOWN, "queued")
    assert not task.status.final


def test_id_as_a_number_keeps_every_digit() -> None:
    task = parse_task(answer({"task_id": 850000000000000001, "task_status": "submitted"}))
    assert task.task_id == "850000000000000001"


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_task_is_found_below_a_relays_wrapping(depth: int) -> None:
    payload: dict[str, Any] = {"task_id": "1", "task_status": "processing"}
    for _ in range(depth):
        payload = {"data": payload}
    assert parse_task(payload).task_id == "1"


def test_kling_task_is_preferred_to_the_wrapper_with_an_id() -> None:
    inner = {"code": 0, "request_id": "r", "data": {"task_id": "inner", "task_status": "succeed"}}
    task = parse_task({"code": "success", "data": {"task_id": "outer", "status": "SUCCESS", "data": inner}})
    assert (task.task_id, task.status, task.request_id) == ("inner", UpstreamStatus.SUCCEEDED, "r")


def test_task_with_nothing_but_an_id_is_not_lost() -> None:
    task = parse_task({"code": 0, "data": {"task_id": "1"}})
    assert (task.task_id, task.status, task.status_word) == ("1", UpstreamStatus.UNKNOWN, "")


def test_null_and_foreign_types_are_taken_for_absent() -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ["task_status_msg", "task_info", "task_result", "created_at", "updated_at", "final_unit_deduction"]
    )
    task = parse_task(answer({"task_status": "succeed", **nothing}, request_id=None))
    assert (task.videos, task.created_at, task.unit_deduction, task.request_id) == ((), None, None, "")
    odd: dict[str, Any] = {
        "task_info": [],
        "task_result": "x",
        "created_at": "soon",
        "updated_at": True,
        "final_unit_deduction": "NaN",
    }
    assert parse_task(answer({"task_status": "succeed", **odd})).videos == ()


@pytest.mark.parametrize("videos", [[], None, [{}], [{"id": "1", "url": ""}], [{"url": None}], ["x"], {}])
def test_success_without_a_url_is_a_success_without_videos(videos: object) -> None:
    task = parse_task(answer({"task_status": "succeed", "task_result": {"videos": videos}}))
    assert (task.status, task.videos) == (UpstreamStatus.SUCCEEDED, ())


def test_watermarked_copy_is_read() -> None:
    video = {"id": 7, "url": "https://h/a", "watermark_url": "https://h/b", "duration": 5}
    task = parse_task(answer({"task_status": "succeed", "task_result": {"videos": [video]}}))
    assert task.videos == (UpstreamVideo("7", "https://h/a", "https://h/b", 5.0),)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("2.4", Decimal("2.4")), (3, Decimal(3)), (1.5, Decimal("1.5")), ("", None), ("x", None), ("Infinity", None)],
)
def test_unit_deduction_is_exact(value: object, expected: Decimal | None) -> None:
    assert parse_task(answer({"final_unit_deduction": value})).unit_deduction == expected


@pytest.mark.parametrize("value", [10**30, -(10**30), "1e400", float("inf"), float("nan")])
def test_time_out_of_range_is_no_time(value: object) -> None:
    assert parse_task(answer({"created_at": value})).created_at is None


def test_time_as_text_is_read() -> None:
    task = parse_task(answer({"created_at": "1773000000500"}))
    assert task.created_at == datetime(2026, 3, 8, 20, 0, 0, 500_000, tzinfo=UTC)


@pytest.mark.parametrize("payload", [{}, {"data": None}, {"data": {}}, {"data": []}, {"data": {"task_id": ""}}])
def test_answer_without_a_task_is_unreadable(payload: dict[str, Any]) -> None:
    with pytest.raises(UnreadableAnswer):
        parse_task(payload)


def test_list_is_read_in_order() -> None:
    tasks = parse_list(load("official_list_two_tasks.json"))
    assert [task.task_id for task in tasks] == ["850000000000000011", "850000000000000010"]
    assert {task.request_id for task in tasks} == {"00000000-0000-4000-8000-000000000006"}


def test_empty_list_is_read() -> None:
    assert parse_list(load("official_list_empty.json")) == ()
    assert parse_list({"code": 0, "data": None}) == ()


def test_broken_item_does_not_hide_the_others() -> None:
    payload = {"code": 0, "data": [None, {"task_status": "succeed"}, "x", {"task_id": "1", "task_status": "failed"}]}
    assert [task.task_id for task in parse_list(payload)] == ["1"]


@pytest.mark.parametrize("payload", [{}, {"data": {}}, {"data": {"task_id": "1"}}, {"data": "x"}])
def test_answer_without_a_list_is_unreadable(payload: dict[str, Any]) -> None:
    with pytest.raises(UnreadableAnswer):
        parse_list(payload)
