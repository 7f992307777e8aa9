from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import typer

from kling_flows.cli.request import labels, late_video, moment_in, resource_name, task_filter, text_to_video
from kling_flows.cli.video import VideoOptions
from kling_flows.cli.words import CameraType, LateVideo, Mode, ShotType, Sound, State
from kling_flows.v1.text_to_video_pb2 import CameraConfig, CameraControl, Shot, TextToVideo, Voice, WatermarkInfo
from kling_flows.v1.video_task_pb2 import LateVideo as LateVideoMessage


def test_what_was_not_said_is_left_to_the_server() -> None:
    assert text_to_video(VideoOptions(prompt="a fox")) == TextToVideo(prompt="a fox")


def test_every_option_reaches_its_field() -> None:
    options = VideoOptions(
        prompt="a fox",
        negative_prompt="rain",
        model="kling-v3",
        mode=Mode.FOUR_K,
        duration=7,
        aspect_ratio="1:1",
        cfg_scale=0.0,
        sound=Sound.ON,
        camera=CameraType.SIMPLE,
        camera_axes=["zoom=5", "pan=-0.5"],
        multi_shot=True,
        shot_type=ShotType.INTELLIGENCE,
        voices=["v1", "v2"],
        watermark=True,
    )
    assert text_to_video(options, callback_url="https://example.com/x") == TextToVideo(
        prompt="a fox",
        negative_prompt="rain",
        model_name="kling-v3",
        mode=TextToVideo.FOUR_K,
        duration=7,
        aspect_ratio="1:1",
        cfg_scale=0.0,
        sound=TextToVideo.ON,
        camera_control=CameraControl(type=CameraControl.SIMPLE, config=CameraConfig(zoom=5, pan=-0.5)),
        multi_shot=True,
        shot_type=TextToVideo.INTELLIGENCE,
        voice_list=[Voice(voice_id="v1"), Voice(voice_id="v2")],
        watermark_info=WatermarkInfo(enabled=True),
        callback_url="https://example.com/x",
    )
    assert text_to_video(options).HasField("cfg_scale")


def test_shots_say_the_rest_by_themselves() -> None:
    made = text_to_video(VideoOptions(shots=["3:a fox wakes", " 4 : at 10:30 it runs"]))
    assert made == TextToVideo(
        multi_shot=True,
        shot_type=TextToVideo.CUSTOMIZE,
        duration=7,
        multi_prompt=[Shot(duration=3, prompt="a fox wakes"), Shot(duration=4, prompt="at 10:30 it runs")],
    )


def test_a_duration_beside_shots_is_not_corrected() -> None:
    assert text_to_video(VideoOptions(shots=["3:a"], duration=5)).duration == 5


def test_an_axis_without_a_camera_is_a_simple_one() -> None:
    assert text_to_video(VideoOptions(camera_axes=["tilt=1"])).camera_control.type == CameraControl.SIMPLE


@pytest.mark.parametrize(
    "options",
    [
        VideoOptions(shots=["a fox"]),
        VideoOptions(shots=["x:a fox"]),
        VideoOptions(shots=["-3:a fox"]),
        VideoOptions(camera_axes=["zoom"]),
        VideoOptions(camera_axes=["depth=3"]),
        VideoOptions(camera_axes=["zoom=much"]),
    ],
)
def test_what_cannot_be_read_is_refused(options: VideoOptions) -> None:
    with pytest.raises(typer.BadParameter):
        text_to_video(options)


def test_labels() -> None:
    assert labels(["team=ads", "note=a=b", "empty="]) == {"team": "ads", "note": "a=b", "empty": ""}
    with pytest.raises(typer.BadParameter):
        labels(["team"])


@pytest.mark.parametrize(
    ("state", "pairs", "expression", "expected"),
    [
        (None, [], "", ""),
        (State.FAILED, [], "", "state = FAILED"),
        (State.FAILED, ["team=ads"], "labels.x = y", 'state = FAILED AND labels.team = "ads" AND labels.x = y'),
        (None, ['q=say "hi" \\ bye'], "", r'labels.q = "say \"hi\" \\ bye"'),
    ],
)
def test_filters(state: State | None, pairs: list[str], expression: str, expected: str) -> None:
    assert task_filter(state, pairs, expression) == expected


def test_ids_and_names_mean_the_same() -> None:
    assert resource_name("vt-1") == resource_name("videoTasks/vt-1") == "videoTasks/vt-1"


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7_200), ("3d", 259_200)])
def test_a_span_is_counted_from_now(text: str, seconds: int) -> None:
    before = datetime.now(UTC)
    moment = moment_in(text, "--deadline").ToDatetime(UTC)
    assert before + timedelta(seconds=seconds) <= moment <= datetime.now(UTC) + timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["2026-12-01T09:00:00Z", "2026-12-01T10:00:00+01:00"])
def test_a_moment_is_taken_as_it_is(text: str) -> None:
    assert moment_in(text, "--deadline").ToJsonString() == "2026-12-01T09:00:00Z"


@pytest.mark.parametrize("text", ["", "soon", "5", "5w", "-5m", "9999999999d", "999999999d"])
def test_what_is_no_time_is_refused_by_its_option(text: str) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        moment_in(text, "--deadline")
    assert caught.value.param_hint == "--deadline"


def test_the_server_decides_about_late_videos_unless_it_is_said() -> None:
    assert late_video(None) == LateVideoMessage.LATE_VIDEO_UNSPECIFIED
    assert [late_video(word) for word in LateVideo] == [LateVideoMessage.KEEP_VIDEO, LateVideoMessage.DISCARD]
