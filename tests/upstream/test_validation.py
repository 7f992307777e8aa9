from __future__ import annotations

from typing import Any

import pytest

from kling_flows.errors import InvalidRequest
from kling_flows.upstream import Dialect, Provider, TextToVideoRequest, capability_map, check, parse_request, validate

from .data import load, request

KLING = Provider.KLING
COMET = Provider.COMETAPI


def found(made: TextToVideoRequest, provider: Provider = KLING) -> dict[str, str]:
    violations = validate(made, provider)
    by_field = {violation.field: violation.rule for violation in violations}
    assert len(by_field) == len(violations), violations
    return by_field


def message(made: TextToVideoRequest, field: str, provider: Provider = KLING) -> str:
    return next(violation.message for violation in validate(made, provider) if violation.field == field)


def shots(*durations: int, **fields: Any) -> TextToVideoRequest:
    multi_prompt = [{"prompt": "a", "duration": seconds} for seconds in durations]
    given = {"multi_shot": True, "shot_type": "customize", "multi_prompt": multi_prompt, "duration": sum(durations)}
    return parse_request({**given, **fields})


@pytest.mark.parametrize("provider", list(Provider))
def test_default_request_is_valid_everywhere(provider: Provider) -> None:
    assert validate(request(), provider) == ()
    check(request(), provider)


@pytest.mark.parametrize("name", capability_map().living_in(Dialect.LEGACY))
def test_every_living_model_is_taken(name: str) -> None:
    assert validate(request(model_name=name), KLING) == ()


def test_published_multi_shot_request_is_valid_apart_from_its_index() -> None:
    body = load("request_text2video_v3_multishot.json")
    for shot in body["multi_prompt"]:
        del shot["index"]
    assert validate(parse_request(body), KLING) == ()


def test_check_raises_all_violations_at_once() -> None:
    made = parse_request(
        {
            "negative_prompt": "n" * 2501,
            "model_name": "kling-v2-6",
            "mode": "4k",
            "duration": 7,
            "aspect_ratio": "4:3",
            "sound": "on",
            "cfg_scale": 1.5,
            "camera_control": {"type": "down_back", "config": {"pan": 1}},
            "multi_shot": True,
            "voice_list": [{"voice_id": ""}] * 3,
            "callback_url": "host/path",
        }
    )
    with pytest.raises(InvalidRequest) as caught:
        check(made, KLING)
    assert sorted((violation.field, violation.rule) for violation in caught.value.violations) == [
        ("aspect_ratio", "NOT_SUPPORTED"),
        ("callback_url", "MALFORMED"),
        ("camera_control", "NOT_SUPPORTED"),
        ("camera_control.config", "CONTRADICTION"),
        ("cfg_scale", "NOT_SUPPORTED"),
        ("cfg_scale", "OUT_OF_RANGE"),
        ("duration", "OUT_OF_RANGE"),
        ("mode", "NOT_SUPPORTED"),
        ("multi_shot", "NOT_SUPPORTED"),
        ("negative_prompt", "TOO_LONG"),
        ("prompt", "REQUIRED"),
        ("shot_type", "REQUIRED"),
        ("voice_list", "NOT_SUPPORTED"),
        ("voice_list", "TOO_MANY"),
        ("voice_list[0].voice_id", "REQUIRED"),
        ("voice_list[1].voice_id", "REQUIRED"),
        ("voice_list[2].voice_id", "REQUIRED"),
    ]
    assert all(violation.message.endswith(".") for violation in caught.value.violations)


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_prompt_is_needed(prompt: str) -> None:
    assert found(request(prompt=prompt)) == {"prompt": "REQUIRED"}


@pytest.mark.parametrize("provider", list(Provider))
def test_prompts_may_have_2500_characters(provider: Provider) -> None:
    assert found(request(prompt="語" * 2500, negative_prompt="n" * 2500), provider) == {}
    long = request(prompt="語" * 2501, negative_prompt="n" * 2501)
    assert found(long, provider) == {"prompt": "TOO_LONG", "negative_prompt": "TOO_LONG"}
    assert message(long, "prompt") == "It has 2501 characters; shorten it to 2500."


