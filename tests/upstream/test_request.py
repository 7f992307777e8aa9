from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from kling_flows.errors import InvalidRequest
from kling_flows.upstream import Mode, Rule, Shot, Sound, TextToVideoRequest, capability_map, parse_request

from .data import load, request


def refused(**fields: Any) -> dict[str, tuple[str, str]]:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(fields)
    return {violation.field: (violation.rule, violation.message) for violation in caught.value.violations}


def test_defaults_are_the_cheapest_of_the_preferred_model() -> None:
    made = TextToVideoRequest(prompt="x")
    assert (made.model_name, made.mode, made.duration, made.sound) == ("kling-v3", Mode.STD, 5, Sound.OFF)
    assert made.aspect_ratio == "16:9"


def test_published_request_is_read_with_its_duration_as_text() -> None:
    made = parse_request(load("request_text2video_cometapi_default.json"))
    assert made.duration == 5


def test_request_survives_json() -> None:
    made = request(multi_shot=True, shot_type="customize", multi_prompt=[{"prompt": "a", "duration": 5}])
    assert TextToVideoRequest.model_validate_json(made.model_dump_json()) == made
    assert made.multi_prompt == (Shot(prompt="a", duration=5),)


def test_request_is_frozen_and_hashable() -> None:
    made = request()
    with pytest.raises(ValidationError):
        made.prompt = "y"  # pyright: ignore[reportAttributeAccessIssue]
    assert hash(made) == hash(request())


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"model": "kling-v3"}, "model_name"),
        ({"motion_has_audio": True}, "sound"),
        ({"enable_audio": True}, "sound"),
        ({"resolution": "1080p"}, "mode"),
        ({"external_task_id": "x"}, "Leave it out"),
        ({"image": "x"}, "no image"),
    ],
)
def test_field_of_another_name_is_refused_with_the_right_one(fields: dict[str, Any], word: str) -> None:
    ((rule, message),) = refused(**fields).values()
    assert rule == Rule.WRONG_WORD
    assert word in message


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("mode", "standard", "'std'"),
        ("mode", "professional", "'pro'"),
        ("mode", "1080p", "'pro'"),
        ("mode", "turbo", "'4k'"),
        ("sound", True, "'on'"),
        ("sound", False, "'off'"),
        ("sound", 1, "'on'"),
        ("shot_type", "custom", "'customize'"),
    ],
)
def test_value_of_another_name_is_refused_with_the_right_one(field: str, value: object, word: str) -> None:
    rule, message = refused(**{field: value})[field]
    assert rule == Rule.WRONG_WORD
    assert word in message


def test_every_wrong_field_is_reported_with_its_path() -> None:
    found = refused(
        mode="standard",
        duration="long",
        colour="red",
        multi_prompt=[{"prompt": "a", "duration": 2}, {"prompt": "b", "duration": 2}, {"prompt": 7, "index": 3}],
        camera_control={"type": "simple", "config": {"pan": "left"}},
    )
    assert {path: rule for path, (rule, _) in found.items()} == {
        "mode": "WRONG_WORD",
        "duration": "WRONG_TYPE",
        "colour": "UNKNOWN_FIELD",
        "multi_prompt[2].prompt": "WRONG_TYPE",
        "multi_prompt[2].duration": "REQUIRED",
        "multi_prompt[2].index": "WRONG_WORD",
        "camera_control.config.pan": "WRONG_TYPE",
    }


def test_right_word_is_told_where_the_model_is_built_directly() -> None:
    with pytest.raises(ValidationError, match="Use 'std'"):
        TextToVideoRequest.model_validate({"mode": "standard"})


def test_messages_do_not_repeat_a_callback_url() -> None:
    with pytest.raises(ValidationError) as caught:
        TextToVideoRequest.model_validate({"callback_url": ["https://host/token-1"], "mode": "x"})
    assert "token-1" not in str(caught.value)
    assert "token-1" not in repr(request(callback_url="https://host/token-1"))


def test_values_outside_the_rules_can_be_built() -> None:
    assert request(duration=99, cfg_scale=7, aspect_ratio="4:3", model_name="none").duration == 99


def test_schema_hints_what_a_form_needs() -> None:
    schema = TextToVideoRequest.model_json_schema()
    fields = schema["properties"]
    assert fields["model_name"]["enum"] == list(capability_map().living_models)
    assert fields["aspect_ratio"]["enum"] == ["16:9", "9:16", "1:1"]
    assert (fields["duration"]["minimum"], fields["duration"]["maximum"]) == (3, 15)
    assert fields["prompt"]["maxLength"] == 3072
    assert schema["$defs"]["Mode"]["enum"] == ["std", "pro", "4k"]
    assert all("description" in field for field in fields.values())
