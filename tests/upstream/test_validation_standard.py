from __future__ import annotations

from typing import Any

import pytest

from kling_flows.errors import ConfigurationError, InvalidRequest
from kling_flows.upstream import Dialect, Provider, TextToVideoRequest, capability_map, check, parse_request, validate

from .data import load, request

KLING = Provider.KLING
STANDARD = Dialect.STANDARD


def found(made: TextToVideoRequest) -> dict[str, str]:
    violations = validate(made, KLING, STANDARD)
    by_field = {violation.field: violation.rule for violation in violations}
    assert len(by_field) == len(violations), violations
    return by_field


def message(made: TextToVideoRequest, field: str) -> str:
    return next(each.message for each in validate(made, KLING, STANDARD) if each.field == field)


def shots(*prompts: str, **fields: Any) -> TextToVideoRequest:
    multi_prompt = [{"prompt": prompt, "duration": 2} for prompt in prompts]
    given = {"multi_shot": True, "shot_type": "customize", "multi_prompt": multi_prompt, "duration": 2 * len(prompts)}
    return parse_request({**given, **fields})


@pytest.mark.parametrize("name", capability_map().living_in(STANDARD))
def test_default_request_to_each_model_is_valid(name: str) -> None:
    assert found(request(model_name=name)) == {}
    check(request(model_name=name), KLING, STANDARD)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"negative_prompt": "rain"}, "negative_prompt"),
        ({"cfg_scale": 0.5}, "cfg_scale"),
        ({"cfg_scale": 7}, "cfg_scale"),
        ({"camera_control": {"type": "simple"}}, "camera_control"),
        ({"voice_list": [{"voice_id": ""}]}, "voice_list"),
    ],
)
def test_what_the_dialect_cannot_express_is_refused_with_that_reason_alone(fields: dict[str, Any], field: str) -> None:
    made = request(**fields)
    assert found(made) == {field: "NOT_SUPPORTED"}
    assert "standard dialect has no such field" in message(made, field)
    assert "legacy dialect" in message(made, field)


def test_all_violations_are_reported_at_once() -> None:
    made = request(
        negative_prompt="n",
        model_name="kling-v2-6",
        mode="std",
        sound="on",
        duration=7,
        cfg_scale=0.5,
        aspect_ratio="4:3",
        camera_control={"type": "down_back"},
        voice_list=[{"voice_id": "v"}],
        callback_url="host",
    )
    with pytest.raises(InvalidRequest) as caught:
        check(made, KLING, STANDARD)
    assert sorted((each.field, each.rule) for each in caught.value.violations) == [
        ("aspect_ratio", "NOT_SUPPORTED"),
        ("callback_url", "MALFORMED"),
        ("camera_control", "NOT_SUPPORTED"),
        ("cfg_scale", "NOT_SUPPORTED"),
        ("duration", "OUT_OF_RANGE"),
        ("negative_prompt", "NOT_SUPPORTED"),
        ("sound", "CONTRADICTION"),
        ("voice_list", "NOT_SUPPORTED"),
    ]


@pytest.mark.parametrize("name", ["kling-v1-6", "kling-v2-master", "kling-v2-1-master"])
def test_model_of_the_legacy_dialect_is_refused_with_its_successor(name: str) -> None:
    made = request(model_name=name, negative_prompt="n")
    assert found(made) == {"model_name": "NOT_SUPPORTED", "negative_prompt": "NOT_SUPPORTED"}
    successor = capability_map().model[name].successor
    assert message(made, "model_name") == f"{name} exists in the legacy dialect only; use {successor}."


def test_retired_model_is_refused_with_its_successor() -> None:
    made = request(model_name="kling-v1")
    assert found(made) == {"model_name": "RETIRED_MODEL"}
    assert "kling-v2-5-turbo" in message(made, "model_name")


@pytest.mark.parametrize(
    ("name", "right"), [("kling-3.0", "kling-v3"), ("kling-2.6", "kling-v2-6"), ("kling-2.5-turbo", "kling-v2-5-turbo")]
)
@pytest.mark.parametrize("dialect", list(Dialect))
def test_name_of_the_path_is_refused_with_ours(name: str, right: str, dialect: Dialect) -> None:
    (violation,) = validate(request(model_name=name), KLING, dialect)
    assert (violation.field, violation.rule) == ("model_name", "NOT_SUPPORTED")
    assert violation.message.endswith(f"it is {right}.")


@pytest.mark.parametrize(
    ("model", "fields", "rules"),
    [
        ("kling-v3", {"mode": "4k", "duration": 15, "sound": "on"}, {}),
        ("kling-3.0-turbo", {"mode": "pro", "duration": 3, "sound": "on"}, {}),
        ("kling-3.0-turbo", {"mode": "4k"}, {"mode": "NOT_SUPPORTED"}),
        ("kling-3.0-turbo", {"duration": 16}, {"duration": "OUT_OF_RANGE"}),
        ("kling-v2-6", {"mode": "pro", "sound": "on", "duration": 10}, {}),
        ("kling-v2-6", {"sound": "on"}, {"sound": "CONTRADICTION"}),
        ("kling-v2-6", {"mode": "4k"}, {"mode": "NOT_SUPPORTED"}),
        ("kling-v2-5-turbo", {"mode": "pro", "sound": "on"}, {"sound": "NOT_SUPPORTED"}),
        ("kling-v2-5-turbo", {"duration": 7}, {"duration": "OUT_OF_RANGE"}),
        ("kling-v2-6", {"multi_shot": True, "shot_type": "intelligence"}, {"multi_shot": "NOT_SUPPORTED"}),
        ("kling-3.0-turbo", {"multi_shot": True, "shot_type": "intelligence"}, {"multi_shot": "NOT_SUPPORTED"}),
        ("kling-v3", {"multi_shot": True, "shot_type": "intelligence"}, {}),
        ("kling-v3", {"watermark_info": {"enabled": True}, "callback_url": "https://host/x"}, {}),
    ],
)
def test_settings_depend_on_the_model(model: str, fields: dict[str, Any], rules: dict[str, str]) -> None:
    assert found(request(model_name=model, **fields)) == rules


@pytest.mark.parametrize(
    ("model", "limit"),
    [("kling-v3", 3072), ("kling-3.0-turbo", 3072), ("kling-v2-6", 2500), ("kling-v2-5-turbo", 2500)],
)
def test_prompt_limit_is_the_models(model: str, limit: int) -> None:
    assert found(request(model_name=model, prompt="語" * limit)) == {}
    assert found(request(model_name=model, prompt="語" * (limit + 1))) == {"prompt": "TOO_LONG"}


def test_published_multi_shot_request_is_valid_apart_from_its_index() -> None:
    body = load("request_text2video_v3_multishot.json")
    for shot in body["multi_prompt"]:
        del shot["index"]
    assert found(parse_request(body)) == {}


def test_shot_that_holds_the_separator_could_not_be_told_from_two() -> None:
    made = shots("a boat", "rain; wind")
    assert found(made) == {"multi_prompt[1].prompt": "MALFORMED"}
    assert "';'" in message(made, "multi_prompt[1].prompt")
    assert validate(made, KLING) == ()


def test_shots_have_to_fit_into_one_prompt() -> None:
    assert found(shots(*["a" * 499] * 6)) == {}
    made = shots(*["a" * 512] * 6)
    assert found(made) == {"multi_prompt": "TOO_LONG"}
    assert "3072 together" in message(made, "multi_prompt")
    assert validate(made, KLING) == ()


def test_dialect_that_the_provider_does_not_speak_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cometapi"):
        validate(request(), Provider.COMETAPI, STANDARD)
