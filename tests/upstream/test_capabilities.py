from __future__ import annotations

import pytest

from kling_flows.errors import ConfigurationError
from kling_flows.upstream import Abilities, Dialect, Mode, ModelStatus, Provider, capability_map, require_dialect
from kling_flows.upstream.request import TextToVideoRequest


def abilities() -> list[Abilities]:
    rows = capability_map().model.values()
    return [found for row in rows for dialect in Dialect if (found := row.abilities(dialect))]


def test_every_provider_and_dialect_has_a_row() -> None:
    assert set(capability_map().provider) == set(Provider)
    assert set(capability_map().dialect) == set(Dialect)


def test_every_row_names_its_source() -> None:
    known = capability_map()
    rows = [known.limits, *abilities(), *known.elsewhere.values(), *known.dialect.values(), *known.provider.values()]
    assert all(row.source for row in rows)


def test_models_that_end_name_a_successor_that_lives_on() -> None:
    models = capability_map().model
    for name, row in models.items():
        if row.status is not ModelStatus.ACTIVE:
            assert row.successor is not None, name
            assert models[row.successor].status is ModelStatus.ACTIVE, name


def test_sound_is_offered_only_in_modes_of_the_model() -> None:
    assert all(set(row.sound) <= set(row.modes) for row in abilities())


def test_every_model_is_available_in_some_dialect() -> None:
    assert all(row.legacy or row.standard for row in capability_map().model.values())


def test_models_of_the_standard_dialect_have_names_for_its_path_and_others_have_none() -> None:
    rows = capability_map().model.values()
    assert all(row.standard is None or row.standard.path for row in rows)
    assert all(row.legacy is None or row.legacy.path is None for row in rows)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kling-3.0", "kling-v3"),
        ("kling-3.0-turbo", "kling-3.0-turbo"),
        ("kling-2.6", "kling-v2-6"),
        ("kling-2.5-turbo", "kling-v2-5-turbo"),
        ("kling-4.0", None),
    ],
)
def test_model_is_found_by_its_name_in_the_path(path: str, name: str | None) -> None:
    assert capability_map().by_path(path) == name


def test_standard_dialect_has_the_four_models_of_its_pages() -> None:
    assert capability_map().living_in(Dialect.STANDARD) == (
        "kling-v3",
        "kling-3.0-turbo",
        "kling-v2-6",
        "kling-v2-5-turbo",
    )


def test_dialect_that_a_provider_does_not_speak_is_refused() -> None:
    require_dialect(Provider.KLING, Dialect.STANDARD)
    with pytest.raises(ConfigurationError, match="cometapi does not speak 'standard'"):
        require_dialect(Provider.COMETAPI, Dialect.STANDARD)


def test_no_name_is_a_model_and_elsewhere_at_once() -> None:
    assert not set(capability_map().model) & set(capability_map().elsewhere)


def test_absent_fields_are_fields_of_a_request() -> None:
    fields, known = set(TextToVideoRequest.model_fields), capability_map()
    rows = [*known.provider.values(), *known.dialect.values()]
    assert all(set(row.absent_fields) <= fields for row in rows)


def test_living_models_are_all_but_the_retired_one() -> None:
    known = capability_map()
    assert known.living_models[0] == "kling-v3"
    assert set(known.model) - set(known.living_models) == {"kling-v1"}


@pytest.mark.parametrize(
    ("name", "modes", "durations", "sound"),
    [
        ("kling-v3", (Mode.STD, Mode.PRO, Mode.FOUR_K), tuple(range(3, 16)), (Mode.STD, Mode.PRO, Mode.FOUR_K)),
        ("kling-v2-6", (Mode.STD, Mode.PRO), (5, 10), (Mode.PRO,)),
        ("kling-v2-5-turbo", (Mode.STD, Mode.PRO), (5, 10), ()),
        ("kling-v2-1-master", (), (5, 10), ()),
        ("kling-v2-master", (), (5, 10), ()),
        ("kling-v1-6", (Mode.STD, Mode.PRO), (5, 10), ()),
    ],
)
def test_model_row(name: str, modes: tuple[Mode, ...], durations: tuple[int, ...], sound: tuple[Mode, ...]) -> None:
    row = capability_map().abilities(name, Dialect.LEGACY)
    assert row is not None
    assert (row.modes, row.durations, row.sound) == (modes, durations, sound)


def test_map_is_loaded_once() -> None:
    assert capability_map() is capability_map()
