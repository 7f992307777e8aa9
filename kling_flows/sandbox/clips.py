"""What a sandbox video must look like: its size, length, frame rate, sound and words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kling_flows.sandbox.text2video import Text2Video

#: Pixels of a clip by mode and aspect ratio. The ``std`` sizes are the ones CometAPI's schema gives (fact sheet 2.4);
#: ``pro`` and ``4k`` are the 1080p and 2160p sizes of the same shapes (fact sheet 2.1, field ``mode``).
FRAME_SIZES: Final[dict[tuple[str, str], tuple[int, int]]] = {
    ("std", "16:9"): (1280, 720),
    ("std", "9:16"): (720, 1280),
    ("std", "1:1"): (960, 960),
    ("pro", "16:9"): (1920, 1080),
    ("pro", "9:16"): (1080, 1920),
    ("pro", "1:1"): (1440, 1440),
    ("4k", "16:9"): (3840, 2160),
    ("4k", "9:16"): (2160, 3840),
    ("4k", "1:1"): (2880, 2880),
}

#: Frames per second by mode. Kling delivers 24 (fact sheet 3); the two big sizes are halved to stay cheap to render.
FRAME_RATES: Final[dict[str, int]] = {"std": 24, "pro": 12, "4k": 12}


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """Everything that decides the bytes of one clip.

    Args:
        words: The text to show, usually the prompt.
        caption: One line that says what was ordered.
        width: Pixels, even.
        height: Pixels, even.
        seconds: Requested length in seconds.
        fps: Frames per second.
        sound: Whether an audio track is wanted.
        watermark: Whether the picture carries a watermark.
    """

    words: str
    caption: str
    width: int
    height: int
    seconds: int
    fps: int
    sound: bool
    watermark: bool

    @property
    def frames(self) -> int:
        """Frames in the clip: one more than asked for, as Kling's 5 s clips last 5.041 s (fact sheet 4.2)."""
        return self.seconds * self.fps + 1


def clip_for(order: Text2Video, *, watermark: bool) -> ClipSpec:
    """The clip that an order asks for."""
    width, height = FRAME_SIZES[order.mode, order.aspect_ratio]
    return ClipSpec(
        words=order.words,
        caption=" · ".join(
            (
                order.model_name,
                order.mode,
                order.aspect_ratio,
                f"{order.seconds} s",
                "sound" if order.sound else "silent",
            )
        ),
        width=width,
        height=height,
        seconds=order.seconds,
        fps=FRAME_RATES[order.mode],
        sound=order.sound,
        watermark=watermark,
    )


def delivered_duration(order: Text2Video) -> str:
    """Length in seconds as the answer words it, cut to three decimals: ``"5.041"`` (fact sheet 4.2)."""
    fps = FRAME_RATES[order.mode]
    milliseconds = (order.seconds * fps + 1) * 1000 // fps
    return f"{milliseconds // 1000}.{milliseconds % 1000:03d}"
