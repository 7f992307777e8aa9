"""What the models and providers can do: ``capabilities.toml``, loaded once and checked on loading."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, model_validator

from kling_flows.errors import ConfigurationError
from kling_flows.upstream.constants import Dialect, Provider
from kling_flows.upstream.data_file import DataFile
from kling_flows.upstream.vocabulary import Mode
from kling_flows.upstream.wording import listed


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


class Abilities(_Row):
    """One model in one dialect; ``durations`` in seconds, empty ``modes``: it takes no ``mode``.

    ``path``: its name in the standard dialect's path. ``sound_always``: it makes sound whatever ``sound`` says.
    ``prompt_limit``: characters, ``None``: the provider's. ``prompt_recommended``: what the provider advises to stay
    below.
    """

    path: str | None = None
    modes: tuple[Mode, ...]
    durations: tuple[int, ...]
    sound: tuple[Mode, ...]
    sound_always: bool = False
    camera: CameraSupport | None = None
    cfg_scale: bool
    voices: bool
    multi_shot: bool
    prompt_limit: int | None = None
    prompt_recommended: int | None = None


class ModelCapabilities(BaseModel):
    """One model on text-to-video; a dialect that is ``None`` does not have it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: ModelStatus
    successor: str | None = None
    legacy: Abilities | None = None
    standard: Abilities | None = None

    @property
    def living(self) -> bool:
        """Whether a request for it may be sent."""
        return self.status is not ModelStatus.RETIRED

    def abilities(self, dialect: Dialect) -> Abilities | None:
        """Return what it can do in a dialect."""
        return self.legacy if dialect is Dialect.LEGACY else self.standard


class Elsewhere(_Row):
    """A model name that text-to-video does not take in any dialect; ``hint`` says what to do instead."""

    hint: str


class DialectCapabilities(_Row):
    """What one dialect narrows, whoever speaks it: ``absent_fields`` are not in it."""

    absent_fields: tuple[str, ...]


class ProviderCapabilities(_Row):
    """What one provider narrows. Limits are characters; ``None`` means whatever the model can do."""

    dialects: tuple[Dialect, ...]
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
    dialect: dict[Dialect, DialectCapabilities]
    provider: dict[Provider, ProviderCapabilities]

    @model_validator(mode="after")
    def _rows_that_need_each_other(self) -> Self:
        for name, row in self.model.items():
            successor = self.model.get(row.successor or "")
            if row.status is not ModelStatus.ACTIVE and (successor is None or not successor.living):
                raise ValueError(f"model.{name} is {row.status} and names no successor that answers")
            if row.standard is not None and not row.standard.path:
                raise ValueError(f"model.{name}.standard has no path")
        return self

    @property
    def living_models(self) -> tuple[str, ...]:
        """Names of the models that a request may name, in the order of the file: the preferred one first."""
        return tuple(name for name, row in self.model.items() if row.living)

    def living_in(self, dialect: Dialect) -> tuple[str, ...]:
        """Return those of `living_models` that a dialect has."""
        return tuple(name for name in self.living_models if self.model[name].abilities(dialect))

    def abilities(self, model_name: str, dialect: Dialect) -> Abilities | None:
        """Return what a model can do in a dialect; ``None`` if it is not known there."""
        row = self.model.get(model_name)
        return None if row is None else row.abilities(dialect)

    def by_path(self, path: str) -> str | None:
        """Return the model whose name in the standard dialect's path this is."""
        return next((name for name, row in self.model.items() if row.standard and row.standard.path == path), None)


_FILE: Final = DataFile("capabilities.toml", "KLING_FLOWS_CAPABILITIES", CapabilityMap)


def capability_map() -> CapabilityMap:
    """Return the map that comes with the package, with what was laid over it."""
    return _FILE.content


def lay_over_capabilities(path: Path | None) -> Path | None:
    """Lay another file over the map; see `DataFile.lay_over`."""
    return _FILE.lay_over(path)


def require_dialect(provider: Provider, dialect: Dialect) -> None:
    """Refuse a dialect that a provider does not speak.

    Raises:
        ConfigurationError: Naming those that it speaks.
    """
    spoken = capability_map().provider[provider].dialects
    if dialect not in spoken:
        raise ConfigurationError(
            "dialect",
            f"{provider.value} does not speak {dialect.value!r}; use {listed([repr(word.value) for word in spoken])}",
        )