def test_narrow_limits_of_cometapi_are_on_record() -> None:
    row = capability_map().provider[COMET]
    assert (row.documented_prompt_limit, row.documented_negative_prompt_limit) == (500, 200)


def test_half_a_character_is_refused() -> None:
    assert found(request(prompt="a\ud800")) == {"prompt": "MALFORMED"}


def test_unknown_model_is_refused_with_the_likely_one() -> None:
    made = request(model_name="kling-v3-0")
    assert found(made) == {"model_name": "UNKNOWN_MODEL"}
    assert "Did you mean kling-v3?" in message(made, "model_name")


def test_wildly_unknown_model_is_refused_with_the_list() -> None:
    text = message(request(model_name="sora"), "model_name")
    assert all(name in text for name in capability_map().living_in(Dialect.LEGACY))


def test_retired_model_is_refused_with_its_successor() -> None:
    made = request(model_name="kling-v1", cfg_scale=0.5)
    assert found(made) == {"model_name": "RETIRED_MODEL"}
    assert "kling-v2-5-turbo" in message(made, "model_name")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("kling-v3-omni", "omni-video"),
        ("kling-v2-1", "images"),
        ("kling-3.0-turbo", "standard dialect"),
        ("kling-3.0", "kling-v3"),
    ],
)
def test_model_of_another_endpoint_is_refused_with_a_hint(name: str, hint: str) -> None:
    made = request(model_name=name)
    assert found(made) == {"model_name": "NOT_SUPPORTED"}
    assert hint in message(made, "model_name")


@pytest.mark.parametrize(
    ("model", "mode", "rules"),
    [
        ("kling-v3", "4k", {}),
        ("kling-v2-6", "pro", {}),
        ("kling-v2-6", "4k", {"mode": "NOT_SUPPORTED"}),
        ("kling-v2-master", "std", {}),
        ("kling-v2-master", "pro", {"mode": "NOT_SUPPORTED"}),
    ],
)
def test_mode_must_be_one_of_the_model(model: str, mode: str, rules: dict[str, str]) -> None:
    assert found(request(model_name=model, mode=mode)) == rules


@pytest.mark.parametrize(
    ("model", "duration", "valid"),
    [
        ("kling-v3", 2, False),
        ("kling-v3", 3, True),
        ("kling-v3", 15, True),
        ("kling-v3", 16, False),
        ("kling-v2-6", 5, True),
        ("kling-v2-6", 10, True),
        ("kling-v2-6", 7, False),
        ("kling-v1-6", 0, False),
    ],
)
def test_duration_must_be_one_of_the_model(model: str, duration: int, valid: bool) -> None:
    assert found(request(model_name=model, duration=duration)) == ({} if valid else {"duration": "OUT_OF_RANGE"})


def test_duration_message_names_the_set() -> None:
    assert "3 to 15 s" in message(request(duration=99), "duration")
    assert "5 or 10 s" in message(request(duration=99, model_name="kling-v2-6"), "duration")


def test_duration_is_judged_even_without_a_model() -> None:
    assert found(request(model_name="sora", duration=-1))["duration"] == "OUT_OF_RANGE"


@pytest.mark.parametrize("ratio", ["16:9", "9:16", "1:1"])
def test_aspect_ratios_are_taken(ratio: str) -> None:
    assert found(request(aspect_ratio=ratio)) == {}


def test_other_aspect_ratio_is_refused_with_the_set() -> None:
    assert message(request(aspect_ratio="4:3"), "aspect_ratio") == "Use 16:9, 9:16 or 1:1."


@pytest.mark.parametrize(
    ("model", "mode", "rules"),
    [
        ("kling-v3", "std", {}),
        ("kling-v3", "4k", {}),
        ("kling-v2-6", "pro", {}),
        ("kling-v2-6", "std", {"sound": "CONTRADICTION"}),
        ("kling-v2-5-turbo", "pro", {"sound": "NOT_SUPPORTED"}),
        ("kling-v2-master", "std", {"sound": "NOT_SUPPORTED"}),
    ],
)
def test_sound_depends_on_model_and_mode(model: str, mode: str, rules: dict[str, str]) -> None:
    assert found(request(model_name=model, mode=mode, sound="on")) == rules


