"""What the models and providers can do: ``capabilities.toml``, loaded once and checked on loading."""

from __future__ import annotations

import tomllib
from datetime import date
from enum import StrEnum
from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict

from kling_flows.upstream.constants import Provider
from kling_flows.upstream.vocabulary import Mode


class ModelStatus(StrEnum):
    """Whether a model still answers."""

    ACTIVE = "active"
    SUNSET = "sunset"
    RETIRED = "retired"


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    as_of: date
    note: str = ""


class Limits(_Row):
    """Bounds that hold for every model. Lengths are characters, durations seconds."""

    aspect_ratios: tuple[str, ...]
    cfg_scale: tuple[float, float]
    camera_axis: tuple[float, float]
    max_voices: int
    max_shots: int
    shot_prompt_limit: int
    min_shot_duration: int


class CameraSupport(BaseModel):
    """The only combination with which a model takes ``camera_control``; ``duration`` in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode
    duration: int


class ModelCapabilities(_Row):
    """One model on text-to-video; ``durations`` in seconds, empty ``modes``: it takes no ``mode``."""

    status: ModelStatus
    successor: str | None = None
    modes: tuple[Mode, ...]
    durations: tuple[int, ...]
    sound: tuple[Mode, ...]
    camera: CameraSupport | None = None
    cfg_scale: bool
    voices: bool
    multi_shot: bool

    @property
    def living(self) -> bool:
        """Whether a request for it may be sent."""
        return self.status is not ModelStatus.RETIRED


class Elsewhere(_Row):
    """A model name that text-to-video of the legacy dialect does not take; ``hint`` says what to do instead."""

    hint: str


class ProviderCapabilities(_Row):
    """What one provider narrows. Limits are characters; ``None`` means whatever the model can do."""

    prompt_limit: int
    negative_prompt_limit: int
    documented_prompt_limit: int
    documented_negative_prompt_limit: int
    modes: tuple[Mode, ...] | None = None
    durations: tuple[int, ...] | None = None
    absent_fields: tuple[str, ...]


class CapabilityMap(BaseModel):
    """The whole file. Keys of ``model`` and ``elsewhere`` are values of ``model_name``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limits: Limits
    model: dict[str, ModelCapabilities]
    elsewhere: dict[str, Elsewhere]
    provider: dict[Provider, ProviderCapabilities]

    @property
    def living_models(self) -> tuple[str, ...]:
        """Names of the models that a request may name, in the order of the file: the preferred one first."""
        return tuple(name for name, row in self.model.items() if row.living)


@cache
def capability_map() -> CapabilityMap:
    """Return the map that comes with the package."""
    text = files("kling_flows.upstream").joinpath("capabilities.toml").read_text(encoding="utf-8")
    return CapabilityMap.model_validate(tomllib.loads(text))
