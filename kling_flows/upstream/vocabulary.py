"""Words that a text-to-video request and the rules about it are written in."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Mode(StrEnum):
    """Generation mode, which decides the resolution: 720p, 1080p or 4k."""

    STD = "std"
    PRO = "pro"
    FOUR_K = "4k"


#: What each mode is called where the resolution itself is named (fact sheet 2.1, 2.3).
RESOLUTIONS: Final[Mapping[Mode, str]] = MappingProxyType({Mode.STD: "720p", Mode.PRO: "1080p", Mode.FOUR_K: "4k"})


class Sound(StrEnum):
    """Whether sound is generated with the video."""

    ON = "on"
    OFF = "off"


class ShotType(StrEnum):
    """Who divides a multi-shot video into shots: the caller or the model."""

    CUSTOMIZE = "customize"
    INTELLIGENCE = "intelligence"


class CameraMovement(StrEnum):
    """``simple`` takes a config; the others are presets."""

    SIMPLE = "simple"
    DOWN_BACK = "down_back"
    FORWARD_UP = "forward_up"
    RIGHT_TURN_FORWARD = "right_turn_forward"
    LEFT_TURN_FORWARD = "left_turn_forward"


class Rule(StrEnum):
    """Stable names for ``Violation.rule``."""

    REQUIRED = "REQUIRED"
    WRONG_TYPE = "WRONG_TYPE"
    WRONG_WORD = "WRONG_WORD"
    UNKNOWN_FIELD = "UNKNOWN_FIELD"
    UNKNOWN_MODEL = "UNKNOWN_MODEL"
    RETIRED_MODEL = "RETIRED_MODEL"
    NOT_SUPPORTED = "NOT_SUPPORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    TOO_LONG = "TOO_LONG"
    TOO_MANY = "TOO_MANY"
    CONTRADICTION = "CONTRADICTION"
    MALFORMED = "MALFORMED"