@pytest.mark.parametrize(
    ("value", "valid"), [(0, True), (1, True), (0.5, True), (-0.1, False), (1.1, False), (float("nan"), False)]
)
def test_cfg_scale_goes_from_0_to_1(value: float, valid: bool) -> None:
    made = request(model_name="kling-v1-6", cfg_scale=value)
    assert found(made) == ({} if valid else {"cfg_scale": "OUT_OF_RANGE"})


@pytest.mark.parametrize("model", ["kling-v2-6", "kling-v2-5-turbo", "kling-v2-master", "kling-v2-1-master"])
def test_cfg_scale_is_not_for_models_2(model: str) -> None:
    assert found(request(model_name=model, cfg_scale=0.5)) == {"cfg_scale": "NOT_SUPPORTED"}


@pytest.mark.parametrize("model", ["kling-v3", "kling-v1"])
def test_camera_control_has_no_living_model(model: str) -> None:
    made = request(model_name=model, camera_control={"type": "forward_up"})
    assert found(made)["camera_control"] == "NOT_SUPPORTED"
    assert "No model that still answers" in message(made, "camera_control")


@pytest.mark.parametrize(
    ("control", "rules"),
    [
        ({"type": "simple", "config": {"zoom": -10}}, {}),
        ({"type": "simple"}, {"camera_control.config": "REQUIRED"}),
        ({"type": "simple", "config": {}}, {"camera_control.config": "REQUIRED"}),
        ({"type": "simple", "config": {"pan": 1, "roll": -1}}, {"camera_control.config": "CONTRADICTION"}),
        ({"type": "simple", "config": {"tilt": 10.5}}, {"camera_control.config.tilt": "OUT_OF_RANGE"}),
        ({"type": "simple", "config": {"tilt": float("nan")}}, {"camera_control.config.tilt": "OUT_OF_RANGE"}),
        ({"type": "left_turn_forward"}, {}),
        ({"type": "down_back", "config": {"pan": 1}}, {"camera_control.config": "CONTRADICTION"}),
    ],
)
def test_camera_config_rules_hold_beside(control: dict[str, Any], rules: dict[str, str]) -> None:
    assert found(request(camera_control=control)) == {"camera_control": "NOT_SUPPORTED", **rules}


@pytest.mark.parametrize("durations", [(5,), (1, 2), (1, 1, 1, 1, 1, 10)])
def test_customized_shots_that_fill_the_video_are_valid(durations: tuple[int, ...]) -> None:
    assert found(shots(*durations)) == {}


def test_intelligent_shots_need_a_prompt_and_no_shots() -> None:
    assert found(request(multi_shot=True, shot_type="intelligence")) == {}
    made = shots(5, shot_type="intelligence")
    assert found(made) == {"prompt": "REQUIRED", "multi_prompt": "CONTRADICTION"}


def test_prompt_beside_customized_shots_would_be_ignored() -> None:
    assert found(shots(5, prompt="lost")) == {"prompt": "CONTRADICTION"}


def test_multi_shot_needs_a_shot_type() -> None:
    assert found(request(multi_shot=True)) == {"shot_type": "REQUIRED"}


def test_shots_without_multi_shot_would_be_ignored() -> None:
    made = request(shot_type="customize", multi_prompt=[{"prompt": "a", "duration": 5}])
    assert found(made) == {"shot_type": "CONTRADICTION", "multi_prompt": "CONTRADICTION"}


def test_only_v3_makes_several_shots() -> None:
    assert found(shots(5, model_name="kling-v2-6")) == {"multi_shot": "NOT_SUPPORTED"}


def test_customize_needs_shots() -> None:
    made = parse_request({"multi_shot": True, "shot_type": "customize"})
    assert found(made) == {"multi_prompt": "REQUIRED"}


def test_seven_shots_are_too_many() -> None:
    assert found(shots(*[1] * 7)) == {"multi_prompt": "TOO_MANY"}


def test_shots_have_to_last_as_long_as_the_video() -> None:
    made = shots(2, 2, duration=5)
    assert found(made) == {"multi_prompt": "CONTRADICTION"}
    assert "4 s together and the video 5 s" in message(made, "multi_prompt")


