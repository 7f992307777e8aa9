"""The videos themselves, decoded."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest
from av.container import InputContainer

from kling_flows.errors import ConfigurationError
from kling_flows.sandbox import SandboxServer, SandboxSettings, VideoSource
from kling_flows.sandbox.clips import ClipSpec, clip_for
from kling_flows.sandbox.encoding import RenderingStopped, encode, h264_encoder
from kling_flows.sandbox.text2video import parse_order
from kling_flows.sandbox.videos import TINY_CLIP

from .caller import Api, fetch


@contextmanager
def opened(data: bytes) -> Iterator[InputContainer]:
    with av.open(io.BytesIO(data)) as container:
        yield container


def spec_of(**fields: Any) -> ClipSpec:
    order = parse_order({"model_name": "kling-v3", "prompt": "a cup", **fields}, discontinued=frozenset())
    return clip_for(order, watermark=False)


def small(**changes: Any) -> ClipSpec:
    fields: dict[str, Any] = {
        "words": "a cup",
        "caption": "kling-v3",
        "width": 320,
        "height": 180,
        "seconds": 1,
        "fps": 4,
        "sound": False,
        "watermark": False,
    }
    return ClipSpec(**(fields | changes))


def rendered(spec: ClipSpec, folder: Path) -> bytes:
    path = folder / "clip.mp4"
    path.unlink(missing_ok=True)
    encode(spec, path, threading.Event())
    return path.read_bytes()


@pytest.mark.parametrize(("ratio", "size"), [("16:9", (1280, 720)), ("9:16", (720, 1280)), ("1:1", (960, 960))])
def test_ordered_video_has_the_ordered_shape_and_length(
    start: Callable[..., Api], ratio: str, size: tuple[int, int]
) -> None:
    api = start(video=VideoSource.RENDERED)
    task = api.finished(aspect_ratio=ratio, duration="3")
    (video,) = task["task_result"]["videos"]
    data = fetch(video["url"], timeout=60).content
    with opened(data) as container:
        assert not container.streams.audio
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height, stream.pix_fmt) == (*size, "yuv420p")
        frames = sum(1 for _ in container.decode(stream))
        assert frames == 3 * 24 + 1
        assert container.duration == pytest.approx(float(video["duration"]) * 1_000_000, abs=1_000)


@pytest.mark.parametrize(
    ("mode", "ratio", "size"),
    [
        ("pro", "16:9", (1920, 1080)),
        ("pro", "9:16", (1080, 1920)),
        ("pro", "1:1", (1440, 1440)),
        ("4k", "16:9", (3840, 2160)),
        ("4k", "9:16", (2160, 3840)),
        ("4k", "1:1", (2880, 2880)),
    ],
)
def test_higher_modes_are_larger(mode: str, ratio: str, size: tuple[int, int]) -> None:
    spec = spec_of(mode=mode, aspect_ratio=ratio, duration="3")
    assert (spec.width, spec.height) == size
    assert spec.frames == 3 * spec.fps + 1


def test_4k_video_decodes(tmp_path: Path) -> None:
    data = rendered(small(width=3840, height=2160, fps=2), tmp_path)
    with opened(data) as container:
        frames = [(frame.width, frame.height) for frame in container.decode(video=0)]
    assert frames == [(3840, 2160)] * 3


def test_index_comes_first(tmp_path: Path) -> None:
    data = rendered(small(), tmp_path)
    assert data[4:8] == b"ftyp"
    assert data.index(b"moov") < data.index(b"mdat")


def test_sound_is_an_aac_track_as_long_as_the_picture(tmp_path: Path) -> None:
    data = rendered(small(sound=True, seconds=2), tmp_path)
    with opened(data) as container:
        (stream,) = container.streams.audio
        assert stream.codec_context.name == "aac"
        samples = [frame.samples for frame in container.decode(stream)]
        assert sum(samples) / stream.rate == pytest.approx(2.25, abs=0.05)


def test_sound_is_there_only_when_ordered() -> None:
    assert spec_of(sound="on").sound
    assert not spec_of(sound="off").sound


def test_picture_moves_and_shows_the_prompt(tmp_path: Path) -> None:
    def pictures(words: str) -> list[bytes]:
        with opened(rendered(small(words=words), tmp_path)) as container:
            return [bytes(frame.planes[0]) for frame in container.decode(video=0)]

    one = pictures("a cup")
    assert len(set(one)) == len(one)
    assert one[0] != pictures("a tea pot")[0]


def test_watermark_is_seen(tmp_path: Path) -> None:
    assert rendered(small(watermark=True), tmp_path) != rendered(small(), tmp_path)


def test_build_without_an_encoder_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("av.codecs_available", {"mpeg4"})
    h264_encoder.cache_clear()
    with pytest.raises(ConfigurationError):
        SandboxServer(SandboxSettings())


def test_same_order_gives_the_same_bytes(tmp_path: Path) -> None:
    assert rendered(small(), tmp_path) == rendered(small(), tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        "",
        " \n\t ",
        "x" * 2500,
        "word " * 500,
        "一只猫在月光下奔跑" * 200,
        "שלום مرحبا नमस्ते",
        "👩‍👩‍👧‍👦 🏳️‍🌈 é \u0000\u001b\u202e\ud83d\uffff",
    ],
)
@pytest.mark.parametrize("size", [(320, 180), (90, 160), (64, 64)])
def test_any_words_fit_any_picture(tmp_path: Path, words: str, size: tuple[int, int]) -> None:
    data = rendered(small(words=words, width=size[0], height=size[1], fps=1), tmp_path)
    with opened(data) as container:
        assert sum(1 for _ in container.decode(video=0)) == 2


def test_rendering_stops_when_told(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(RenderingStopped):
        encode(small(), tmp_path / "clip.mp4", stop)


def test_many_callers_share_one_rendering_and_dropped_files_come_back_the_same(start: Callable[..., Api]) -> None:
    api = start(video=VideoSource.RENDERED, cache_bytes=1)
    url = api.video_url(prompt="first", duration="3")
    first = fetch(url, timeout=60)
    # The next file is all that fits, so that the first one goes.
    fetch(api.video_url(prompt="second", duration="3"), timeout=60)
    again = fetch(url, timeout=60)
    assert again.content == first.content
    assert again.headers["etag"] == first.headers["etag"]


def test_temporary_files_are_gone_after_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with SandboxServer(SandboxSettings()):
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []


def test_tiny_clip_is_a_small_real_video() -> None:
    data = TINY_CLIP.read_bytes()
    assert len(data) < 100_000
    with opened(data) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert sum(1 for _ in container.decode(video=0)) == 31


def test_rendering_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kling_flows.sandbox.encoding", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'kling-flows\[sandbox\]'"):
        SandboxServer(SandboxSettings())
    with SandboxServer(SandboxSettings(video=VideoSource.TINY)) as server:
        assert server.charges() == []
