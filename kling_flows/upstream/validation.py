"""The rules of a text-to-video request: every broken one, before anything is sent (fact sheet 2, 3)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import urlsplit

from kling_flows.errors import InvalidRequest, Violation
from kling_flows.upstream.capabilities import (
    CapabilityMap,
    ModelCapabilities,
    ProviderCapabilities,
    capability_map,
)
from kling_flows.upstream.constants import Provider
from kling_flows.upstream.request import CameraConfig, TextToVideoRequest
from kling_flows.upstream.vocabulary import CameraMovement, Mode, Rule, ShotType, Sound

_T = TypeVar("_T")

_VOICE_REFERENCE: Final = re.compile(r"<<<voice_([0-9]{1,9})>>>")


def check(request: TextToVideoRequest, provider: Provider) -> None:
    """Refuse a request that ``provider`` would refuse, or would charge for without doing what it says.

    Raises:
        InvalidRequest: With one violation for each broken rule.
    """
    violations = validate(request, provider)
    if violations:
        raise InvalidRequest(violations)


def validate(request: TextToVideoRequest, provider: Provider) -> tuple[Violation, ...]:
    """Return every broken rule, one violation each; empty if the request may be sent to ``provider``."""
    case = _Case.of(request, provider)
    return tuple(
        Violation(path, rule.value, message)
        for group in (
            _text,
            _prompt,
            _negative_prompt,
            _model_name,
            _mode,
            _duration,
            _aspect_ratio,
            _sound,
            _cfg_scale,
            _camera_control,
            _multi_shot,
            _shots,
            _voice_list,
            _callback_url,
            _absent_fields,
        )
        for path, rule, message in group(case)
    )


_Finding = tuple[str, Rule, str]


@dataclass(frozen=True, slots=True)
class _Case:
    """A request beside what it is measured against; ``model`` is ``None`` if no rule of a model applies."""

    request: TextToVideoRequest
    provider: Provider
    map: CapabilityMap
    narrowed: ProviderCapabilities
    model: ModelCapabilities | None

    @classmethod
    def of(cls, request: TextToVideoRequest, provider: Provider) -> _Case:
        known = capability_map()
        row = known.model.get(request.model_name)
        return cls(
            request=request,
            provider=provider,
            map=known,
            narrowed=known.provider[provider],
            # What a retired model could do is of no use to somebody who has to choose another.
            model=row if row is not None and row.living else None,
        )

    @property
    def customized(self) -> bool:
        return self.request.multi_shot and self.request.shot_type is ShotType.CUSTOMIZE


def _text(case: _Case) -> Iterator[_Finding]:
    request = case.request
    fields = [("prompt", request.prompt), ("negative_prompt", request.negative_prompt)]
    fields += [(f"multi_prompt[{number}].prompt", shot.prompt) for number, shot in enumerate(request.multi_prompt)]
    fields += [(f"voice_list[{number}].voice_id", voice.voice_id) for number, voice in enumerate(request.voice_list)]
    for path, value in fields:
        if not _is_unicode(value):
            yield path, Rule.MALFORMED, "Half of a surrogate pair is not a character; remove it."


def _prompt(case: _Case) -> Iterator[_Finding]:
    prompt = case.request.prompt
    given = bool(prompt.strip())
    if case.customized and given:
        yield (
            "prompt",
            Rule.CONTRADICTION,
            "Kling ignores it when shot_type is 'customize'; put its words into the shots of multi_prompt.",
        )
    if not case.customized and not given:
        yield "prompt", Rule.REQUIRED, "Say what the video shows."
    yield from _length("prompt", prompt, case.narrowed.prompt_limit)
    yield from _voice_references("prompt", prompt, case)


def _negative_prompt(case: _Case) -> Iterator[_Finding]:
    yield from _length("negative_prompt", case.request.negative_prompt, case.narrowed.negative_prompt_limit)


def _model_name(case: _Case) -> Iterator[_Finding]:
    name = case.request.model_name
    row = case.map.model.get(name)
    living = case.map.living_models
    if row is not None:
        if not row.living:
            yield "model_name", Rule.RETIRED_MODEL, f"{name} is retired and answers no more; use {row.successor}."
        return
    elsewhere = case.map.elsewhere.get(name)
    if elsewhere is not None:
        yield "model_name", Rule.NOT_SUPPORTED, f"{name} is not a model of text-to-video here. {elsewhere.hint}"
        return
    close = difflib.get_close_matches(name, living, n=1)
    advice = f"Did you mean {close[0]}? " if close else ""
    yield "model_name", Rule.UNKNOWN_MODEL, f"There is no such model. {advice}The models are {_listed(living)}."


def _mode(case: _Case) -> Iterator[_Finding]:
    mode, model, name = case.request.mode, case.model, case.request.model_name
    if model is not None and not model.modes:
        if mode is not Mode.STD:
            yield "mode", Rule.NOT_SUPPORTED, f"{name} has a single mode; leave mode out."
        return
    allowed = _narrowed(model.modes if model else None, case.narrowed.modes)
    if allowed is not None and mode not in allowed:
        who = _who(case, by_provider=model is None or mode in model.modes)
        yield "mode", Rule.NOT_SUPPORTED, f"{who} does not take mode {mode.value!r}; use {_listed(allowed)}."


def _duration(case: _Case) -> Iterator[_Finding]:
    duration, model = case.request.duration, case.model
    allowed = _narrowed(model.durations if model else None, case.narrowed.durations)
    if allowed is None:
        if duration < 1:
            yield "duration", Rule.OUT_OF_RANGE, f"A video cannot last {duration} s."
    elif duration not in allowed:
        who = _who(case, by_provider=model is None or duration in model.durations)
        yield "duration", Rule.OUT_OF_RANGE, f"{who} makes videos of {_seconds(allowed)}, not of {duration} s."


def _aspect_ratio(case: _Case) -> Iterator[_Finding]:
    allowed = case.map.limits.aspect_ratios
    if case.request.aspect_ratio not in allowed:
        yield "aspect_ratio", Rule.NOT_SUPPORTED, f"Use {_listed(allowed)}."


def _sound(case: _Case) -> Iterator[_Finding]:
    request, model = case.request, case.model
    if request.sound is Sound.OFF or model is None:
        return
    if not model.sound:
        able = _living_with(case.map, lambda row: row.sound)
        yield (
            "sound",
            Rule.NOT_SUPPORTED,
            f"{request.model_name} makes no sound; leave it 'off', or use {_listed(able)}.",
        )
    elif request.mode in model.modes and request.mode not in model.sound:
        yield (
            "sound",
            Rule.CONTRADICTION,
            f"{request.model_name} makes sound only in mode {_listed(model.sound)}, not in {request.mode.value!r}.",
        )


def _cfg_scale(case: _Case) -> Iterator[_Finding]:
    value = case.request.cfg_scale
    if value is None:
        return
    low, high = case.map.limits.cfg_scale
    if not low <= value <= high:
        yield "cfg_scale", Rule.OUT_OF_RANGE, f"It goes from {low:g} to {high:g}."
    if case.model is not None and not case.model.cfg_scale:
        able = _living_with(case.map, lambda row: row.cfg_scale)
        yield (
            "cfg_scale",
            Rule.NOT_SUPPORTED,
            f"{case.request.model_name} does not take it; leave it out, or use {_listed(able)}.",
        )


def _camera_control(case: _Case) -> Iterator[_Finding]:
    control = case.request.camera_control
    if control is None:
        return
    support = case.model.camera if case.model else None
    if support is None:
        able = _living_with(case.map, lambda row: row.camera)
        remedy = (
            f"use {_listed(able)}, or describe the movement in the prompt"
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


def _camera_config(config: CameraConfig | None, bounds: tuple[float, float]) -> Iterator[_Finding]:
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
            f"Exactly one axis may be other than 0; {_listed(moved, 'and')} are. Keep one.",
        )


def _multi_shot(case: _Case) -> Iterator[_Finding]:
    request = case.request
    if not request.multi_shot:
        for path, given in (("shot_type", request.shot_type), ("multi_prompt", request.multi_prompt)):
            if given:
                yield path, Rule.CONTRADICTION, "Kling ignores it without multi_shot; set multi_shot, or leave it out."
        return
    if case.model is not None and not case.model.multi_shot:
        able = _living_with(case.map, lambda row: row.multi_shot)
        yield (
            "multi_shot",
            Rule.NOT_SUPPORTED,
            f"{request.model_name} makes single shots only; leave it out, or use {_listed(able)}.",
        )
    if request.shot_type is None:
        yield "shot_type", Rule.REQUIRED, f"multi_shot needs it; use {_listed([*ShotType])}."


def _shots(case: _Case) -> Iterator[_Finding]:
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
        yield from _length(f"{path}.prompt", shot.prompt, limits.shot_prompt_limit)
        yield from _voice_references(f"{path}.prompt", shot.prompt, case)
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


def _voice_list(case: _Case) -> Iterator[_Finding]:
    voices, limits = case.request.voice_list, case.map.limits
    if not voices:
        return
    if case.model is not None and not case.model.voices:
        able = _living_with(case.map, lambda row: row.voices)
        yield (
            "voice_list",
            Rule.NOT_SUPPORTED,
            f"{case.request.model_name} takes no voices; leave it out, or use {_listed(able)}.",
        )
    if len(voices) > limits.max_voices:
        yield "voice_list", Rule.TOO_MANY, f"At most {limits.max_voices} voices; these are {len(voices)}."
    if case.request.sound is Sound.OFF:
        yield "voice_list", Rule.CONTRADICTION, "Voices need sound; set sound to 'on', or leave the voices out."
    for number, voice in enumerate(voices):
        if not voice.voice_id.strip():
            yield f"voice_list[{number}].voice_id", Rule.REQUIRED, "Give the id of the voice."


def _callback_url(case: _Case) -> Iterator[_Finding]:
    url = case.request.callback_url
    # The message does not repeat the URL: it can carry a token.
    if url is not None and not _is_http_url(url):
        yield "callback_url", Rule.MALFORMED, "Give an absolute http or https URL with a host, or leave it out."


def _absent_fields(case: _Case) -> Iterator[_Finding]:
    fields = TextToVideoRequest.model_fields
    for name in case.narrowed.absent_fields:
        if getattr(case.request, name) != fields[name].default:
            yield (
                name,
                Rule.NOT_SUPPORTED,
                f"{case.provider.value} documents no such field, and what it does not pass on is paid for all the "
                f"same; leave it out, or use provider {Provider.KLING.value}.",
            )


def _length(path: str, value: str, limit: int) -> Iterator[_Finding]:
    # Kling says "characters" and no more; code points are the stricter reading of those that people mean by it.
    if len(value) > limit:
        yield path, Rule.TOO_LONG, f"It has {len(value)} characters; shorten it to {limit}."


def _voice_references(path: str, value: str, case: _Case) -> Iterator[_Finding]:
    known = len(case.request.voice_list)
    wrong = {int(number) for number in _VOICE_REFERENCE.findall(value)} - set(range(1, known + 1))
    if wrong:
        named = _listed([f"<<<voice_{number}>>>" for number in sorted(wrong)], "and")
        yield path, Rule.CONTRADICTION, f"It refers to {named}, and voice_list has {known or 'no'} voices."


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_http_url(url: str) -> bool:
    # `urlsplit` drops line breaks and tabs without a word.
    if not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _narrowed(model: Sequence[_T] | None, provider: Sequence[_T] | None) -> tuple[_T, ...] | None:
    if model is None:
        return None if provider is None else tuple(provider)
    return tuple(value for value in model if provider is None or value in provider)


def _who(case: _Case, *, by_provider: bool) -> str:
    return case.provider.value if by_provider else case.request.model_name


def _living_with(known: CapabilityMap, ability: Callable[[ModelCapabilities], object]) -> list[str]:
    return [name for name in known.living_models if ability(known.model[name])]


def _seconds(values: Sequence[int]) -> str:
    if len(values) > 2 and list(values) == list(range(values[0], values[-1] + 1)):
        return f"{values[0]} to {values[-1]} s"
    return f"{_listed(values)} s"


def _listed(values: Sequence[object], last: str = "or") -> str:
    words = [str(value) for value in values] or ["nothing"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
