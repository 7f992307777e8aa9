"""Reads a legacy create's body as Kling does: unknown fields are ignored, known ones are checked (fact sheet 2.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from kling_flows.sandbox.errors import Refusal, invalid
from kling_flows.sandbox.fields import (
    an_object,
    array,
    check_length,
    flag,
    invalid_value,
    number,
    one_of,
    seconds_text,
    text,
    top_level,
    watermark,
)
from kling_flows.sandbox.models import LEGACY_NAMES, MODELS, Model, units
from kling_flows.upstream.constants import Dialect, KlingCode

#: Longest ``prompt`` and ``negative_prompt`` in characters, and longest prompt of one shot.
MAX_PROMPT: Final = 2500
MAX_SHOT_PROMPT: Final = 512
MAX_SHOTS: Final = 6
MAX_VOICES: Final = 2

#: A create with this in its prompt is refused for its content.
REJECT_MARK: Final = "[sandbox:reject]"
#: A task with this in its prompt ends as failed.
FAIL_MARK: Final = "[sandbox:fail]"
#: A task with this in its prompt never ends.
STUCK_MARK: Final = "[sandbox:stuck]"

_DEFAULT_MODEL: Final = "kling-v1"
_ASPECT_RATIOS: Final = ("16:9", "9:16", "1:1")
_CAMERA_PRESETS: Final = ("down_back", "forward_up", "right_turn_forward", "left_turn_forward")
_CAMERA_AXES: Final = ("horizontal", "vertical", "pan", "tilt", "roll", "zoom")
_CAMERA_REFUSED: Final = "camera_control is only supported in std mode with 5s duration and kling-v1"


@dataclass(frozen=True, slots=True)
class Text2Video:
    """A valid order.

    Args:
        model_name: The model.
        mode: ``std``, ``pro`` or ``4k``.
        aspect_ratio: ``16:9``, ``9:16`` or ``1:1``.
        seconds: Ordered length.
        sound: Whether sound is ordered.
        voice: Whether a voice of the caller's is ordered.
        watermark: Whether a second file with a watermark is ordered.
        words: The prompt; of a customized multi-shot order its shots, since the prompt does not count there.
        external_task_id: The caller's own id; ``None`` where there is none.
        callback_url: Where changes of state are reported; ``None`` where nobody wants to know.
        dialect: The generation of the API that it came by.
    """

    model_name: str
    mode: str
    aspect_ratio: str
    seconds: int
    sound: bool
    voice: bool
    watermark: bool
    words: str
    external_task_id: str | None
    callback_url: str | None = None
    dialect: Dialect = Dialect.LEGACY

    @property
    def units(self) -> Decimal:
        """Price in video units."""
        return units(self.model_name, self.mode, self.seconds, sound=self.sound, voice=self.voice)

    @property
    def version(self) -> str:
        """The model version whose slots it takes: the same by either dialect (fact sheet 7.2)."""
        return LEGACY_NAMES.get(self.model_name, self.model_name)

    @property
    def searchable(self) -> str:
        """What the ``match`` of a fault looks at: the prompt and the external id."""
        return f"{self.words}\n{self.external_task_id or ''}"


def parse_order(body: object, *, discontinued: frozenset[str]) -> Text2Video:
    """Check a create's body, decoded from JSON.

    ``model`` is an unknown field like any other: the official API takes an order that has only that for one of the
    default model (fact sheet 2.1).

    Args:
        body: The body.
        discontinued: Models that are refused as discontinued.

    Raises:
        Refusal: The order breaks a rule; the first one found.
    """
    fields = top_level(body)
    name = text(fields, "model_name") or _DEFAULT_MODEL
    check_living(name, discontinued)
    model = MODELS.get(name)
    if model is None:
        raise invalid("model is not supported")
    mode = one_of(fields, "mode", ("std", "pro", "4k"), "std")
    aspect_ratio = one_of(fields, "aspect_ratio", _ASPECT_RATIOS, "16:9")
    sound = one_of(fields, "sound", ("on", "off"), "off") == "on"
    seconds = seconds_text(text(fields, "duration") or "5", "duration")
    rate = model.rates.get(mode)
    if rate is None or seconds not in model.lengths:
        raise invalid(f"model/mode/duration({name}/{mode}/{seconds}) is not supported")
    if sound and rate.sound is None:
        raise invalid(f"model/mode/sound({name}/{mode}/on) is not supported")
    check_length(text(fields, "negative_prompt") or "", "negative_prompt", MAX_PROMPT)
    _check_cfg_scale(fields, name, model)
    _check_camera(fields, model, mode, seconds)
    words = _words(fields, name, model, seconds)
    check_content(words)
    return Text2Video(
        model_name=name,
        mode=mode,
        aspect_ratio=aspect_ratio,
        seconds=seconds,
        sound=sound,
        voice=_has_voice(fields, name, model, sound=sound),
        watermark=watermark(fields),
        words=words,
        external_task_id=text(fields, "external_task_id") or None,
        callback_url=text(fields, "callback_url") or None,
    )


def check_living(name: str, discontinued: frozenset[str]) -> None:
    """Refuse a model that has been discontinued, in the words seen live (fact sheet 2.5)."""
    if name in discontinued:
        raise invalid(f"The model '{name}' has been discontinued and is no longer available.")


def check_content(words: str) -> None:
    """Refuse words that ask for it (:data:`REJECT_MARK`) with 400/1301."""
    if REJECT_MARK in words:
        raise Refusal(KlingCode.CONTENT_POLICY)


def _check_cfg_scale(fields: Mapping[str, object], name: str, model: Model) -> None:
    value = fields.get("cfg_scale")
    if value is None:
        return
    number(value, "cfg_scale", 0, 1)
    if not model.cfg_scale:
        raise invalid(f"cfg_scale is not supported by {name}")


def _check_camera(fields: Mapping[str, object], model: Model, mode: str, seconds: int) -> None:
    value = fields.get("camera_control")
    if value is None:
        return
    control = an_object(value, "camera_control")
    if not model.camera or mode != "std" or seconds != 5:
        raise invalid(_CAMERA_REFUSED)
    kind = one_of(control, "type", ("simple", *_CAMERA_PRESETS), "")
    config = control.get("config")
    if kind != "simple":
        if config is not None:
            raise invalid(f"camera_control.config is not supported with type {kind}")
        return
    axes = an_object(config, "camera_control.config")
    moves = [number(axes.get(axis, 0), f"camera_control.config.{axis}", -10, 10) for axis in _CAMERA_AXES]
    if sum(1 for move in moves if not math.isclose(move, 0)) != 1:
        raise invalid("camera_control.config needs exactly one value other than 0")


def _words(fields: Mapping[str, object], name: str, model: Model, seconds: int) -> str:
    prompt = text(fields, "prompt") or ""
    check_length(prompt, "prompt", MAX_PROMPT)
    if flag(fields, "multi_shot"):
        if not model.multi_shot:
            raise invalid(f"multi_shot is not supported by {name}")
        if one_of(fields, "shot_type", ("customize", "intelligence"), "") == "customize":
            return _shots(array(fields, "multi_prompt"), seconds)
    if not prompt.strip():
        raise invalid("prompt is empty")
    return prompt


def _shots(shots: list[object], seconds: int) -> str:
    if not 1 <= len(shots) <= MAX_SHOTS:
        raise invalid(f"multi_prompt needs 1 to {MAX_SHOTS} shots, but has {len(shots)}")
    total = 0
    words: list[str] = []
    for place, item in enumerate(shots):
        path = f"multi_prompt[{place}]"
        shot = an_object(item, path)
        index = shot.get("index")
        if isinstance(index, bool) or not isinstance(index, int):
            raise invalid_value(f"{path}.index", index)
        prompt = text(shot, "prompt") or ""
        if not prompt.strip():
            raise invalid(f"{path}.prompt is empty")
        check_length(prompt, f"{path}.prompt", MAX_SHOT_PROMPT)
        length = seconds_text(text(shot, "duration") or "", f"{path}.duration")
        if length < 1:
            raise invalid_value(f"{path}.duration", length)
        total += length
        words.append(f"{index}. {prompt}")
    if total != seconds:
        raise invalid(f"the durations in multi_prompt add up to {total}, but duration is {seconds}")
    return "\n".join(words)


def _has_voice(fields: Mapping[str, object], name: str, model: Model, *, sound: bool) -> bool:
    voices = array(fields, "voice_list")
    if not voices:
        return False
    if len(voices) > MAX_VOICES:
        raise invalid(f"voice_list has {len(voices)} voices, at most {MAX_VOICES}")
    for place, voice in enumerate(voices):
        path = f"voice_list[{place}]"
        if not text(an_object(voice, path), "voice_id"):
            raise invalid(f"{path}.voice_id is empty")
    if not model.voices or not sound:
        raise invalid(f"voice_list needs sound on, and a model that has voices; not {name}")
    return True
