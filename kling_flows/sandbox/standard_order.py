"""Reads the body of a standard create as Kling does: unknown fields are ignored, known ones are checked
(fact sheet 2.3)."""

from __future__ import annotations

from typing import Final

from kling_flows.sandbox.errors import invalid
from kling_flows.sandbox.fields import check_length, flag, integer, one_of, section, text, top_level, watermark
from kling_flows.sandbox.models import STANDARD_MODELS
from kling_flows.sandbox.text2video import Text2Video, check_content, check_living
from kling_flows.upstream.constants import Dialect

#: Legacy ``mode`` of each resolution (fact sheet 2.1).
MODE_OF_RESOLUTION: Final = {"720p": "std", "1080p": "pro", "4k": "4k"}

_ASPECT_RATIOS: Final = ("16:9", "9:16", "1:1")
_DEFAULT_SECONDS: Final = 5


def parse_standard_order(model_name: str, body: object, *, discontinued: frozenset[str]) -> Text2Video:
    """Check a create's body, decoded from JSON.

    ``settings.multi_shot`` (3.0 only, true by default) changes nothing here: the shots are written inside of the
    prompt. ``settings.audio`` is no field of 2.5 Turbo and 3.0 Turbo, and so is ignored there.

    Args:
        model_name: The model of the path.
        body: The body.
        discontinued: Models that are refused as discontinued.

    Raises:
        Refusal: The order breaks a rule; the first one found.
    """
    fields = top_level(body)
    check_living(model_name, discontinued)
    model = STANDARD_MODELS.get(model_name)
    if model is None:
        raise invalid("model is not supported")
    words = text(fields, "prompt") or ""
    if not words.strip():
        raise invalid("prompt is empty")
    check_length(words, "prompt", model.max_prompt)
    settings, options = section(fields, "settings"), section(fields, "options")
    if model.multi_shot:
        flag(settings, "multi_shot", "settings.", default=True)
    resolutions = tuple(word for word, mode in MODE_OF_RESOLUTION.items() if mode in model.rates)
    resolution = one_of(settings, "resolution", resolutions, "720p", "settings.")
    mode = MODE_OF_RESOLUTION[resolution]
    sound = model.always_sound
    if not sound and any(rate.sound is not None for rate in model.rates.values()):
        sound = one_of(settings, "audio", ("native", "off"), "off", "settings.") == "native"
        if sound and model.rates[mode].sound is None:
            raise invalid(f"settings.audio value 'native' is not supported with settings.resolution '{resolution}'")
    aspect_ratio = one_of(settings, "aspect_ratio", _ASPECT_RATIOS, "16:9", "settings.")
    seconds = integer(settings, "duration", model.lengths, _DEFAULT_SECONDS, "settings.")
    check_content(words)
    return Text2Video(
        model_name=model_name,
        mode=mode,
        aspect_ratio=aspect_ratio,
        seconds=seconds,
        sound=sound,
        voice=False,
        watermark=watermark(options, "options."),
        words=words,
        external_task_id=text(options, "external_task_id", "options.") or None,
        callback_url=text(options, "callback_url", "options.") or None,
        dialect=Dialect.STANDARD,
    )
