from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from kling_flows.errors import ConfigurationError, InvalidRequest
from kling_flows.upstream import Dialect, Provider, capability_map, price_list, quote

from .data import request
from .price_rows import PRICE_ROWS, PriceRow

KLING, COMET = Provider.KLING, Provider.COMETAPI
LEGACY, STANDARD = Dialect.LEGACY, Dialect.STANDARD
VOICE = [{"voice_id": "v"}]


def units(model: str, mode: str, duration: int, sound: str = "off", voices: bool = False) -> Decimal:
    made = request(model_name=model, mode=mode, duration=duration, sound=sound, voice_list=VOICE if voices else [])
    dialect = STANDARD if model == "kling-3.0-turbo" else LEGACY
    return quote(made, KLING, dialect).units


@pytest.mark.parametrize("row", PRICE_ROWS, ids=str)
def test_quote_is_the_figure_of_the_fact_sheet(row: PriceRow) -> None:
    assert units(row.model, row.mode, row.seconds, "on" if row.sound else "off", row.voice) == row.units


def test_every_price_that_is_known_is_a_row_of_the_fact_sheet() -> None:
    known = {
        (name, mode, heard)
        for name, row in price_list().model.items()
        for mode, prices in row.mode.items()
        for heard in ("silent", "sound", "voice")
        if getattr(prices, heard) is not None
    }
    rows = {(row.model, row.mode, "voice" if row.voice else "sound" if row.sound else "silent") for row in PRICE_ROWS}
    assert known == {(name, "any" if name.endswith("master") else mode, heard) for name, mode, heard in rows}


def test_mode_of_a_model_with_a_single_one_does_not_change_its_price() -> None:
    assert units("kling-v2-master", "pro", 5) == units("kling-v2-master", "std", 5)


@pytest.mark.parametrize(
    ("mode", "sound", "expected"),
    [
        ("std", "off", "3.0"),
        ("std", "on", "4.5"),
        ("pro", "off", "4.0"),
        ("pro", "on", "6.0"),
        ("4k", "off", "15"),
        ("4k", "on", "15"),
    ],
)
def test_v3_clip_of_5_seconds(mode: str, sound: str, expected: str) -> None:
    assert units("kling-v3", mode, 5, sound) == Decimal(expected)


@pytest.mark.parametrize(
    ("mode", "sound", "expected"),
    [
        ("std", "off", "0.084"),
        ("std", "on", "0.126"),
        ("pro", "off", "0.112"),
        ("pro", "on", "0.168"),
        ("4k", "off", "0.42"),
        ("4k", "on", "0.42"),
    ],
)
def test_v3_second_in_usd(mode: str, sound: str, expected: str) -> None:
    assert quote(request(mode=mode, sound=sound, duration=1), KLING).usd == Decimal(expected)


@pytest.mark.parametrize(("mode", "rate"), [("std", "0.3"), ("pro", "0.5")])
@pytest.mark.parametrize("model", ["kling-v2-6", "kling-v2-5-turbo"])
def test_price_of_a_clip_agrees_with_the_rates_of_2026(model: str, mode: str, rate: str) -> None:
    for duration in (5, 10):
        assert units(model, mode, duration) == Decimal(rate) * duration


def test_unit_costs_14_cents() -> None:
    assert price_list().unit.usd == Decimal("0.14")
    found = quote(request(model_name="kling-v2-6"), KLING)
    assert found.usd == Decimal("0.21")


def test_both_dialects_cost_the_same() -> None:
    assert quote(request(), KLING, STANDARD) == quote(request(), KLING, LEGACY)


def test_quote_names_its_source() -> None:
    found = quote(request(), KLING)
    assert found.source.startswith("fact sheet 8.1")
    assert found.as_of == price_list().model["kling-v3"].as_of
    assert found.uncertain == ()


# ------------------------------------------------------------------------------------------------- what is not known


def uncertain(provider: Provider = KLING, **fields: Any) -> str:
    return " ".join(quote(request(**fields), provider).uncertain)


def test_surcharge_for_voices_of_v3_is_uncertain() -> None:
    assert "voices raise the price of kling-v3 is not published" in uncertain(sound="on", voice_list=VOICE)


def test_voices_of_v2_6_have_a_price_but_are_uncertain() -> None:
    text = uncertain(model_name="kling-v2-6", mode="pro", sound="on", voice_list=VOICE)
    assert "Whether kling-v2-6 takes voices in text-to-video is not known" in text


@pytest.mark.parametrize("model", ["kling-v1-6", "kling-v2-master", "kling-v2-1-master"])
def test_price_of_a_model_that_ends_is_uncertain(model: str) -> None:
    assert "announced to end" in uncertain(model_name=model)


def test_price_of_a_retired_model_is_its_last_one() -> None:
    assert "retired" in uncertain(model_name="kling-v1")


def test_discounts_of_cometapi_are_uncertain() -> None:
    assert "CometAPI" in uncertain(COMET)
    assert quote(request(), COMET).units == quote(request(), KLING).units


# ------------------------------------------------------------------------------------------------ what has no price


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model_name": "sora"}, "model_name"),
        ({"model_name": "kling-3.0-turbo"}, "model_name"),
        ({"model_name": "kling-v2-6", "mode": "4k"}, "mode"),
        ({"model_name": "kling-v2-6", "sound": "on"}, "sound"),
        ({"model_name": "kling-v2-5-turbo", "mode": "pro", "sound": "on"}, "sound"),
        ({"model_name": "kling-v2-6", "duration": 7}, "duration"),
        ({"duration": 0}, "duration"),
    ],
)
def test_what_has_no_price_is_refused_with_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        quote(request(**fields), KLING)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert caught.value.message.endswith(".")


def test_model_without_the_dialect_has_no_price_there() -> None:
    with pytest.raises(InvalidRequest, match=r"kling-3\.0-turbo"):
        quote(request(model_name="kling-v1-6"), KLING, STANDARD)


def test_dialect_that_the_provider_does_not_speak_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="dialect"):
        quote(request(), COMET, STANDARD)


# ----------------------------------------------------------------------------------------------------------- the file


def test_every_model_of_the_capability_map_has_prices_and_no_other() -> None:
    assert list(price_list().model) == list(capability_map().model)


def test_every_valid_combination_has_a_price() -> None:
    known = capability_map()
    for dialect in Dialect:
        for name in known.living_in(dialect):
            row = known.abilities(name, dialect)
            assert row is not None
            for mode in row.modes or ("std",):
                for duration in row.durations:
                    for sound in ("off", "on") if mode in row.sound else ("off",):
                        made = request(model_name=name, mode=mode, duration=duration, sound=sound)
                        assert quote(made, KLING, dialect).units > 0


def test_price_by_the_clip_is_proportional_so_that_it_can_be_told_by_the_second() -> None:
    for row in price_list().model.values():
        for mode in row.mode.values():
            for price in (mode.silent, mode.sound, mode.voice):
                if isinstance(price, dict):
                    assert len({units / length for length, units in price.items()}) == 1


def test_every_row_names_its_source() -> None:
    prices = price_list()
    assert all(row.source for row in (prices.unit, *prices.model.values(), *prices.provider.values()))
