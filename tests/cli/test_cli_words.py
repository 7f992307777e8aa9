"""The command line's own words are those of the rest."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest

from grpc_server.auth.identity import Scope
from kling_flows.cli import exit_codes, fields, words
from kling_flows.errors import KlingFlowsError
from kling_flows.ledger import LateVideo, State
from kling_flows.sandbox import VideoSource
from kling_flows.upstream import CameraMovement, Mode, Provider, ShotType, Sound
from kling_flows.upstream.request import VALUE_REMEDIES
from kling_flows.v1.text_to_video_pb2 import CameraConfig, CameraControl, TextToVideo
from kling_flows.v1.video_task_pb2 import VideoTask

from .command import run


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (words.Mode, Mode),
        (words.Sound, Sound),
        (words.ShotType, ShotType),
        (words.CameraType, CameraMovement),
        (words.State, State),
        (words.LateVideo, LateVideo),
        (words.Provider, Provider),
        (words.Scope, Scope),
        (words.VideoSource, VideoSource),
    ],
)
def test_words_are_those_of_the_package(ours: type[StrEnum], theirs: type[StrEnum]) -> None:
    assert {word.name: word.value for word in ours} == {word.name: word.value for word in theirs}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (words.Mode, TextToVideo.Mode),
        (words.Sound, TextToVideo.Sound),
        (words.ShotType, TextToVideo.ShotType),
        (words.CameraType, CameraControl.Type),
        (words.State, VideoTask.State),
    ],
)
def test_names_are_those_of_the_protos(ours: type[StrEnum], theirs: Any) -> None:
    assert {word.name for word in ours} == {name for name in theirs.keys() if not name.endswith("_UNSPECIFIED")}  # noqa: SIM118


def test_what_others_call_a_mode_is_what_a_request_says_of_it() -> None:
    remedies = {value: remedy for (field, value), remedy in VALUE_REMEDIES.items() if field == "mode"}
    assert {word: f"Use '{mode}'." for word, mode in words.OTHER_MODES.items()} == remedies


def test_axes_are_those_of_the_proto() -> None:
    assert {axis.value for axis in words.CameraAxis} == set(CameraConfig.DESCRIPTOR.fields_by_name)


def test_every_field_of_a_request_has_an_option() -> None:
    assert set(TextToVideo.DESCRIPTOR.fields_by_name) <= set(fields.OPTIONS)


async def test_every_option_of_a_field_exists() -> None:
    result = await run("generate", "--help", env={"COLUMNS": "200"})
    of_generate = [fields.OPTIONS[name] for name in TextToVideo.DESCRIPTOR.fields_by_name if name != "prompt"]
    assert result.code == 0
    assert [option for option in [*of_generate, "--label", "--id", "--request-id"] if option not in result.out] == []


@pytest.mark.parametrize(
    ("path", "option"),
    [
        ("text_to_video.duration", "--duration"),
        ("video_task.text_to_video.multi_prompt[2].prompt", "--shot"),
        ("text_to_video.camera_control.config.zoom", "--camera-axis"),
        ("text_to_video.camera_control.type", "--camera"),
        ("labels", "--label"),
        ("video_task_id", "--id"),
        ("names[3]", "ID"),
        ("text_to_video", None),
        ("heartbeat_interval", None),
    ],
)
def test_violations_name_the_option(path: str, option: str | None) -> None:
    assert fields.option_of(path) == option


def _tree(error: type[KlingFlowsError]) -> list[type[KlingFlowsError]]:
    return [error, *(item for subclass in error.__subclasses__() for item in _tree(subclass))]


def test_every_error_of_the_tree_has_its_exit_code() -> None:
    first: dict[str, type[KlingFlowsError]] = {}
    for error in _tree(KlingFlowsError):
        first.setdefault(error.reason, error)
    assert {"VIDEO_TASK_NOT_FOUND", "UPSTREAM_AUTH", "UPSTREAM_AMBIGUOUS"} <= set(first)
    for reason, error in first.items():
        assert exit_codes.exit_code_of(reason) == error.exit_code, error
        assert error.exit_code in exit_codes.MEANINGS, error


def test_an_unknown_reason_is_internal() -> None:
    assert exit_codes.exit_code_of("ADDED_LATER") == 1
