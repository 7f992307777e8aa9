from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from kling_flows.upstream import (
    Charge,
    CursorPage,
    UnreadableAnswer,
    UpstreamNotFound,
    UpstreamStatus,
    UpstreamTask,
    UpstreamVideo,
    parse_request,
)
from kling_flows.upstream.standard import StandardCodec, encode_create, parse_page, parse_task, parse_tasks

from .data import load, request


def answer(task: dict[str, Any]) -> dict[str, Any]:
    return {"code": 0, "message": "SUCCEED", "request_id": "r", "data": [{"id": "1", **task}]}


def only(payload: dict[str, Any]) -> UpstreamTask:
    (task,) = parse_tasks(payload)
    return task


# ---------------------------------------------------------------------------------------------------------- encoding


def test_request_is_encoded_as_published() -> None:
    body = load("request_newstd_26_doc.json")
    made = request(
        prompt=body["prompt"],
        model_name="kling-v2-6",
        mode="pro",
        sound="on",
        aspect_ratio="9:16",
        duration=10,
        callback_url="https://xxx/callback",
        watermark_info={"enabled": True},
    )
    body["options"]["external_task_id"] = "ext-1"
    assert encode_create(made, "ext-1") == ("/text-to-video/kling-2.6", body)


@pytest.mark.parametrize(
    ("model", "path", "settings"),
    [
        ("kling-v3", "kling-3.0", {"multi_shot": False, "audio": "off"}),
        ("kling-v2-6", "kling-2.6", {"audio": "off"}),
        ("kling-v2-5-turbo", "kling-2.5-turbo", {}),
        ("kling-3.0-turbo", "kling-3.0-turbo", {}),
    ],
)
def test_each_model_gets_its_path_and_the_settings_that_it_has(
    model: str, path: str, settings: dict[str, object]
) -> None:
    found, body = encode_create(request(model_name=model), "ext-1")
    assert found == f"/text-to-video/{path}"
    assert body == {
        "prompt": "A paper boat on a pond",
        "settings": {"resolution": "720p", "aspect_ratio": "16:9", "duration": 5, **settings},
        "options": {"external_task_id": "ext-1"},
    }


@pytest.mark.parametrize(("mode", "resolution"), [("std", "720p"), ("pro", "1080p"), ("4k", "4k")])
def test_mode_becomes_a_resolution(mode: str, resolution: str) -> None:
    assert encode_create(request(mode=mode), "e")[1]["settings"]["resolution"] == resolution


def test_multi_shot_is_always_said_of_v3_because_it_is_true_there_by_default() -> None:
    assert encode_create(request(), "e")[1]["settings"]["multi_shot"] is False
    _, body = encode_create(request(multi_shot=True, shot_type="intelligence"), "e")
    assert body["settings"]["multi_shot"] is True
    assert body["prompt"] == "A paper boat on a pond"


def test_customized_shots_become_one_prompt_in_the_documented_form() -> None:
    published = load("request_text2video_v3_multishot.json")
    for shot in published["multi_prompt"]:
        del shot["index"]
    _, body = encode_create(parse_request(published), "e")
    assert body["prompt"] == "shot 1, 4, A sunrise over mountains; shot 2, 3, A bird flying across the sky"
    assert body["settings"] == {
        "multi_shot": True,
        "audio": "off",
        "resolution": "1080p",
        "aspect_ratio": "16:9",
        "duration": 7,
    }


def test_turbo_has_no_word_for_sound_whatever_was_asked() -> None:
    for sound in ("on", "off"):
        assert "audio" not in encode_create(request(model_name="kling-3.0-turbo", sound=sound), "e")[1]["settings"]


def test_create_needs_an_external_task_id_and_a_model_of_this_dialect() -> None:
    with pytest.raises(ValueError, match="external_task_id"):
        encode_create(request(), "")
    with pytest.raises(ValueError, match="kling-v1-6"):
        encode_create(request(model_name="kling-v1-6"), "e")


# ----------------------------------------------------------------------------------------------------------- reading


