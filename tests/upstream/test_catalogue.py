from __future__ import annotations

from decimal import Decimal

import pytest

from kling_flows.errors import ConfigurationError
from kling_flows.upstream import Dialect, Mode, ModelInfo, ModelStatus, Provider, check, models, quote

from .data import request

KLING, COMET = Provider.KLING, Provider.COMETAPI
STANDARD = Dialect.STANDARD


def named(name: str, provider: Provider = KLING, dialect: Dialect = Dialect.LEGACY) -> ModelInfo:
    return next(info for info in models(provider, dialect) if info.name == name)


def test_preferred_model_comes_first_and_retired_ones_are_shown_as_such() -> None:
    found = models(KLING)
    assert found[0].name == "kling-v3"
    assert {info.name for info in found if info.status is ModelStatus.RETIRED} == {"kling-v1"}
    assert all(info.successor for info in found if info.status is not ModelStatus.ACTIVE)


def test_each_dialect_lists_its_own_models() -> None:
    assert "kling-3.0-turbo" not in {info.name for info in models(KLING)}
    assert {info.name for info in models(KLING, STANDARD)} == {
        "kling-v3",
        "kling-3.0-turbo",
        "kling-v2-6",
        "kling-v2-5-turbo",
    }


def test_model_tells_everything_that_a_form_needs() -> None:
    info = named("kling-v3")
    assert [(row.mode, row.resolution, row.sound) for row in info.modes] == [
        (Mode.STD, "720p", True),
        (Mode.PRO, "1080p", True),
        (Mode.FOUR_K, "4k", True),
    ]
    assert [(row.silent_usd, row.sound_usd) for row in info.modes] == [
        (Decimal("0.084"), Decimal("0.126")),
        (Decimal("0.112"), Decimal("0.168")),
        (Decimal("0.42"), Decimal("0.42")),
    ]
    assert info.durations == tuple(range(3, 16))
    assert (info.cfg_scale, info.camera, info.multi_shot) == ((0.0, 1.0), None, True)
    assert (info.max_shots, info.max_voices, info.shot_prompt_limit) == (6, 2, 512)
    assert (info.prompt_limit, info.prompt_recommended, info.negative_prompt_limit) == (2500, None, 2500)
    assert info.aspect_ratios == ("16:9", "9:16", "1:1")
    assert "disputed" in info.note
    assert info.source
    assert info.as_of.year == 2026


def test_standard_dialect_narrows_and_widens() -> None:
    info = named("kling-v3", dialect=STANDARD)
    assert (info.cfg_scale, info.max_voices, info.negative_prompt_limit) == (None, 0, 0)
    assert (info.prompt_limit, info.prompt_recommended, info.max_shots) == (3072, 2500, 6)
    assert "negative_prompt" in info.absent_fields


def test_cometapi_narrows() -> None:
    info = named("kling-v3", COMET)
    assert [row.mode for row in info.modes] == [Mode.STD, Mode.PRO]
    assert (info.durations, info.max_shots, info.max_voices) == ((5, 10), 0, 0)
    assert "watermark_info" in info.absent_fields


def test_sound_modes_of_v2_6() -> None:
    info = named("kling-v2-6")
    assert info.sound_modes == (Mode.PRO,)
    assert info.modes[0].sound_usd is None
    assert info.modes[1].sound_usd == Decimal("0.14")


def test_turbo_is_never_silent() -> None:
    info = named("kling-3.0-turbo", dialect=STANDARD)
    assert info.sound_always
    assert [(row.silent_usd, row.sound_usd) for row in info.modes] == [
        (None, Decimal("0.112")),
        (None, Decimal("0.140")),
    ]


def test_model_with_a_single_mode_has_one_row() -> None:
    info = named("kling-v2-master")
    assert info.single_mode
    assert [(row.mode, row.resolution, row.silent_usd) for row in info.modes] == [(Mode.STD, "", Decimal("0.28"))]


def test_retired_model_still_tells_its_camera() -> None:
    camera = named("kling-v1").camera
    assert camera is not None
    assert (camera.mode, camera.duration) == (Mode.STD, 5)


def test_dialect_that_the_provider_does_not_speak_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="dialect"):
        models(COMET, STANDARD)


@pytest.mark.parametrize(
    ("provider", "dialect"),
    [(KLING, Dialect.LEGACY), (KLING, STANDARD), (COMET, Dialect.LEGACY), (Provider.SANDBOX, STANDARD)],
)
def test_what_is_listed_is_valid_and_costs_what_is_listed(provider: Provider, dialect: Dialect) -> None:
    for info in models(provider, dialect):
        if info.status is ModelStatus.RETIRED:
            continue
        for row in info.modes:
            for duration in info.durations:
                for sound, price in (("off", row.silent_usd or row.sound_usd), ("on", row.sound_usd)):
                    if sound == "on" and not row.sound:
                        continue
                    made = request(model_name=info.name, mode=row.mode, duration=duration, sound=sound)
                    check(made, provider, dialect)
                    assert price is not None
                    assert quote(made, provider, dialect).usd == price * duration
