"""The rules of a text-to-video request: every broken one, before anything is sent (fact sheet 2, 3)."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Final, TypeVar

from kling_flows.errors import InvalidRequest, Violation
from kling_flows.upstream.capabilities import capability_map, require_dialect
from kling_flows.upstream.case import Case, Finding, check_length, check_voice_references
from kling_flows.upstream.compound_rules import (
    check_camera_control,
    check_composed_shots,
    check_multi_shot,
    check_shots,
    check_voice_list,
)
from kling_flows.upstream.constants import Dialect, Provider
from kling_flows.upstream.known import Known
from kling_flows.upstream.request import TextToVideoRequest
from kling_flows.upstream.vocabulary import Mode, Rule, Sound
from kling_flows.upstream.wording import is_http_url, is_unicode, listed, seconds

_T = TypeVar("_T")


def check(request: TextToVideoRequest, provider: Provider, dialect: Dialect = Dialect.LEGACY) -> None:
    """Refuse a request that ``provider`` would refuse, or would charge for without doing what it says.

    Raises:
        InvalidRequest: With one violation for each broken rule.
        ConfigurationError: The provider does not speak the dialect.
    """
    violations = validate(request, provider, dialect)
    if violations:
        raise InvalidRequest(violations)


def validate(
    request: TextToVideoRequest, provider: Provider, dialect: Dialect = Dialect.LEGACY
) -> tuple[Violation, ...]:
    """Return every broken rule, one violation each; empty if the request may be sent to ``provider``.

    Raises:
        ConfigurationError: The provider does not speak the dialect.
    """
    case, others = _judged_without_prompt(request, provider, dialect)
    own = tuple(Violation(path, rule.value, message) for path, rule, message in _prompt(request.prompt, case))
    return own + others


#: What is judged of a request whatever its prompt: most callers' requests differ in nothing else.
_WITHOUT_PROMPT: Final[Known[tuple[Case, tuple[Violation, ...]]]] = Known(capability_map)
_beside_prompt: Final = attrgetter(*(name for name in TextToVideoRequest.model_fields if name != "prompt"))

#: Characters of what is kept; a request may be megabytes.
_MOST_KEPT: Final = 3_000


def _judged_without_prompt(
    request: TextToVideoRequest, provider: Provider, dialect: Dialect
) -> tuple[Case, tuple[Violation, ...]]:
    length = len(request.model_name) + len(request.negative_prompt) + len(request.aspect_ratio)
    if length > _MOST_KEPT or request.multi_prompt or request.voice_list or request.callback_url:
        return _judge_without_prompt(request, provider, dialect)
    asked = (provider, dialect, *_beside_prompt(request))
    return _WITHOUT_PROMPT.answer(asked, lambda: _judge_without_prompt(request, provider, dialect))


def _judge_without_prompt(
    request: TextToVideoRequest, provider: Provider, dialect: Dialect
) -> tuple[Case, tuple[Violation, ...]]:
    require_dialect(provider, dialect)
    case = Case.of(request.model_copy(update={"prompt": ""}), provider, dialect)
    return case, tuple(
        Violation(path, rule.value, message)
        for group in (
            _text,
            _negative_prompt,
            _model_name,
            _mode,
            _duration,
            _aspect_ratio,
            _sound,
            _cfg_scale,
            check_camera_control,
            check_multi_shot,
            check_shots,
            check_composed_shots,
            check_voice_list,
            _callback_url,
            _absent_fields,
        )
        for path, rule, message in group(case)
    )


def _text(case: Case) -> Iterator[Finding]:
    request = case.request
    fields = [("negative_prompt", request.negative_prompt)]
    fields += [(f"multi_prompt[{number}].prompt", shot.prompt) for number, shot in enumerate(request.multi_prompt)]
    fields += [(f"voice_list[{number}].voice_id", voice.voice_id) for number, voice in enumerate(request.voice_list)]
    for path, value in fields:
        yield from _characters(path, value)


def _characters(path: str, value: str) -> Iterator[Finding]:
    if not is_unicode(value):
        yield path, Rule.MALFORMED, "Half of a surrogate pair is not a character; remove it."


def _prompt(prompt: str, case: Case) -> Iterator[Finding]:
    """The rules of the prompt of a request that is as ``case`` has it in all else."""
    yield from _characters("prompt", prompt)
    given = bool(prompt.strip())
    if case.customized and given:
        yield (
            "prompt",
            Rule.CONTRADICTION,
            "Kling ignores it when shot_type is 'customize'; put its words into the shots of multi_prompt.",
        )
    if not case.customized and not given:
        yield "prompt", Rule.REQUIRED, "Say what the video shows."
    yield from check_length("prompt", prompt, case.prompt_limit)
    yield from check_voice_references("prompt", prompt, case)


def _negative_prompt(case: Case) -> Iterator[Finding]:
    if not case.lacks("negative_prompt"):
        yield from check_length("negative_prompt", case.request.negative_prompt, case.narrowed.negative_prompt_limit)


def _model_name(case: Case) -> Iterator[Finding]:
    name = case.request.model_name
    row = case.map.model.get(name)
    if row is not None and case.model is not None:
        return
    living = case.map.living_in(case.dialect)
    if row is not None:
        if not row.living:
            yield "model_name", Rule.RETIRED_MODEL, f"{name} is retired and answers no more; use {row.successor}."
        else:
            other = next(dialect for dialect in Dialect if row.abilities(dialect))
            yield (
                "model_name",
                Rule.NOT_SUPPORTED,
                f"{name} exists in the {other} dialect only; use {row.successor or living[0]}.",
            )
        return
    canonical = case.map.by_path(name)
    if canonical is not None:
        yield (
            "model_name",
            Rule.NOT_SUPPORTED,
            f"{name} is its name in the path of the standard dialect; here, in either dialect, it is {canonical}.",
        )
        return
    elsewhere = case.map.elsewhere.get(name)
    if elsewhere is not None:
        yield "model_name", Rule.NOT_SUPPORTED, f"{name} is not a model of text-to-video here. {elsewhere.hint}"
        return
    close = difflib.get_close_matches(name, living, n=1)
    advice = f"Did you mean {close[0]}? " if close else ""
    yield "model_name", Rule.UNKNOWN_MODEL, f"There is no such model. {advice}The models are {listed(living)}."


def _mode(case: Case) -> Iterator[Finding]:
    mode, model, name = case.request.mode, case.model, case.request.model_name
    if model is not None and not model.modes:
        if mode is not Mode.STD:
            yield "mode", Rule.NOT_SUPPORTED, f"{name} has a single mode; leave mode out."
        return
    allowed = _narrowed(model.modes if model else None, case.narrowed.modes)
    if allowed is not None and mode not in allowed:
        who = _who(case, by_provider=model is None or mode in model.modes)
        yield "mode", Rule.NOT_SUPPORTED, f"{who} does not take mode {mode.value!r}; use {listed(allowed)}."


def _duration(case: Case) -> Iterator[Finding]:
    duration, model = case.request.duration, case.model
    allowed = _narrowed(model.durations if model else None, case.narrowed.durations)
    if allowed is None:
        if duration < 1:
            yield "duration", Rule.OUT_OF_RANGE, f"A video cannot last {duration} s."
    elif duration not in allowed:
        who = _who(case, by_provider=model is None or duration in model.durations)
        yield "duration", Rule.OUT_OF_RANGE, f"{who} makes videos of {seconds(allowed)}, not of {duration} s."


def _aspect_ratio(case: Case) -> Iterator[Finding]:
    allowed = case.map.limits.aspect_ratios
    if case.request.aspect_ratio not in allowed:
        yield "aspect_ratio", Rule.NOT_SUPPORTED, f"Use {listed(allowed)}."


def _sound(case: Case) -> Iterator[Finding]:
    request, model = case.request, case.model
    if request.sound is Sound.OFF or model is None:
        return
    if not model.sound:
        able = case.able(lambda row: row.sound)
        yield (
            "sound",
            Rule.NOT_SUPPORTED,
            f"{request.model_name} makes no sound; leave it 'off', or use {listed(able)}.",
        )
    elif request.mode in model.modes and request.mode not in model.sound:
        yield (
            "sound",
            Rule.CONTRADICTION,
            f"{request.model_name} makes sound only in mode {listed(model.sound)}, not in {request.mode.value!r}.",
        )


def _cfg_scale(case: Case) -> Iterator[Finding]:
    value = case.request.cfg_scale
    if value is None or case.lacks("cfg_scale"):
        return
    low, high = case.map.limits.cfg_scale
    if not low <= value <= high:
        yield "cfg_scale", Rule.OUT_OF_RANGE, f"It goes from {low:g} to {high:g}."
    if case.model is not None and not case.model.cfg_scale:
        able = case.able(lambda row: row.cfg_scale)
        yield (
            "cfg_scale",
            Rule.NOT_SUPPORTED,
            f"{case.request.model_name} does not take it; leave it out, or use {listed(able)}.",
        )


def _callback_url(case: Case) -> Iterator[Finding]:
    url = case.request.callback_url
    # The message does not repeat the URL: it can carry a token.
    if url is not None and not is_http_url(url):
        yield "callback_url", Rule.MALFORMED, "Give an absolute http or https URL with a host, or leave it out."


def _absent_fields(case: Case) -> Iterator[Finding]:
    fields = TextToVideoRequest.model_fields
    absent = {*case.map.dialect[case.dialect].absent_fields, *case.narrowed.absent_fields}
    given = [name for name, field in fields.items() if name in absent and getattr(case.request, name) != field.default]
    for name in given:
        if case.lacks(name):
            yield (
                name,
                Rule.NOT_SUPPORTED,
                f"The {case.dialect} dialect has no such field; leave it out, or use the legacy dialect.",
            )
        else:
            yield (
                name,
                Rule.NOT_SUPPORTED,
                f"{case.provider.value} documents no such field, and what it does not pass on is paid for all the "
                f"same; leave it out, or use provider {Provider.KLING.value}.",
            )


def _narrowed(model: Sequence[_T] | None, provider: Sequence[_T] | None) -> tuple[_T, ...] | None:
    if model is None:
        return None if provider is None else tuple(provider)
    return tuple(value for value in model if provider is None or value in provider)


def _who(case: Case, *, by_provider: bool) -> str:
    return case.provider.value if by_provider else case.request.model_name