def test_created_task_is_read() -> None:
    task = parse_task(load("newstd_create_doc_shape.json"))
    assert (task.task_id, task.external_task_id) == ("893605946402811985", "ext-0001")
    assert (task.status, task.status_word) == (UpstreamStatus.SUBMITTED, "submitted")
    assert task.request_id == "00000000-0000-4000-8000-000000000008"
    assert task.created_at == datetime(2026, 6, 10, 8, 39, 38, 802_000, tzinfo=UTC)


def test_succeeded_task_is_read() -> None:
    task = only(load("newstd_tasks_get_doc_shape.json"))
    assert (task.status, task.status_word, task.external_task_id) == (
        UpstreamStatus.SUCCEEDED,
        "succeeded",
        "ext-0001",
    )
    assert task.videos == (
        UpstreamVideo(
            id="893605946402811986",
            url="https://v16-kling-fdl.klingai.com/bs2/synthetic/output.mp4",
            watermark_url=None,
            duration_seconds=5.041,
        ),
    )
    assert task.unit_deduction == Decimal(3)
    assert task.billing == (Charge("unit", Decimal(3), package_type="video"),)
    assert task.price_usd is None


def test_cash_is_told_apart_from_units() -> None:
    cash = {"charge_type": "cash", "cash_type": "balance", "currency": "USD", "list_price": "0.42"}
    units = {"charge_type": "unit", "amount": "1.5", "package_type": "video"}
    task = only(answer({"billing": [{**cash, "amount": "0.40"}, {**cash, "amount": "0.02"}, units, units]}))
    assert task.unit_deduction == Decimal(3)
    assert task.price_usd == Decimal("0.42")
    assert task.billing[0] == Charge("cash", Decimal("0.40"), "USD", "", "balance", Decimal("0.42"))


@pytest.mark.parametrize("currency", ["CNY", "", None])
def test_cash_in_another_currency_is_no_price_in_usd(currency: str | None) -> None:
    task = only(answer({"billing": [{"charge_type": "cash", "amount": "3", "currency": currency}]}))
    assert task.price_usd is None
    assert task.unit_deduction is None
    assert task.billing[0].amount == Decimal(3)


@pytest.mark.parametrize("billing", [None, [], {}, "x", [None], [{}], [{"charge_type": "unit", "amount": "x"}]])
def test_billing_that_says_nothing_charges_nothing(billing: object) -> None:
    task = only(answer({"status": "succeeded", "billing": billing}))
    assert (task.billing, task.unit_deduction) == ((), None)


def test_reason_of_a_failure_is_kept() -> None:
    task = only(answer({"status": "failed", "message": "Failure to pass the risk control system"}))
    assert (task.status, task.status_message) == (
        UpstreamStatus.FAILED,
        "Failure to pass the risk control system",
    )


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("submitted", UpstreamStatus.SUBMITTED),
        ("processing", UpstreamStatus.PROCESSING),
        ("succeeded", UpstreamStatus.SUCCEEDED),
        ("succeed", UpstreamStatus.SUCCEEDED),
        ("failed", UpstreamStatus.FAILED),
        ("queued", UpstreamStatus.UNKNOWN),
        ("", UpstreamStatus.UNKNOWN),
        (None, UpstreamStatus.UNKNOWN),
    ],
)
def test_word_is_read(word: str | None, status: UpstreamStatus) -> None:
    assert only(answer({"status": word})).status is status


@pytest.mark.parametrize(
    "outputs", [None, [], {}, [None], [{}], [{"url": ""}], [{"type": "image", "url": "https://h/i"}]]
)
def test_success_without_a_video_is_a_success_without_videos(outputs: object) -> None:
    task = only(answer({"status": "succeeded", "outputs": outputs}))
    assert (task.status, task.videos) == (UpstreamStatus.SUCCEEDED, ())


