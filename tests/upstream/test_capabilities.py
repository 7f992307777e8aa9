from __future__ import annotations

import pytest

from kling_flows.upstream import Mode, ModelStatus, Provider, capability_map
from kling_flows.upstream.request import TextToVideoRequest


def test_every_provider_has_a_row() -> None:
    assert set(capability_map().provider) == set(Provider)


def test_every_row_names_its_source() -> None:
    known = capability_map()
    rows = [known.limits, *known.model.values(), *known.elsewhere.values(), *known.provider.values()]
    assert all(row.source for row in rows)


def test_models_that_end_name_a_successor_that_lives_on() -> None:
    models = capability_map().model
    for name, row in models.items():
        if row.status is not ModelStatus.ACTIVE:
            assert row.successor is not None, name
            assert models[row.successor].status is ModelStatus.ACTIVE, name


def test_sound_is_offered_only_in_modes_of_the_model() -> None:
    assert all(set(row.sound) <= set(row.modes) for row in capability_map().model.values())


def test_no_name_is_a_model_and_elsewhere_at_once() -> None:
    assert not set(capability_map().model) & set(capability_map().elsewhere)


def test_absent_fields_are_fields_of_a_request() -> None:
    fields = set(TextToVideoRequest.model_fields)
    assert all(set(row.absent_fields) <= fields for row in capability_map().provider.values())


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
    row = capability_map().model[name]
    assert (row.modes, row.durations, row.sound) == (modes, durations, sound)


def test_map_is_loaded_once() -> None:
    assert capability_map() is capability_map()
