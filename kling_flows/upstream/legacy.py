"""The legacy dialect: ``/v1/videos/text2video``, which Kling and CometAPI both speak (fact sheet 2.1, 4).

Bodies are read tolerantly: fields that are absent, ``null``, new or of another type never cost a task that is there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from kling_flows.upstream.body import as_mapping, as_sequence, as_text
from kling_flows.upstream.capabilities import capability_map
from kling_flows.upstream.constants import StatusWord
from kling_flows.upstream.legacy_errors import classify, is_refusal
from kling_flows.upstream.request import CameraControl, TextToVideoRequest
from kling_flows.upstream.task import UpstreamStatus, UpstreamTask, UpstreamVideo
from kling_flows.upstream.vocabulary import Mode, Sound

__all__ = ["UnreadableAnswer", "classify", "encode_create", "is_refusal", "parse_list", "parse_task"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: A relay has wrapped Kling's answer, and so put the task this many ``data`` deep (fact sheet 4.5).
_DEEPEST: Final = 3
_STATUS: Final[Mapping[str, UpstreamStatus]] = {
    StatusWord.SUBMITTED: UpstreamStatus.SUBMITTED,
    StatusWord.PROCESSING: UpstreamStatus.PROCESSING,
    StatusWord.SUCCEED: UpstreamStatus.SUCCEEDED,
    StatusWord.FAILED: UpstreamStatus.FAILED,
}


class UnreadableAnswer(ValueError):
    """An answer holds no task, or no list of tasks."""


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
    model = capability_map().model.get(request.model_name)
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
    levels = list(_levels(payload))
    tasks = [level for level in levels if as_text(level.get("task_id"))]
    if not tasks:
        raise UnreadableAnswer("the answer holds no task_id")
    # A wrapper has a task_id as well, but Kling's own object alone has Kling's status.
    task = next((level for level in tasks if as_text(level.get("task_status"))), tasks[0])
    return _task(task, _request_id(levels))


def parse_list(payload: Mapping[str, Any]) -> tuple[UpstreamTask, ...]:
    """Read the tasks of a page, in the order of the answer; items without an id are passed over.

    Raises:
        UnreadableAnswer: There is no list.
    """
    levels = list(_levels(payload))
    for level in levels:
        if "data" not in level:
            continue
        data = level["data"]
        items = () if data is None else as_sequence(data)
        if items is not None:
            found = [task for task in map(as_mapping, items) if task is not None and as_text(task.get("task_id"))]
            return tuple(_task(task, _request_id(levels)) for task in found)
    raise UnreadableAnswer("the answer holds no list of tasks")


def _encode_camera(control: CameraControl) -> dict[str, Any]:
    body: dict[str, Any] = {"type": control.type.value}
    if control.config is not None:
        axes: dict[str, float] = control.config.model_dump()
        # CometAPI types the axes as integers, Kling as floats (fact sheet 2.4).
        body["config"] = {axis: int(value) if value.is_integer() else value for axis, value in axes.items()}
    return body


def _levels(payload: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    level: Mapping[str, object] | None = payload
    for _ in range(_DEEPEST + 1):
        if level is None:
            return
        yield level
        level = as_mapping(level.get("data"))


def _request_id(levels: list[Mapping[str, object]]) -> str:
    return next((found for level in levels if (found := as_text(level.get("request_id")))), "")


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
        created_at=_moment(task.get("created_at")),
        updated_at=_moment(task.get("updated_at")),
        videos=tuple(_video(video) for video in videos if video is not None and as_text(video.get("url"))),
        unit_deduction=_decimal(task.get("final_unit_deduction")),
    )


def _video(video: Mapping[str, object]) -> UpstreamVideo:
    duration = _decimal(video.get("duration"))
    return UpstreamVideo(
        id=as_text(video.get("id")),
        url=as_text(video.get("url")),
        watermark_url=as_text(video.get("watermark_url")) or None,
        duration_seconds=None if duration is None else float(duration),
    )


def _moment(value: object) -> datetime | None:
    milliseconds = _decimal(value)
    if milliseconds is None:
        return None
    try:
        return _EPOCH + timedelta(milliseconds=int(milliseconds))
    except OverflowError:
        return None


def _decimal(value: object) -> Decimal | None:
    """Return a number, also where it came as text; ``None`` for anything that is not a finite one."""
    text = repr(value) if isinstance(value, float) and math.isfinite(value) else as_text(value)
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
