"""The text-to-video models that the sandbox serves: what they take and what they cost (fact sheet 3 and 8.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Rate:
    """Video units per second of video; one unit lists at US$0.14.

    Args:
        silent: Without sound.
        sound: With sound; ``None`` where the mode has none.
        voice: With sound and a voice of the caller's; ``None`` where that costs the same as sound.
    """

    silent: Decimal
    sound: Decimal | None = None
    voice: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """What one model takes.

    Args:
        rates: Its modes, and the price of each.
        lengths: Seconds that can be ordered.
        cfg_scale: Whether ``cfg_scale`` is supported; not by v2.x (fact sheet 2.1).
        multi_shot: Whether one order can have several shots.
        voices: Whether ``voice_list`` is taken (fact sheet 3, D2).
        camera: Whether ``camera_control`` is taken, in mode std with 5 s (fact sheet 2.2).
        always_sound: Whether every clip has sound, whatever was ordered (fact sheet 2.3).
        max_prompt: Longest ``prompt`` in characters.
    """

    rates: Mapping[str, Rate]
    lengths: frozenset[int] = frozenset({5, 10})
    cfg_scale: bool = False
    multi_shot: bool = False
    voices: bool = False
    camera: bool = False
    always_sound: bool = False
    max_prompt: int = 2500


def _rate(silent: str, sound: str | None = None, voice: str | None = None) -> Rate:
    return Rate(
        silent=Decimal(silent),
        sound=None if sound is None else Decimal(sound),
        voice=None if voice is None else Decimal(voice),
    )


#: By the legacy ``model_name``. The per-clip prices of the fact sheet are all proportional to the length, so rates say
#: the same.
MODELS: Final[Mapping[str, Model]] = MappingProxyType(
    {
        "kling-v1": Model({"std": _rate("0.2"), "pro": _rate("0.7")}, cfg_scale=True, camera=True),
        "kling-v1-6": Model({"std": _rate("0.4"), "pro": _rate("0.7")}, cfg_scale=True),
        # "No mode" in the map, yet clients send one: both are taken at the one price (fact sheet 3).
        "kling-v2-master": Model({"std": _rate("2"), "pro": _rate("2")}),
        "kling-v2-1-master": Model({"std": _rate("2"), "pro": _rate("2")}),
        "kling-v2-5-turbo": Model({"std": _rate("0.3"), "pro": _rate("0.5")}),
        "kling-v2-6": Model({"std": _rate("0.3"), "pro": _rate("0.5", "1.0", "1.2")}, voices=True),
        "kling-v3": Model(
            {"std": _rate("0.6", "0.9"), "pro": _rate("0.8", "1.2"), "4k": _rate("3.0", "3.0")},
            lengths=frozenset(range(3, 16)),
            cfg_scale=True,
            multi_shot=True,
            voices=True,
        ),
    }
)

_UP_TO_15: Final = frozenset(range(3, 16))

#: By the ``{model}`` of the standard dialect's path; ``std``, ``pro`` and ``4k`` stand for ``720p``, ``1080p`` and
#: ``4k`` (fact sheet 2.3 and 8.1).
STANDARD_MODELS: Final[Mapping[str, Model]] = MappingProxyType(
    {
        "kling-3.0-turbo": Model(
            {"std": _rate("0.8", "0.8"), "pro": _rate("1.0", "1.0")},
            lengths=_UP_TO_15,
            always_sound=True,
            max_prompt=3072,
        ),
        "kling-3.0": Model(
            MODELS["kling-v3"].rates,
            lengths=_UP_TO_15,
            multi_shot=True,
            max_prompt=3072,
        ),
        "kling-2.6": Model(MODELS["kling-v2-6"].rates),
        "kling-2.5-turbo": Model(MODELS["kling-v2-5-turbo"].rates),
    }
)

#: The legacy ``model_name`` of each standard model that has one (fact sheet 0).
LEGACY_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"kling-3.0": "kling-v3", "kling-2.6": "kling-v2-6", "kling-2.5-turbo": "kling-v2-5-turbo"}
)


def units(model_name: str, mode: str, seconds: int, *, sound: bool, voice: bool) -> Decimal:
    """Price of one clip in video units.

    Args:
        model_name: A key of :data:`MODELS` or of :data:`STANDARD_MODELS`.
        mode: One of its modes.
        seconds: Ordered length.
        sound: Whether sound is ordered.
        voice: Whether a voice of the caller's is ordered.
    """
    rate = (MODELS.get(model_name) or STANDARD_MODELS[model_name]).rates[mode]
    per_second = rate.silent
    if sound and rate.sound is not None:
        per_second = rate.voice if voice and rate.voice is not None else rate.sound
    return per_second * seconds
