"""Everything about each model that a form needs: capability map and prices side by side."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from kling_flows.upstream.capabilities import (
    Abilities,
    CameraSupport,
    CapabilityMap,
    ModelStatus,
    capability_map,
    require_dialect,
)
from kling_flows.upstream.constants import Dialect, Provider
from kling_flows.upstream.pricing import usd_per_second
from kling_flows.upstream.vocabulary import RESOLUTIONS, Mode, Sound


@dataclass(frozen=True, slots=True)
class ModePrice:
    """One mode of a model.

    Args:
        mode: What ``mode`` may be; ``std``, the default, of a model with a single mode.
        resolution: What it stands for; empty where sources disagree.
        sound: Whether ``sound`` may be "on" in it.
        silent_usd: List price of a second without sound; ``None`` if it is not published.
        sound_usd: List price of a second with sound; ``None`` if it is not offered or not published.
    """

    mode: Mode
    resolution: str
    sound: bool
    silent_usd: Decimal | None
    sound_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model at one provider in one dialect. Durations are seconds, limits characters.

    Args:
        name: Value of ``model_name``.
        status: Whether it still answers; a retired one is refused.
        successor: What to use instead, if it is ending or has ended.
        single_mode: It takes no ``mode``; ``modes`` then has one row.
        modes: Its modes, the default first.
        durations: Lengths that it makes.
        sound_always: It makes sound whatever ``sound`` says.
        cfg_scale: Lowest and highest ``cfg_scale``; ``None`` if it takes none.
        camera: The only combination in which it takes ``camera_control``; ``None`` if it takes none.
        max_shots: Most shots of ``multi_prompt``; 0 if it makes single shots only.
        max_voices: Most voices; 0 if it takes none.
        prompt_limit: Of ``prompt``.
        prompt_recommended: What the provider advises to stay below; ``None`` if it advises nothing.
        negative_prompt_limit: Of ``negative_prompt``; 0 if there is none.
        shot_prompt_limit: Of each shot's prompt; 0 if it makes single shots only.
        aspect_ratios: What ``aspect_ratio`` may be, the default first.
        absent_fields: Fields of a request that provider or dialect do not have.
        note: What sources disagree about, in words.
        source: Where this is published.
        as_of: The date that the source speaks for.
    """

    name: str
    status: ModelStatus
    successor: str | None
    single_mode: bool
    modes: tuple[ModePrice, ...]
    durations: tuple[int, ...]
    sound_always: bool
    cfg_scale: tuple[float, float] | None
    camera: CameraSupport | None
    max_shots: int
    max_voices: int
    prompt_limit: int
    prompt_recommended: int | None
    negative_prompt_limit: int
    shot_prompt_limit: int
    aspect_ratios: tuple[str, ...]
    absent_fields: tuple[str, ...]
    note: str
    source: str
    as_of: date

    @property
    def multi_shot(self) -> bool:
        """Whether it makes videos of several shots."""
        return self.max_shots > 0

    @property
    def sound_modes(self) -> tuple[Mode, ...]:
        """The modes in which ``sound`` may be "on"."""
        return tuple(row.mode for row in self.modes if row.sound)


def models(provider: Provider, dialect: Dialect = Dialect.LEGACY) -> tuple[ModelInfo, ...]:
    """Return every model that a provider has in a dialect, retired ones too, the preferred one first.

    Raises:
        ConfigurationError: The provider does not speak the dialect.
    """
    require_dialect(provider, dialect)
    known = capability_map()
    found = ((name, known.abilities(name, dialect)) for name in known.model)
    return tuple(_info(known, provider, dialect, name, row) for name, row in found if row is not None)


def _info(known: CapabilityMap, provider: Provider, dialect: Dialect, name: str, row: Abilities) -> ModelInfo:
    model, narrowed, limits = known.model[name], known.provider[provider], known.limits
    absent = tuple(dict.fromkeys((*known.dialect[dialect].absent_fields, *narrowed.absent_fields)))
    several = row.multi_shot and "multi_shot" not in absent
    durations = (value for value in row.durations if narrowed.durations is None or value in narrowed.durations)
    modes = (mode for mode in row.modes if narrowed.modes is None or mode in narrowed.modes)
    return ModelInfo(
        name=name,
        status=model.status,
        successor=model.successor,
        single_mode=not row.modes,
        modes=tuple(_mode(name, mode, row) for mode in (modes if row.modes else (Mode.STD,))),
        durations=tuple(durations),
        sound_always=row.sound_always,
        cfg_scale=limits.cfg_scale if row.cfg_scale and "cfg_scale" not in absent else None,
        camera=None if "camera_control" in absent else row.camera,
        max_shots=limits.max_shots if several else 0,
        max_voices=limits.max_voices if row.voices and "voice_list" not in absent else 0,
        prompt_limit=narrowed.prompt_limit if row.prompt_limit is None else row.prompt_limit,
        prompt_recommended=row.prompt_recommended,
        negative_prompt_limit=0 if "negative_prompt" in absent else narrowed.negative_prompt_limit,
        shot_prompt_limit=limits.shot_prompt_limit if several else 0,
        aspect_ratios=limits.aspect_ratios,
        absent_fields=absent,
        note=" ".join(note for note in (row.note, narrowed.note) if note),
        source=row.source,
        as_of=row.as_of,
    )


def _mode(name: str, mode: Mode, row: Abilities) -> ModePrice:
    return ModePrice(
        mode=mode,
        resolution=RESOLUTIONS[mode] if row.modes else "",
        sound=mode in row.sound,
        silent_usd=None if row.sound_always else usd_per_second(name, mode, Sound.OFF),
        sound_usd=usd_per_second(name, mode, Sound.ON),
    )
