"""What a create accepts, and in what words it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .caller import Api

SHOT = {"index": 1, "prompt": "a bird", "duration": "5"}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"prompt": "x" * 2500, "negative_prompt": "y" * 2500},
        {"prompt": "猫が走る 🐈‍⬛ \ud83d"},
        {"mode": "std", "sound": "on"},
        {"mode": "pro", "duration": "3", "aspect_ratio": "9:16"},
        {"mode": "4k", "duration": "15", "aspect_ratio": "1:1"},
        {"model_name": "kling-v2-6", "mode": "pro", "sound": "on", "duration": "10"},
        {"model_name": "kling-v2-6", "mode": "pro", "sound": "on", "voice_list": [{"voice_id": "v"}]},
        {"model_name": "kling-v2-5-turbo", "mode": "std"},
        {"model_name": "kling-v2-1-master"},
        {"model_name": "kling-v1-6", "cfg_scale": 0.5},
        {"cfg_scale": 1},
        {"watermark_info": {"enabled": True}},
        {"callback_url": "https://example.com/hook"},
        {"multi_shot": False, "shot_type": "anything"},
        {"multi_shot": True, "shot_type": "intelligence"},
        {"prompt": None, "multi_shot": True, "shot_type": "customize", "multi_prompt": [SHOT]},
        {
            "multi_shot": True,
            "shot_type": "customize",
            "duration": "7",
            "multi_prompt": [SHOT | {"duration": "4"}, SHOT | {"index": 2, "duration": "3"}],
        },
        {"enable_audio": True, "cfgscale": "high", "model": "kling-v1"},
        {"mode": None, "duration": None, "aspect_ratio": None, "external_task_id": ""},
    ],
)
def test_valid_orders_and_unknown_fields_are_accepted(shared: Api, fields: dict[str, Any]) -> None:
    answer = shared.create(**fields)
    assert (answer.status_code, answer.json()["code"]) == (200, 0), answer.text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model_name": None}, "The model 'kling-v1' has been discontinued and is no longer available."),
        (
            {"model_name": None, "model": "kling-v3"},
            "The model 'kling-v1' has been discontinued and is no longer available.",
        ),
        ({"model_name": "kling-v3-omni"}, "model is not supported"),
        ({"model_name": "kling-v3-0"}, "model is not supported"),
        ({"model_name": 3}, "model_name value '3' is invalid"),
        ({"mode": "standard"}, "mode value 'standard' is invalid"),
        ({"aspect_ratio": "4:3"}, "aspect_ratio value '4:3' is invalid"),
        ({"sound": True}, "sound value 'True' is invalid"),
        ({"duration": 5}, "duration value '5' is invalid"),
        ({"duration": "5s"}, "duration value '5s' is invalid"),
        ({"duration": "9" * 5000}, f"duration value '{'9' * 100}' is invalid"),
        ({"duration": "2"}, "model/mode/duration(kling-v3/std/2) is not supported"),
        ({"duration": "16"}, "model/mode/duration(kling-v3/std/16) is not supported"),
        (
            {"model_name": "kling-v2-5-turbo", "duration": "7"},
            "model/mode/duration(kling-v2-5-turbo/std/7) is not supported",
        ),
        ({"model_name": "kling-v2-6", "mode": "4k"}, "model/mode/duration(kling-v2-6/4k/5) is not supported"),
        ({"model_name": "kling-v2-6", "sound": "on"}, "model/mode/sound(kling-v2-6/std/on) is not supported"),
        ({"model_name": "kling-v2-5-turbo", "cfg_scale": 0.5}, "cfg_scale is not supported by kling-v2-5-turbo"),
        ({"cfg_scale": 1.5}, "cfg_scale value '1.5' is invalid"),
        ({"cfg_scale": True}, "cfg_scale value 'True' is invalid"),
        ({"prompt": None}, "prompt is empty"),
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": "x" * 2501}, "prompt is too long: 2501 characters, at most 2500"),
        ({"negative_prompt": "x" * 2501}, "negative_prompt is too long: 2501 characters, at most 2500"),
        (
            {"camera_control": {"type": "simple", "config": {"zoom": 5}}},
            "camera_control is only supported in std mode with 5s duration and kling-v1",
        ),
        ({"camera_control": "zoom"}, "camera_control value 'zoom' is invalid"),
        ({"watermark_info": []}, "watermark_info value '[]' is invalid"),
        ({"watermark_info": {"enabled": "yes"}}, "watermark_info.enabled value 'yes' is invalid"),
        ({"multi_shot": "true"}, "multi_shot value 'true' is invalid"),
        ({"model_name": "kling-v2-6", "multi_shot": True}, "multi_shot is not supported by kling-v2-6"),
        ({"multi_shot": True}, "shot_type value '' is invalid"),
        ({"prompt": "", "multi_shot": True, "shot_type": "intelligence"}, "prompt is empty"),
        ({"multi_shot": True, "shot_type": "customize"}, "multi_prompt needs 1 to 6 shots, but has 0"),
        (
            {"multi_shot": True, "shot_type": "customize", "multi_prompt": [SHOT] * 7},
            "multi_prompt needs 1 to 6 shots, but has 7",
        ),
        (
            {"multi_shot": True, "shot_type": "customize", "multi_prompt": [SHOT, SHOT]},
            "the durations in multi_prompt add up to 10, but duration is 5",
        ),
        (
            {"multi_shot": True, "shot_type": "customize", "multi_prompt": [SHOT | {"prompt": "x" * 513}]},
            "multi_prompt[0].prompt is too long: 513 characters, at most 512",
        ),
        (
            {"multi_shot": True, "shot_type": "customize", "multi_prompt": [SHOT | {"duration": "0"}]},
            "multi_prompt[0].duration value '0' is invalid",
        ),
        (
            {"multi_shot": True, "shot_type": "customize", "multi_prompt": [SHOT | {"index": "1"}]},
            "multi_prompt[0].index value '1' is invalid",
        ),
        (
            {"multi_shot": True, "shot_type": "customize", "multi_prompt": [SHOT | {"prompt": ""}]},
            "multi_prompt[0].prompt is empty",
        ),
        ({"sound": "on", "voice_list": [{"voice_id": "v"}] * 3}, "voice_list has 3 voices, at most 2"),
        ({"sound": "on", "voice_list": [{}]}, "voice_list[0].voice_id is empty"),
        (
            {"voice_list": [{"voice_id": "v"}]},
            "voice_list needs sound on, and a model that has voices; not kling-v3",
        ),
        ({"external_task_id": 7}, "external_task_id value '7' is invalid"),
    ],
)
def test_invalid_orders_are_refused_with_1201(shared: Api, fields: dict[str, Any], text: str) -> None:
    answer = shared.create(**fields)
    body = answer.json()
    assert (answer.status_code, body["code"], body["message"]) == (400, 1201, text)
    assert "data" not in body


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"[" * 100_000, b"\xff"])
def test_body_that_is_no_json_object_is_refused_with_1200(shared: Api, body: bytes) -> None:
    answer = shared.http.post(shared.path, content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, 1200)


def test_content_is_refused_at_create_on_demand(api: Api) -> None:
    answer = api.create(prompt="a duel [sandbox:reject]")
    body = answer.json()
    assert (answer.status_code, body["code"]) == (400, 1301)
    assert body["message"] == "Trigger the platform's content security policy"
    assert api.server.charges() == []


@pytest.mark.parametrize(
    ("camera", "accepted"),
    [
        ({"type": "simple", "config": {"zoom": 5}}, True),
        ({"type": "simple", "config": {"zoom": 5, "pan": 0}}, True),
        ({"type": "simple", "config": {"zoom": 5, "pan": 1}}, False),
        ({"type": "simple", "config": {"zoom": 11}}, False),
        ({"type": "simple"}, False),
        ({"type": "down_back"}, True),
        ({"type": "down_back", "config": {"zoom": 5}}, False),
        ({"type": "spin"}, False),
    ],
)
def test_camera_is_taken_by_the_one_model_that_has_it(
    start: Callable[..., Api], camera: dict[str, Any], accepted: bool
) -> None:
    api = start(discontinued_models=frozenset())
    answer = api.create(model_name="kling-v1", camera_control=camera)
    assert answer.json()["code"] == (0 if accepted else 1201)
