"""What to make, between the wire (TextToVideo) and the library (TextToVideoRequest)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from kling_flows.errors import InvalidRequest, Violation
from kling_flows.upstream import CameraMovement, Mode, Rule, ShotType, Sound, TextToVideoRequest, parse_request
from kling_flows.v1 import text_to_video_pb2 as pb

_MODES: Final[Mapping[int, Mode]] = {
    pb.TextToVideo.STD: Mode.STD,
    pb.TextToVideo.PRO: Mode.PRO,
    pb.TextToVideo.FOUR_K: Mode.FOUR_K,
}
_SOUNDS: Final[Mapping[int, Sound]] = {pb.TextToVideo.OFF: Sound.OFF, pb.TextToVideo.ON: Sound.ON}
_SHOT_TYPES: Final[Mapping[int, ShotType]] = {
    pb.TextToVideo.CUSTOMIZE: ShotType.CUSTOMIZE,
    pb.TextToVideo.INTELLIGENCE: ShotType.INTELLIGENCE,
}
_MOVEMENTS: Final[Mapping[int, CameraMovement]] = {
    pb.CameraControl.SIMPLE: CameraMovement.SIMPLE,
    pb.CameraControl.DOWN_BACK: CameraMovement.DOWN_BACK,
    pb.CameraControl.FORWARD_UP: CameraMovement.FORWARD_UP,
    pb.CameraControl.RIGHT_TURN_FORWARD: CameraMovement.RIGHT_TURN_FORWARD,
    pb.CameraControl.LEFT_TURN_FORWARD: CameraMovement.LEFT_TURN_FORWARD,
}
_MODE_NUMBERS: Final = {mode: pb.TextToVideo.Mode.ValueType(number) for number, mode in _MODES.items()}
_SOUND_NUMBERS: Final = {sound: pb.TextToVideo.Sound.ValueType(number) for number, sound in _SOUNDS.items()}
_SHOT_TYPE_NUMBERS: Final = {kind: pb.TextToVideo.ShotType.ValueType(number) for number, kind in _SHOT_TYPES.items()}
_MOVEMENT_NUMBERS: Final = {move: pb.CameraControl.Type.ValueType(number) for number, move in _MOVEMENTS.items()}

#: Where 0 on the wire means that the caller left it to us: the request model then fills in its own default.
_ABSENT_IF_ZERO: Final = ("negative_prompt", "model_name", "duration", "aspect_ratio", "callback_url")


def read_spec(spec: pb.TextToVideo) -> tuple[TextToVideoRequest, list[Violation]]:
    """The request, and what of it cannot be said in a request; paths are relative to the spec.

    A value with a violation is replaced by one that breaks no rule, so that the other rules can still be checked.
    """
    prompt = spec.prompt
    spec.ClearField("prompt")
    encoded = spec.SerializeToString()
    spec.prompt = prompt
    read = _read_kept if len(encoded) <= _MOST_KEPT else _read_without_prompt
    request, violations = read(encoded)
    if request is None:
        return TextToVideoRequest(prompt="-"), [*violations]
    return request.model_copy(update={"prompt": prompt}), [*violations]


#: Bytes of a spec that is kept, without its prompt; it may be megabytes.
_MOST_KEPT: Final = 256


def _read_without_prompt(encoded: bytes) -> tuple[TextToVideoRequest | None, tuple[Violation, ...]]:
    spec = pb.TextToVideo.FromString(encoded)
    violations: list[Violation] = []
    data: dict[str, Any] = {name: value for name in _ABSENT_IF_ZERO if (value := getattr(spec, name))}
    if spec.HasField("cfg_scale"):
        data["cfg_scale"] = spec.cfg_scale
    for field, number, words in (
        ("mode", spec.mode, _MODES),
        ("sound", spec.sound, _SOUNDS),
        ("shot_type", spec.shot_type, _SHOT_TYPES),
    ):
        if number in words:
            data[field] = words[number]
        elif number:
            violations.append(_unknown(field, number, words))
    if spec.HasField("camera_control"):
        data["camera_control"] = _read_camera(spec.camera_control, violations)
    data["multi_shot"] = spec.multi_shot
    data["multi_prompt"] = [{"prompt": shot.prompt, "duration": shot.duration} for shot in spec.multi_prompt]
    data["voice_list"] = [{"voice_id": voice.voice_id} for voice in spec.voice_list]
    if spec.HasField("watermark_info"):
        data["watermark_info"] = {"enabled": spec.watermark_info.enabled}
    try:
        return parse_request(data), tuple(violations)
    except InvalidRequest as error:
        return None, (*violations, *error.violations)


#: Most callers' specs differ in nothing but their prompts.
_read_kept: Final = lru_cache(maxsize=512)(_read_without_prompt)


def _read_camera(control: pb.CameraControl, violations: list[Violation]) -> dict[str, Any]:
    has_config = control.HasField("config")
    movement = _MOVEMENTS.get(control.type)
    if movement is None:
        violations.append(
            _unknown("camera_control.type", control.type, _MOVEMENTS)
            if control.type
            else Violation("camera_control.type", Rule.REQUIRED.value, f"Use {_listed(_MOVEMENTS)}.")
        )
        movement = CameraMovement.SIMPLE if has_config else CameraMovement.DOWN_BACK
    data: dict[str, Any] = {"type": movement}
    if has_config:
        config = control.config
        data["config"] = {
            axis: getattr(config, axis) for axis in ("horizontal", "vertical", "pan", "tilt", "roll", "zoom")
        }
    return data


def _unknown(field: str, number: int, words: Mapping[int, Any]) -> Violation:
    return Violation(
        field, Rule.WRONG_WORD.value, f"{number} is not a value that this server knows; use {_listed(words)}."
    )


def _listed(words: Mapping[int, Any]) -> str:
    names = [word.name for word in words.values()]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def write_spec(request: TextToVideoRequest) -> pb.TextToVideo:
    """The spec as the wire has it; defaults are filled in, so that a caller sees what will be made."""
    spec = pb.TextToVideo(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        model_name=request.model_name,
        mode=_MODE_NUMBERS[request.mode],
        duration=request.duration,
        aspect_ratio=request.aspect_ratio,
        cfg_scale=request.cfg_scale,
        sound=_SOUND_NUMBERS[request.sound],
        multi_shot=request.multi_shot,
        shot_type=_SHOT_TYPE_NUMBERS[request.shot_type] if request.shot_type else pb.TextToVideo.SHOT_TYPE_UNSPECIFIED,
        callback_url=request.callback_url or "",
    )
    if request.multi_prompt:
        spec.multi_prompt.extend(pb.Shot(prompt=shot.prompt, duration=shot.duration) for shot in request.multi_prompt)
    if request.voice_list:
        spec.voice_list.extend(pb.Voice(voice_id=voice.voice_id) for voice in request.voice_list)
    if request.watermark_info is not None:
        spec.watermark_info.enabled = request.watermark_info.enabled
        spec.watermark_info.SetInParent()
    if request.camera_control is not None:
        spec.camera_control.type = _MOVEMENT_NUMBERS[request.camera_control.type]
        if request.camera_control.config is not None:
            spec.camera_control.config.CopyFrom(pb.CameraConfig(**request.camera_control.config.model_dump()))
    return spec
