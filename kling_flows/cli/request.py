"""From options to a request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from kling_flows.cli.video import VideoOptions
from kling_flows.cli.words import CameraAxis, CameraType, LateVideo, ShotType, State
from kling_flows.v1.text_to_video_pb2 import CameraConfig, CameraControl, Shot, TextToVideo, Voice, WatermarkInfo
from kling_flows.v1.video_task_pb2 import LateVideo as LateVideoMessage

_NAME_PREFIX: Final = "videoTasks/"

_SPAN: Final = re.compile("([0-9]{1,9})([smhd])")
_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def text_to_video(options: VideoOptions, *, callback_url: str = "") -> TextToVideo:
    """The specification that the options mean.

    Raises:
        typer.BadParameter: an option cannot be read. Whether the provider takes it is for the server to say.
    """
    shots = [_shot(text) for text in options.shots]
    shot_type = options.shot_type or (ShotType.CUSTOMIZE if shots else None)
    return TextToVideo(
        prompt=options.prompt,
        negative_prompt=options.negative_prompt,
        model_name=options.model,
        mode=TextToVideo.Mode.Value(options.mode.name) if options.mode else TextToVideo.MODE_UNSPECIFIED,
        # The shots' lengths have to sum to the video's, so that naming them is enough.
        duration=options.duration or sum(shot.duration for shot in shots),
        aspect_ratio=options.aspect_ratio,
        cfg_scale=options.cfg_scale,
        sound=TextToVideo.Sound.Value(options.sound.name) if options.sound else TextToVideo.SOUND_UNSPECIFIED,
        camera_control=_camera(options.camera, options.camera_axes),
        multi_shot=options.multi_shot or shot_type is not None,
        shot_type=TextToVideo.ShotType.Value(shot_type.name) if shot_type else TextToVideo.SHOT_TYPE_UNSPECIFIED,
        multi_prompt=shots,
        voice_list=[Voice(voice_id=voice) for voice in options.voices],
        watermark_info=WatermarkInfo(enabled=True) if options.watermark else None,
        callback_url=callback_url,
    )


def labels(pairs: Sequence[str]) -> Mapping[str, str]:
    """Labels from ``key=value`` each.

    Raises:
        typer.BadParameter: one has no ``=``.
    """
    result: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is not key=value; for example team=ads", param_hint="--label")
        result[key] = value
    return result


def task_filter(state: State | None, label_pairs: Sequence[str], expression: str) -> str:
    """One filter expression that holds all conditions.

    Raises:
        typer.BadParameter: a label has no ``=``.
    """
    conditions = [f"state = {state.value}"] if state else []
    conditions.extend(f"labels.{key} = {_quoted(value)}" for key, value in labels(label_pairs).items())
    if expression:
        conditions.append(expression)
    return " AND ".join(conditions)


def late_video(word: LateVideo | None) -> LateVideoMessage.ValueType:
    """The protos' value; None is the server's default."""
    return LateVideoMessage.Value("LATE_VIDEO_UNSPECIFIED" if word is None else word.name)


def moment_in(text: str, option: str) -> Timestamp:
    """The moment that a span from now, or a moment itself, means.

    Raises:
        typer.BadParameter: ``text`` is neither; ``option`` is named.
    """
    span = _SPAN.fullmatch(text)
    try:
        if span is not None:
            moment = datetime.now(UTC) + timedelta(seconds=int(span[1]) * _UNIT_SECONDS[span[2]])
        else:
            moment = datetime.fromisoformat(text)
        result = Timestamp()
        # Without a zone it is this machine's.
        result.FromDatetime(moment.astimezone(UTC))
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is neither a span such as 90s, 15m, 2h or 3d, nor a moment such as 2026-12-01T09:00:00Z",
            param_hint=option,
        ) from None
    return result


def resource_name(task_id: str) -> str:
    """The name of the video task that a person means by its id or its name."""
    return task_id if task_id.startswith(_NAME_PREFIX) else _NAME_PREFIX + task_id


def short_id(name: str) -> str:
    """A video task's id, as it is shown."""
    return name.removeprefix(_NAME_PREFIX)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _camera(kind: CameraType | None, axes: Sequence[str]) -> CameraControl | None:
    if kind is None and not axes:
        return None
    config = CameraConfig(**dict(_axis(text) for text in axes)) if axes else None
    return CameraControl(type=CameraControl.Type.Value((kind or CameraType.SIMPLE).name), config=config)


def _axis(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return CameraAxis(name).value, float(number)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not AXIS=NUMBER with one of {', '.join(CameraAxis)}; for example zoom=5",
            param_hint="--camera-axis",
        ) from None


def _shot(text: str) -> Shot:
    seconds, colon, prompt = text.partition(":")
    if not colon or not seconds.strip().isdecimal() or len(seconds) > 4:
        raise typer.BadParameter(f"{text!r} is not SECONDS:PROMPT; for example '3:a fox wakes'", param_hint="--shot")
    return Shot(duration=int(seconds), prompt=prompt.strip())
