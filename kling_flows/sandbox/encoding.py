"""Encodes sandbox videos with PyAV: H.264 in yuv420p, AAC where sound was ordered, index first (faststart)."""

# PyAV leaves some parameters of its public functions without a type.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import array
import functools
import math
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final, cast

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.plane import VideoPlane
from av.video.stream import VideoStream
from PIL import Image

from kling_flows.errors import ConfigurationError
from kling_flows.sandbox.clips import ClipSpec
from kling_flows.sandbox.picture import Picture

_SAMPLE_RATE: Final = 48_000
#: Samples of one AAC frame.
_AUDIO_FRAME: Final = 1024
#: Number of BT.709 in ITU-T H.273, used by FFmpeg for primaries, transfer and matrix; and its limited range.
_BT709: Final = 1
_LIMITED_RANGE: Final = 1


class RenderingStopped(Exception):
    """The server is closing: the clip was given up."""


def encode(spec: ClipSpec, path: Path, stop: threading.Event) -> None:
    """Render a clip into a file; runs in a worker thread.

    Args:
        spec: The clip.
        path: The file to write; must not exist.
        stop: When set, the rendering ends with :class:`RenderingStopped`.
    """
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        container.metadata["comment"] = "kling-flows sandbox"
        video = _add_video(container, spec)
        audio = _add_audio(container) if spec.sound else None
        sound = _soft_tone(spec) if audio is not None else iter(())
        for frame in _pictures(spec, stop):
            for packet in video.encode(frame):
                container.mux(packet)
            if audio is not None:
                # Interleaved, so that a player never has to look far ahead for the sound of a picture.
                _feed(container, audio, sound, until=frame.time or 0.0)
        for packet in video.encode(None):
            container.mux(packet)
        if audio is not None:
            _feed(container, audio, sound, until=math.inf)
            for packet in audio.encode(None):
                container.mux(packet)


@functools.cache
def h264_encoder() -> str:
    """The H.264 encoder that this build of PyAV has.

    Raises:
        ConfigurationError: It has none.
    """
    for name in ("libx264", "libopenh264"):
        if name in av.codecs_available:
            return name
    raise ConfigurationError("video", "this build of PyAV has no H.264 encoder; install its wheel, or choose tiny")


def _add_video(container: OutputContainer, spec: ClipSpec) -> VideoStream:
    options = {"preset": "ultrafast", "crf": "24"} if h264_encoder() == "libx264" else {}
    stream = cast(VideoStream, container.add_stream(h264_encoder(), rate=spec.fps, options=options))
    stream.width, stream.height, stream.pix_fmt = spec.width, spec.height, "yuv420p"
    stream.time_base = Fraction(1, spec.fps)
    stream.gop_size = 2 * spec.fps
    # One thread per clip: clips are what runs side by side, and the bytes stay the same on every machine.
    stream.thread_count = 1
    stream.color_range = _LIMITED_RANGE
    stream.colorspace = stream.color_primaries = stream.color_trc = _BT709
    return stream


def _add_audio(container: OutputContainer) -> AudioStream:
    stream = container.add_stream("aac", rate=_SAMPLE_RATE, layout="mono", format="fltp")
    stream.bit_rate = 64_000
    return stream


def _pictures(spec: ClipSpec, stop: threading.Event) -> Iterator[av.VideoFrame]:
    picture = Picture(spec)
    for number in range(spec.frames):
        if stop.is_set():
            raise RenderingStopped
        planes = picture.draw(number)
        frame = av.VideoFrame(spec.width, spec.height, "yuv420p")
        for plane, image in zip(frame.planes, (planes.y, planes.u, planes.v), strict=True):
            _fill(plane, image)
        frame.pts, frame.time_base = number, Fraction(1, spec.fps)
        yield frame


def _fill(plane: VideoPlane, image: Image.Image) -> None:
    if plane.line_size != image.width:
        # FFmpeg aligns its rows; the padding on the right is never shown.
        image = image.crop((0, 0, plane.line_size, image.height))
    plane.update(image.tobytes())


def _soft_tone(spec: ClipSpec) -> Iterator[av.AudioFrame]:
    """A quiet two-note chord that swells in and out, as long as the picture."""
    samples = spec.frames * _SAMPLE_RATE // spec.fps
    turn = 2 * math.pi / _SAMPLE_RATE
    for start in range(0, samples, _AUDIO_FRAME):
        count = min(_AUDIO_FRAME, samples - start)
        loudness = 0.08 * math.sin(math.pi * (start + count / 2) / samples)
        moments = range(start, start + count)
        wave = array.array("f", (loudness * (math.sin(220 * turn * n) + math.sin(330 * turn * n)) for n in moments))
        frame = av.AudioFrame(format="fltp", layout="mono", samples=count)
        frame.planes[0].update(wave.tobytes())
        frame.sample_rate = _SAMPLE_RATE
        frame.pts, frame.time_base = start, Fraction(1, _SAMPLE_RATE)
        yield frame


def _feed(container: OutputContainer, audio: AudioStream, sound: Iterator[av.AudioFrame], *, until: float) -> None:
    for frame in sound:
        for packet in audio.encode(frame):
            container.mux(packet)
        if (frame.time or 0.0) >= until:
            return
