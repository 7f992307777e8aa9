"""A text-to-video request in Kling's own field names (fact sheet 2.1).

The model only fixes types, so that every broken rule of a request can be reported at once (see `validation`). What a
form needs to know of the rules is in the JSON schema as hints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from kling_flows.errors import InvalidRequest, Violation
from kling_flows.upstream.capabilities import capability_map
from kling_flows.upstream.constants import Dialect
from kling_flows.upstream.vocabulary import CameraMovement, Mode, Rule, ShotType, Sound

_MAP: Final = capability_map()
_LIMITS: Final = _MAP.limits
_ABILITIES: Final = [
    found for name in _MAP.living_models for dialect in Dialect if (found := _MAP.abilities(name, dialect))
]
_PROMPT_LIMIT: Final = max(
    *(row.prompt_limit for row in _MAP.provider.values()), *(row.prompt_limit or 0 for row in _ABILITIES)
)
_NEGATIVE_PROMPT_LIMIT: Final = max(row.negative_prompt_limit for row in _MAP.provider.values())
_DURATIONS: Final = sorted({seconds for row in _ABILITIES for seconds in row.durations})
_AXIS: Final[JsonDict] = {"minimum": _LIMITS.camera_axis[0], "maximum": _LIMITS.camera_axis[1]}

#: Field names that other pages and clients use. Kling ignores a field it does not know, and charges all the same.
_FIELD_REMEDIES: Final[Mapping[str, str]] = {
    "model": "The field is 'model_name'; Kling ignores 'model' and takes its oldest model instead.",
    "motion_has_audio": "The field is 'sound', with the values 'on' and 'off'.",
    "enable_audio": "The field is 'sound', with the values 'on' and 'off'.",
    "audio": "The field is 'sound', with the values 'on' and 'off'.",
    "resolution": "The field is 'mode': 'std' is 720p, 'pro' is 1080p, '4k' is 4k.",
    "index": "Leave it out; shots are numbered in the order in which they are given.",
    "external_task_id": "Leave it out; it is set when the task is submitted.",
    "image": "Text-to-video takes no image.",
    "image_tail": "Text-to-video takes no image.",
}
#: Values that other pages and clients use, by field.
VALUE_REMEDIES: Final[Mapping[tuple[str, object], str]] = {
    ("mode", "standard"): "Use 'std'.",
    ("mode", "professional"): "Use 'pro'.",
    ("mode", "720p"): "Use 'std'.",
    ("mode", "1080p"): "Use 'pro'.",
    ("sound", True): "Use 'on'.",
    ("sound", False): "Use 'off'.",
    ("sound", "true"): "Use 'on'.",
    ("sound", "false"): "Use 'off'.",
}
_SHOWN_VALUE: Final = 40


class _Model(BaseModel):
    # The input stays out of messages: a callback URL can carry a token.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class CameraConfig(_Model):
    """Camera movement along six axes; exactly one is not 0."""

    # Sources disagree on which plane `pan` and `tilt` turn in (fact sheet 2.2), so that the values go as they are.
    horizontal: float = Field(default=0.0, description="Shift along the x axis, -10 to 10.", json_schema_extra=_AXIS)
    vertical: float = Field(default=0.0, description="Shift along the y axis, -10 to 10.", json_schema_extra=_AXIS)
    pan: float = Field(default=0.0, description="Pan, -10 to 10.", json_schema_extra=_AXIS)
    tilt: float = Field(default=0.0, description="Tilt, -10 to 10.", json_schema_extra=_AXIS)
    roll: float = Field(default=0.0, description="Roll, -10 to 10.", json_schema_extra=_AXIS)
    zoom: float = Field(default=0.0, description="Zoom, -10 to 10.", json_schema_extra=_AXIS)


class CameraControl(_Model):
    """A preset camera movement, or ``simple`` with a config."""

    type: CameraMovement = Field(description="'simple' needs a config; the others are presets without one.")
    config: CameraConfig | None = Field(default=None, description="Only for 'simple': exactly one axis that is not 0.")


class Shot(_Model):
    """One shot of a customized multi-shot video."""

    prompt: str = Field(
        description=f"What happens in the shot; at most {_LIMITS.shot_prompt_limit} characters.",
        json_schema_extra={"maxLength": _LIMITS.shot_prompt_limit},
    )
    duration: int = Field(
        description="Seconds; all shots together last as long as the video.",
        json_schema_extra={"minimum": _LIMITS.min_shot_duration},
    )


class Voice(_Model):
    """A voice that the prompt refers to as ``<<<voice_1>>>``, ``<<<voice_2>>>``, in the order given."""

    voice_id: str = Field(description="The provider's id of the voice.")


class WatermarkInfo(_Model):
    """Whether a watermarked copy is made as well."""

    enabled: bool = Field(description="Also make a copy with a watermark.")


class TextToVideoRequest(_Model):
    """What to make. Durations are seconds, lengths characters."""

    prompt: str = Field(
        default="",
        description=f"What the video shows; at most {_PROMPT_LIMIT} characters, with most models 2500. "
        "Empty only with customized shots.",
        json_schema_extra={"maxLength": _PROMPT_LIMIT},
    )
    negative_prompt: str = Field(
        default="",
        description=f"What the video must not show; at most {_NEGATIVE_PROMPT_LIMIT} characters. Legacy dialect only.",
        json_schema_extra={"maxLength": _NEGATIVE_PROMPT_LIMIT},
    )
    model_name: str = Field(
        default="kling-v3",
        description="Which model makes the video.",
        json_schema_extra={"enum": [*_MAP.living_models]},
    )
    mode: Mode = Field(
        default=Mode.STD, description="std is 720p, pro is 1080p, 4k is 4k; each costs more than the one before."
    )
    duration: int = Field(
        default=5,
        description="Seconds. kling-v3 and kling-3.0-turbo make 3 to 15, the others 5 or 10.",
        json_schema_extra={"minimum": _DURATIONS[0], "maximum": _DURATIONS[-1]},
    )
    aspect_ratio: str = Field(
        default="16:9",
        description="Width to height.",
        json_schema_extra={"enum": [*_LIMITS.aspect_ratios]},
    )
    sound: Sound = Field(
        default=Sound.OFF,
        description="Make sound with the video; costs more. kling-3.0-turbo makes it always, at the same price.",
    )
    cfg_scale: float | None = Field(
        default=None,
        description="How closely the video follows the prompt, 0 to 1; not with models 2.x. Legacy dialect only.",
        json_schema_extra={"minimum": _LIMITS.cfg_scale[0], "maximum": _LIMITS.cfg_scale[1]},
    )
    camera_control: CameraControl | None = Field(
        default=None, description="Camera movement. No model that still answers takes it; describe it in the prompt."
    )
    multi_shot: bool = Field(default=False, description="Make a video of several shots; kling-v3 only.")
    shot_type: ShotType | None = Field(
        default=None,
        description="Needed with multi_shot: 'customize' takes the shots below, 'intelligence' finds its own.",
    )
    multi_prompt: tuple[Shot, ...] = Field(
        default=(),
        description=f"The shots, 1 to {_LIMITS.max_shots}; only with shot_type 'customize'.",
        json_schema_extra={"maxItems": _LIMITS.max_shots},
    )
    voice_list: tuple[Voice, ...] = Field(
        default=(),
        description=f"At most {_LIMITS.max_voices} voices; needs sound, may cost more. Legacy dialect only.",
        json_schema_extra={"maxItems": _LIMITS.max_voices},
    )
    watermark_info: WatermarkInfo | None = Field(
        default=None, description="Whether to make a watermarked copy as well."
    )
    callback_url: str | None = Field(
        default=None,
        description="http(s) URL that the provider calls when the status changes.",
        json_schema_extra={"format": "uri"},
        # It can carry a token of whoever receives the calls.
        repr=False,
    )

    @model_validator(mode="wrap")
    @classmethod
    def _with_remedies(cls, data: Any, handler: ModelWrapValidatorHandler[TextToVideoRequest]) -> TextToVideoRequest:
        """Say the right word wherever a request is read, not only in `parse_request`."""
        try:
            return handler(data)
        except ValidationError as error:
            details = [_with_remedy(item) for item in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(error.title, details, hide_input=True) from None


def parse_request(data: Mapping[str, Any]) -> TextToVideoRequest:
    """Read a request as it came from outside.

    Only types and names are judged; `validation.check` judges the rest.

    Raises:
        InvalidRequest: A field has a name or a type that no request has; one violation for each.
    """
    try:
        return TextToVideoRequest.model_validate(dict(data))
    except ValidationError as error:
        violations = [Violation(_path(item["loc"]), item["type"], item["msg"]) for item in error.errors()]
        raise InvalidRequest(violations) from None


def _with_remedy(item: ErrorDetails) -> InitErrorDetails:
    rule, message = _judge(item)
    return InitErrorDetails(
        # Braces would be read as a template.
        type=PydanticCustomError(rule.value, "{message}", {"message": message}),
        loc=item["loc"],
        input=item["input"],
    )


def _judge(item: ErrorDetails) -> tuple[Rule, str]:
    name = str(item["loc"][-1]) if item["loc"] else ""
    match item["type"]:
        case "extra_forbidden":
            remedy = _FIELD_REMEDIES.get(name)
            if remedy is None:
                return Rule.UNKNOWN_FIELD, "There is no such field; Kling would ignore it and charge all the same."
            return Rule.WRONG_WORD, remedy
        case "missing":
            return Rule.REQUIRED, "This field is needed."
        case "enum":
            remedy = VALUE_REMEDIES.get((name, item["input"])) if _is_plain(item["input"]) else None
            shown = repr(item["input"])[:_SHOWN_VALUE]
            return Rule.WRONG_WORD, f"{shown} is not a value of this field. {remedy or item['msg'] + '.'}"
        case _:
            return Rule.WRONG_TYPE, f"{item['msg']}."


def _is_plain(value: object) -> bool:
    return isinstance(value, str | bool)


def _path(loc: tuple[int | str, ...]) -> str:
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "request"