def test_each_shot_is_judged() -> None:
    body: list[dict[str, Any]] = [
        {"prompt": " ", "duration": 2},
        {"prompt": "a" * 513, "duration": 0},
        {"prompt": "a" * 512, "duration": 6},
    ]
    made = parse_request({"multi_shot": True, "shot_type": "customize", "multi_prompt": body, "duration": 5})
    assert found(made) == {
        "multi_prompt[0].prompt": "REQUIRED",
        "multi_prompt[1].prompt": "TOO_LONG",
        "multi_prompt[1].duration": "OUT_OF_RANGE",
        "multi_prompt[2].duration": "OUT_OF_RANGE",
        "multi_prompt": "CONTRADICTION",
    }


def test_voices_of_v3_with_sound_are_valid() -> None:
    made = request(
        prompt="<<<voice_1>>> asks, <<<voice_2>>> answers",
        sound="on",
        voice_list=[{"voice_id": "a"}, {"voice_id": "b"}],
    )
    assert found(made) == {}


def test_voices_need_sound() -> None:
    assert found(request(voice_list=[{"voice_id": "a"}])) == {"voice_list": "CONTRADICTION"}


def test_voices_need_a_model_that_takes_them() -> None:
    made = request(model_name="kling-v2-6", mode="pro", sound="on", voice_list=[{"voice_id": "a"}])
    assert found(made) == {"voice_list": "NOT_SUPPORTED"}


def test_three_voices_are_too_many() -> None:
    made = request(sound="on", voice_list=[{"voice_id": "a"}] * 3)
    assert found(made) == {"voice_list": "TOO_MANY"}


def test_prompt_cannot_refer_to_a_voice_that_is_not_given() -> None:
    made = request(prompt="<<<voice_1>>> and <<<voice_2>>>", sound="on", voice_list=[{"voice_id": "a"}])
    assert found(made) == {"prompt": "CONTRADICTION"}
    assert "<<<voice_2>>>" in message(made, "prompt")
    in_shot = shots(5, multi_prompt=[{"prompt": "<<<voice_1>>>", "duration": 5}])
    assert found(in_shot) == {"multi_prompt[0].prompt": "CONTRADICTION"}


@pytest.mark.parametrize("url", ["https://host/path?token=1", "http://127.0.0.1:8080/x", "HTTPS://HOST"])
def test_callback_url_is_taken(url: str) -> None:
    assert found(request(callback_url=url)) == {}


@pytest.mark.parametrize(
    "url", ["", "host", "ftp://host/secret", "https://", "https:///path", "https://ho st", "https://h\n", "http://h:x"]
)
def test_unusable_callback_url_is_refused_without_being_shown(url: str) -> None:
    made = request(callback_url=url)
    assert found(made) == {"callback_url": "MALFORMED"}
    assert "secret" not in message(made, "callback_url")


@pytest.mark.parametrize(
    ("fields", "rules"),
    [
        ({"mode": "4k"}, {"mode": "NOT_SUPPORTED"}),
        ({"duration": 7}, {"duration": "OUT_OF_RANGE"}),
        ({"watermark_info": {"enabled": True}}, {"watermark_info": "NOT_SUPPORTED"}),
        (
            {"multi_shot": True, "shot_type": "intelligence"},
            {"multi_shot": "NOT_SUPPORTED", "shot_type": "NOT_SUPPORTED"},
        ),
        ({"voice_list": [{"voice_id": "a"}], "sound": "on"}, {"voice_list": "NOT_SUPPORTED"}),
    ],
)
def test_cometapi_is_narrower_than_kling(fields: dict[str, Any], rules: dict[str, str]) -> None:
    assert found(request(**fields), KLING) == {}
    assert found(request(**fields), COMET) == rules
    assert all("cometapi" in message(request(**fields), field, COMET) for field in rules)


def test_message_names_who_refuses() -> None:
    assert message(request(model_name="kling-v2-6", duration=7), "duration", COMET).startswith("kling-v2-6")
    assert message(request(duration=7), "duration", COMET).startswith("cometapi")
