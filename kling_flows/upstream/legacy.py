"""The legacy dialect: ``/v1/videos/text2video``, which Kling and CometAPI both speak (fact sheet 2.1, 4).

Bodies are read tolerantly: fields that are absent, ``null``, new or of another type never cost a task that is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from kling_flows.upstream.body import (
    UnreadableAnswer,
    as_decimal,
    as_mapping,
    as_moment,
    as_sequence,
    as_text,
    levels,
    request_id_of,
)
from kling_flows.upstream.capabilities import capability_map
from kling_flows.upstream.codec import Ask
from kling_flows.upstream.constants import MAX_PAGE, MAX_PAGE_SIZE, TEXT_TO_VIDEO_PATH, Dialect, StatusWord
from kling_flows.upstream.request import CameraControl, TextToVideoRequest
from kling_flows.upstream.task import CASH, UNIT, Charge, UpstreamStatus, UpstreamTask, UpstreamVideo
from kling_flows.upstream.vocabulary import Mode, Sound

_STATUS: Final[Mapping[str, UpstreamStatus]] = {
    StatusWord.SUBMITTED: UpstreamStatus.SUBMITTED,
    StatusWord.PROCESSING: UpstreamStatus.PROCESSING,
    StatusWord.SUCCEED: UpstreamStatus.SUCCEEDED,
    StatusWord.FAILED: UpstreamStatus.FAILED,
}


class LegacyCodec:
    """The calls that both dialects have, in this one."""

    def ask_create(self, request: TextToVideoRequest, external_task_id: str) -> Ask:
        return Ask("POST", TEXT_TO_VIDEO_PATH, body=encode_create(request, external_task_id))

    def read_created(self, payload: Mapping[str, Any]) -> UpstreamTask:
        return parse_task(payload)

    def ask_one(self, wanted: str, *, external: bool) -> Ask:
        # One path takes both kinds of id, and tells them apart itself (fact sheet 4.2).
        if not wanted:
            raise ValueError("a query without an id would be a list")
        return Ask("GET", f"{TEXT_TO_VIDEO_PATH}/{quote(wanted, safe='')}")

    def read_one(self, payload: Mapping[str, Any], wanted: str, *, external: bool) -> UpstreamTask:
        task = parse_task(payload)
        if wanted not in (task.task_id, task.external_task_id or wanted):
            raise UnreadableAnswer("the answer is about another task")
        return task


def ask_page(page: int, page_size: int) -> Ask:
    """Return the query for one numbered page.

    Raises:
        ValueError: ``page`` or ``page_size`` is beyond what Kling takes.
    """
    if not 1 <= page <= MAX_PAGE:
        raise ValueError(f"page goes from 1 to {MAX_PAGE}")
    if not 1 <= page_size <= MAX_PAGE_SIZE:
        raise ValueError(f"page_size goes from 1 to {MAX_PAGE_SIZE}")
    return Ask("GET", TEXT_TO_VIDEO_PATH, {"pageNum": page, "pageSize": page_size})


def encode_create(request: TextToVideoRequest, external_task_id: str) -> dict[str, Any]:
    """Return the body of a create.

    What was not set is left out. Two fields that always have a value are left out as well where the model does not have
    them and the value asks for nothing: ``mode`` "std" of a model with a single mode, ``sound`` "off" of a silent one.

    Args:
        request: Assumed to be valid.
        external_task_id: Unique in the account; what a lost answer is looked up by.

    Raises:
        ValueError: ``external_task_id`` is empty.
    """
    if not external_task_id:
        raise ValueError("a create without an external_task_id could not be looked up")
    model = capability_map().abilities(request.model_name, Dialect.LEGACY)
    body: dict[str, Any] = {"model_name": request.model_name}
    if request.prompt:
        body["prompt"] = request.prompt
    if request.negative_prompt:
        body["negative_prompt"] = request.negative_prompt
    if request.mode is not Mode.STD or model is None or model.modes:
        body["mode"] = request.mode.value
    # Kling takes durations as text (fact sheet 2.1).
    body["duration"] = str(request.duration)
    body["aspect_ratio"] = request.aspect_ratio
    # Said even when off: CometAPI's default is "model default" (fact sheet 2.4).
    if request.sound is Sound.ON or model is None or model.sound:
        body["sound"] = request.sound.value
    if request.cfg_scale is not None:
        body["cfg_scale"] = request.cfg_scale
    if request.camera_control is not None:
        body["camera_control"] = _encode_camera(request.camera_control)
    if request.multi_shot:
        body["multi_shot"] = True
    if request.shot_type is not None:
        body["shot_type"] = request.shot_type.value
    if request.multi_prompt:
        body["multi_prompt"] = [
            {"index": number, "prompt": shot.prompt, "duration": str(shot.duration)}
            for number, shot in enumerate(request.multi_prompt, start=1)
        ]
    if request.voice_list:
        body["voice_list"] = [{"voice_id": voice.voice_id} for voice in request.voice_list]
    if request.watermark_info is not None:
        body["watermark_info"] = {"enabled": request.watermark_info.enabled}
    if request.callback_url is not None:
        body["callback_url"] = request.callback_url
    body["external_task_id"] = external_task_id
    return body


def parse_task(payload: Mapping[str, Any]) -> UpstreamTask:
    """Read one task from an answer, from a relay's wrapping of it, or from the bare body of a callback.

    Raises:
        UnreadableAnswer: There is no task with an id.
    """
    tasks = [level for level in levels(payload) if as_text(level.get("task_id"))]
    if not tasks:
        raise UnreadableAnswer("the answer holds no task_id")
    # A wrapper has a task_id as well, but Kling's own object alone has Kling's status.
    task = next((level for level in tasks if as_text(level.get("task_status"))), tasks[0])
    return _task(task, request_id_of(payload))


def parse_list(payload: Mapping[str, Any]) -> tuple[UpstreamTask, ...]:
    """Read the tasks of a page, in the order of the answer; items without an id are passed over.

    Raises:
        UnreadableAnswer: There is no list.
    """
    for level in levels(payload):
        if "data" not in level:
            continue
        data = level["data"]
        items = () if data is None else as_sequence(data)
        if items is not None:
            found = [task for task in map(as_mapping, items) if task is not None and as_text(task.get("task_id"))]
            return tuple(_task(task, request_id_of(payload)) for task in found)
    raise UnreadableAnswer("the answer holds no list of tasks")


def _encode_camera(control: CameraControl) -> dict[str, Any]:
    body: dict[str, Any] = {"type": control.type.value}
    if control.config is not None:
        axes: dict[str, float] = control.config.model_dump()
        # CometAPI types the axes as integers, Kling as floats (fact sheet 2.4).
        body["config"] = {axis: int(value) if value.is_integer() else value for axis, value in axes.items()}
    return body


def _task(task: Mapping[str, object], request_id: str) -> UpstreamTask:
    word = as_text(task.get("task_status"))
    info = as_mapping(task.get("task_info")) or {}
    result = as_mapping(task.get("task_result")) or {}
    videos = map(as_mapping, as_sequence(result.get("videos")) or ())
    return UpstreamTask(
        task_id=as_text(task.get("task_id")),
        external_task_id=as_text(info.get("external_task_id")) or None,
        status=_STATUS.get(word, UpstreamStatus.UNKNOWN),
        status_word=word,
        status_message=as_text(task.get("task_status_msg")),
        request_id=request_id,
        created_at=as_moment(task.get("created_at")),
        updated_at=as_moment(task.get("updated_at")),
        videos=tuple(_video(video) for video in videos if video is not None and as_text(video.get("url"))),
        unit_deduction=as_decimal(task.get("final_unit_deduction")),
        billing=tuple(_charges(task)),
    )


def _video(video: Mapping[str, object]) -> UpstreamVideo:
    duration = as_decimal(video.get("duration"))
    return UpstreamVideo(
        id=as_text(video.get("id")),
        url=as_text(video.get("url")),
        watermark_url=as_text(video.get("watermark_url")) or None,
        duration_seconds=None if duration is None else float(duration),
    )


def _charges(task: Mapping[str, object]) -> Iterator[Charge]:
    units = as_decimal(task.get("final_unit_deduction"))
    if units is not None:
        yield Charge(UNIT, units)
    balance = as_mapping(task.get("final_balance_deduction")) or {}
    cash = as_decimal(balance.get("quota"))
    # "0" stands beside every charge in units.
    if cash:
        yield Charge(CASH, cash, list_price=as_decimal(balance.get("list_price")))
