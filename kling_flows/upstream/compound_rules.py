"""The rules of camera movement, shots and voices (fact sheet 2.1 to 2.3)."""

from __future__ import annotations

from collections.abc import Iterator

from kling_flows.upstream.case import Case, Finding, check_length, check_voice_references
from kling_flows.upstream.constants import Dialect
from kling_flows.upstream.request import CameraConfig
from kling_flows.upstream.standard import SHOT_SEPARATOR, prompt_of_shots
from kling_flows.upstream.vocabulary import CameraMovement, Rule, ShotType, Sound
from kling_flows.upstream.wording import listed


def check_camera_control(case: Case) -> Iterator[Finding]:
    control = case.request.camera_control
    if control is None or case.lacks("camera_control"):
        return
    support = case.model.camera if case.model else None
    if support is None:
        able = case.able(lambda row: row.camera)
        remedy = (
            f"use {listed(able)}, or describe the movement in the prompt"
            if able
            else "the only one that did is retired, so describe the movement in the prompt instead"
        )
        subject = f"{case.request.model_name} does not take it" if able else "No model that still answers takes it"
        yield "camera_control", Rule.NOT_SUPPORTED, f"{subject}; {remedy}."
    elif (case.request.mode, case.request.duration) != (support.mode, support.duration):
        yield (
            "camera_control",
            Rule.CONTRADICTION,
            f"{case.request.model_name} takes it only with mode {support.mode.value!r} and {support.duration} s.",
        )
    if control.type is CameraMovement.SIMPLE:
        yield from _camera_config(control.config, case.map.limits.camera_axis)
    elif control.config is not None:
        yield (
            "camera_control.config",
            Rule.CONTRADICTION,
            f"{control.type.value!r} is a preset without a config; leave config out, or use 'simple'.",
        )


def _camera_config(config: CameraConfig | None, bounds: tuple[float, float]) -> Iterator[Finding]:
    if config is None:
        yield "camera_control.config", Rule.REQUIRED, "'simple' needs a config with one axis that is not 0."
        return
    axes: dict[str, float] = config.model_dump()
    low, high = bounds
    for axis, value in axes.items():
        if not low <= value <= high:
            yield f"camera_control.config.{axis}", Rule.OUT_OF_RANGE, f"It goes from {low:g} to {high:g}."
    moved = [axis for axis, value in axes.items() if value != 0]
    if not moved:
        yield "camera_control.config", Rule.REQUIRED, "Exactly one axis has to be other than 0; all are 0."
    elif len(moved) > 1:
        yield (
            "camera_control.config",
            Rule.CONTRADICTION,
            f"Exactly one axis may be other than 0; {listed(moved, 'and')} are. Keep one.",
        )


def check_multi_shot(case: Case) -> Iterator[Finding]:
    request = case.request
    if not request.multi_shot:
        for path, given in (("shot_type", request.shot_type), ("multi_prompt", request.multi_prompt)):
            if given:
                yield path, Rule.CONTRADICTION, "Kling ignores it without multi_shot; set multi_shot, or leave it out."
        return
    if case.model is not None and not case.model.multi_shot:
        able = case.able(lambda row: row.multi_shot)
        yield (
            "multi_shot",
            Rule.NOT_SUPPORTED,
            f"{request.model_name} makes single shots only; leave it out, or use {listed(able)}.",
        )
    if request.shot_type is None:
        yield "shot_type", Rule.REQUIRED, f"multi_shot needs it; use {listed([*ShotType])}."


def check_shots(case: Case) -> Iterator[Finding]:
    request, limits, shots = case.request, case.map.limits, case.request.multi_prompt
    if request.multi_shot and request.shot_type is ShotType.INTELLIGENCE and shots:
        yield (
            "multi_prompt",
            Rule.CONTRADICTION,
            "With shot_type 'intelligence' the model finds the shots; leave it out, or use 'customize'.",
        )
    if not case.customized:
        return
    if not shots:
        yield "multi_prompt", Rule.REQUIRED, f"shot_type 'customize' needs 1 to {limits.max_shots} shots."
        return
    if len(shots) > limits.max_shots:
        yield "multi_prompt", Rule.TOO_MANY, f"At most {limits.max_shots} shots; these are {len(shots)}."
    for number, shot in enumerate(shots):
        path = f"multi_prompt[{number}]"
        if not shot.prompt.strip():
            yield f"{path}.prompt", Rule.REQUIRED, "Say what the shot shows."
        yield from check_length(f"{path}.prompt", shot.prompt, limits.shot_prompt_limit)
        yield from check_voice_references(f"{path}.prompt", shot.prompt, case)
        if shot.duration < limits.min_shot_duration:
            yield f"{path}.duration", Rule.OUT_OF_RANGE, f"A shot lasts at least {limits.min_shot_duration} s."
        elif shot.duration > request.duration:
            yield (
                f"{path}.duration",
                Rule.OUT_OF_RANGE,
                f"A shot of {shot.duration} s does not fit into a video of {request.duration} s.",
            )
    total = sum(shot.duration for shot in shots)
    if total != request.duration:
        yield (
            "multi_prompt",
            Rule.CONTRADICTION,
            f"The shots last {total} s together and the video {request.duration} s; make both the same.",
        )


def check_composed_shots(case: Case) -> Iterator[Finding]:
    """What only shots that become one prompt have to keep (see `standard.prompt_of_shots`)."""
    if case.dialect is not Dialect.STANDARD or not case.customized:
        return
    shots = case.request.multi_prompt
    for number, shot in enumerate(shots):
        if SHOT_SEPARATOR in shot.prompt:
            yield (
                f"multi_prompt[{number}].prompt",
                Rule.MALFORMED,
                f"The standard dialect ends a shot at {SHOT_SEPARATOR!r}; write it without.",
            )
    length = len(prompt_of_shots(shots))
    if length > case.prompt_limit:
        yield (
            "multi_prompt",
            Rule.TOO_LONG,
            f"In the standard dialect the shots become one prompt, with {length} characters; shorten them to "
            f"{case.prompt_limit} together.",
        )


def check_voice_list(case: Case) -> Iterator[Finding]:
    voices, limits = case.request.voice_list, case.map.limits
    if not voices or case.lacks("voice_list"):
        return
    if case.model is not None and not case.model.voices:
        able = case.able(lambda row: row.voices)
        yield (
            "voice_list",
            Rule.NOT_SUPPORTED,
            f"{case.request.model_name} takes no voices; leave it out, or use {listed(able)}.",
        )
    if len(voices) > limits.max_voices:
        yield "voice_list", Rule.TOO_MANY, f"At most {limits.max_voices} voices; these are {len(voices)}."
    if case.request.sound is Sound.OFF:
        yield "voice_list", Rule.CONTRADICTION, "Voices need sound; set sound to 'on', or leave the voices out."
    for number, voice in enumerate(voices):
        if not voice.voice_id.strip():
            yield f"voice_list[{number}].voice_id", Rule.REQUIRED, "Give the id of the voice."