def test_null_and_foreign_types_are_taken_for_absent() -> None:
    names = ["status", "message", "create_time", "update_time", "external_id", "outputs", "billing"]
    task = only(answer(dict.fromkeys(names)))
    assert (task.created_at, task.external_task_id, task.status_message) == (None, None, "")
    assert only(answer({"create_time": True, "message": [], "external_id": {}})).created_at is None


def test_id_as_a_number_keeps_every_digit() -> None:
    assert only({"data": [{"id": 893605946402811985}]}).task_id == "893605946402811985"


def test_broken_item_does_not_hide_the_others() -> None:
    assert [task.task_id for task in parse_tasks({"data": [None, {"status": "x"}, "x", {"id": "1"}]})] == ["1"]


@pytest.mark.parametrize("payload", [{}, {"data": None}, {"data": {}}, {"data": {"id": "1"}}, {"data": "x"}])
def test_answer_without_a_list_is_unreadable(payload: dict[str, Any]) -> None:
    with pytest.raises(UnreadableAnswer):
        parse_tasks(payload)


@pytest.mark.parametrize("payload", [{}, {"data": None}, {"data": {}}, {"data": {"id": ""}}, {"data": []}])
def test_answer_without_a_task_is_unreadable(payload: dict[str, Any]) -> None:
    with pytest.raises(UnreadableAnswer):
        parse_task(payload)


def test_empty_answer_says_that_there_is_no_such_task() -> None:
    with pytest.raises(UpstreamNotFound, match="no task of that id") as caught:
        StandardCodec().read_one({"code": 0, "request_id": "r-1", "data": []}, "1", external=False)
    assert (caught.value.http_status, caught.value.request_id) == (200, "r-1")


@pytest.mark.parametrize(
    "payload",
    [{}, {"data": None}, {"data": [None]}, {"data": [{"status": "x"}]}, {"data": [{"id": "2", "external_id": "b"}]}],
)
@pytest.mark.parametrize("external", [False, True])
def test_answer_that_may_only_be_broken_denies_no_task(payload: dict[str, Any], external: bool) -> None:
    with pytest.raises(UnreadableAnswer):
        StandardCodec().read_one(payload, "1", external=external)


def test_wanted_task_is_picked_by_the_id_that_was_asked_for() -> None:
    payload = {"data": [{"id": "1", "external_id": "2"}, {"id": "2", "external_id": "1"}]}
    assert StandardCodec().read_one(payload, "2", external=False).external_task_id == "1"
    assert StandardCodec().read_one(payload, "2", external=True).task_id == "1"


def test_answer_need_not_repeat_our_id_but_has_to_repeat_its_own() -> None:
    payload = {"data": [{"id": "1"}]}
    assert StandardCodec().read_one(payload, "ext-1", external=True).task_id == "1"
    with pytest.raises(UnreadableAnswer):
        StandardCodec().read_one(payload, "2", external=False)


# ------------------------------------------------------------------------------------------------------------- pages


def test_empty_page_is_read() -> None:
    assert parse_page(load("newstd_tasks_list_empty_live.json")) == CursorPage((), "", False)


def test_page_leads_to_the_next_one() -> None:
    page = parse_page({"data": {"result": [{"id": "1"}, {"id": "2"}], "has_more": True, "next_cursor": "c"}})
    assert [task.task_id for task in page.tasks] == ["1", "2"]
    assert (page.next_cursor, page.has_more) == ("c", True)


@pytest.mark.parametrize(
    "end", [{}, {"has_more": False, "next_cursor": "c"}, {"has_more": True}, {"has_more": True, "next_cursor": ""}]
)
def test_page_that_leads_nowhere_is_the_last_one(end: dict[str, Any]) -> None:
    page = parse_page({"data": {"result": [{"id": "1"}], **end}})
    assert (page.next_cursor, page.has_more) == ("", False)


@pytest.mark.parametrize("payload", [{}, {"data": None}, {"data": {"count": 0}}, {"data": {"result": None}}])
def test_page_without_a_list_is_unreadable(payload: dict[str, Any]) -> None:
    with pytest.raises(UnreadableAnswer):
        parse_page(payload)
