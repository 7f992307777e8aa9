"""Draws the frames of a sandbox video: gradient, drifting lights, the prompt, what was ordered, and a running clock.

The picture is composed straight in the encoder's colour planes (one luma, two half-size chroma) out of grey masks.
That leaves no colour conversion, and text is laid out once per clip but for the clock, which is what keeps a clip at a
fraction of a second of CPU.
"""

# Pillow mentions NumPy in the signatures of its public functions, and NumPy is not wanted here.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import colorsys
import functools
import hashlib
import math
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageChops, ImageDraw, ImageFont

from kling_flows.sandbox.clips import ClipSpec

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_FONT_FOLDERS: Final = ("/usr/share/fonts", "/usr/local/share/fonts", "/Library/Fonts", "/System/Library/Fonts")
_LATIN_FONTS: Final = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf")
_CJK_FONTS: Final = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
)
#: First code point of the CJK blocks; below it the Latin fonts know the letters.
_FIRST_CJK: Final = 0x2E80
#: Longer words are cut on screen: nobody reads more in a few seconds, and measuring text costs time.
_MAX_CHARACTERS: Final = 700


@dataclass(frozen=True, slots=True)
class Colour:
    """A colour in limited-range BT.709, which is what players assume of HD video."""

    y: int
    u: int
    v: int

    @classmethod
    def of_rgb(cls, red: float, green: float, blue: float) -> Colour:
        """From RGB components of 0 to 1."""
        luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        return cls(
            round(16 + 219 * luma),
            round(128 + 224 * (blue - luma) / 1.8556),
            round(128 + 224 * (red - luma) / 1.5748),
        )

    @classmethod
    def of_hue(cls, hue: float, saturation: float, value: float) -> Colour:
        """From hue (in turns), saturation and value of 0 to 1."""
        return cls.of_rgb(*colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


WHITE: Final = Colour.of_rgb(1.0, 1.0, 1.0)
INK: Final = Colour.of_rgb(0.03, 0.03, 0.07)


class Planes:
    """One yuv420p picture as three grey images; positions are in luma pixels and are rounded down to even ones."""

    def __init__(self, y: Image.Image, u: Image.Image, v: Image.Image) -> None:
        self.y, self.u, self.v = y, u, v

    @classmethod
    def filled(cls, size: tuple[int, int], colour: Colour) -> Planes:
        """A picture of one colour."""
        half = (size[0] // 2, size[1] // 2)
        return cls(Image.new("L", size, colour.y), Image.new("L", half, colour.u), Image.new("L", half, colour.v))

    @classmethod
    def gradient(cls, size: tuple[int, int], corners: Sequence[Colour]) -> Planes:
        """A picture that blends smoothly between four corners: top left, top right, bottom left, bottom right."""
        half = (size[0] // 2, size[1] // 2)
        return cls(
            _blend([corner.y for corner in corners], size),
            _blend([corner.u for corner in corners], half),
            _blend([corner.v for corner in corners], half),
        )

    def copy(self) -> Planes:
        """An independent copy."""
        return Planes(self.y.copy(), self.u.copy(), self.v.copy())

    def stamp(self, mask: Image.Image, at: tuple[int, int], colour: Colour) -> None:
        """Put ``colour`` through ``mask``, whose top left corner lies at ``at``."""
        x, y = at[0] & ~1, at[1] & ~1
        half = mask.reduce(2)
        self.y.paste(colour.y, (x, y), mask)
        self.u.paste(colour.u, (x // 2, y // 2), half)
        self.v.paste(colour.v, (x // 2, y // 2), half)


def _blend(values: Sequence[int], size: tuple[int, int]) -> Image.Image:
    # The middle of each of the four pixels becomes a corner of the picture; the resampling does the rest.
    corners = Image.frombytes("L", (2, 2), bytes(values))
    return corners.resize(size, Image.Resampling.BILINEAR, box=(0.5, 0.5, 1.5, 1.5))


class Foreground:
    """What lies over the moving lights and never changes: the panel and the words, with their opacity."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._planes = Planes.filled(size, INK)
        self._alpha = Image.new("L", size, 0)
        self._half_alpha = self._alpha.reduce(2)

    def panel(self, box: tuple[int, int, int, int], radius: int, opacity: int) -> None:
        """A dark rounded rectangle; ``opacity`` is 0 to 255. Panels come before the words on them."""
        ImageDraw.Draw(self._alpha).rounded_rectangle(box, radius, fill=opacity)
        self._half_alpha = self._alpha.reduce(2)

    def words(self, mask: Image.Image, colour: Colour = WHITE) -> None:
        """Words drawn into a mask of the picture's size."""
        self._planes.stamp(mask, (0, 0), colour)
        # Where letters cover a panel, the more opaque of the two decides how much of the lights shines through.
        self._alpha = ImageChops.lighter(self._alpha, mask)
        self._half_alpha = self._alpha.reduce(2)

    def lay_over(self, picture: Planes) -> None:
        """Lay this over the whole of ``picture``."""
        picture.y.paste(self._planes.y, (0, 0), self._alpha)
        picture.u.paste(self._planes.u, (0, 0), self._half_alpha)
        picture.v.paste(self._planes.v, (0, 0), self._half_alpha)


@dataclass(frozen=True, slots=True)
class _Light:
    """One soft light that drifts on a closed curve."""

    mask: Image.Image
    colour: Colour
    turns: tuple[float, float]
    phase: float

    def place(self, second: float, size: tuple[int, int]) -> tuple[int, int]:
        """Top left corner at a moment of the clip."""
        angle_x = 2 * math.pi * (self.turns[0] * second + self.phase)
        angle_y = 2 * math.pi * (self.turns[1] * second + self.phase)
        return (
            int((size[0] - self.mask.width) / 2 * (1 + math.sin(angle_x))),
            int((size[1] - self.mask.height) / 2 * (1 + math.cos(angle_y))),
        )


class Picture:
    """All frames of one clip.

    Args:
        spec: The clip.
    """

    def __init__(self, spec: ClipSpec) -> None:
        self._spec = spec
        self._size = (spec.width, spec.height)
        self._unit = min(self._size) / 720
        self._margin = self._scaled(44)
        # The same prompt always looks the same, and two prompts rarely do.
        seed = hashlib.sha256(spec.words.encode("utf-8", "replace")).digest()
        hue = seed[0] / 256
        self._accent = Colour.of_hue(hue + 0.5, 0.30, 1.0)
        self._background = Planes.gradient(
            self._size,
            (
                Colour.of_hue(hue, 0.70, 0.62),
                Colour.of_hue(hue + 0.12, 0.65, 0.50),
                Colour.of_hue(hue + 0.20, 0.75, 0.22),
                Colour.of_hue(hue + 0.26, 0.70, 0.45),
            ),
        )
        self._lights = [
            _Light(self._glow(300), Colour.of_hue(hue + 0.08, 0.45, 1.0), (0.070, 0.110), seed[1] / 256),
            _Light(self._glow(220), Colour.of_hue(hue + 0.50, 0.40, 1.0), (0.100, 0.080), seed[2] / 256),
            _Light(self._glow(160), Colour.of_hue(hue + 0.30, 0.35, 1.0), (0.130, 0.150), seed[3] / 256),
        ]
        self._clock_font = load_font(self._scaled(40), "")
        self._foreground = self._make_foreground()

    def draw(self, number: int) -> Planes:
        """Frame ``number``, counted from 0."""
        second = number / self._spec.fps
        picture = self._background.copy()
        for light in self._lights:
            picture.stamp(light.mask, light.place(second, self._size), light.colour)
        self._foreground.lay_over(picture)
        self._draw_progress(picture, second)
        return picture

    def _scaled(self, pixels: float) -> int:
        """Pixels of a 720-line picture in this one's, even."""
        return round(pixels * self._unit) & ~1

    def _glow(self, radius: float) -> Image.Image:
        edge = self._scaled(2 * radius)
        distance = Image.radial_gradient("L").resize((edge, edge), Image.Resampling.BILINEAR)
        # The gradient reaches 255 in the corners; the light ends inside of the square and never shows an edge.
        return distance.point([round(165 * max(0.0, 1 - value / 180) ** 1.6) for value in range(256)])

    def _make_foreground(self) -> Foreground:
        width, height = self._size
        foreground = Foreground(self._size)
        head, small = load_font(self._scaled(22), ""), load_font(self._scaled(26), self._spec.caption)
        top, bottom = self._margin + self._scaled(76), height - self._margin - self._scaled(84)
        foreground.panel((self._margin, top, width - self._margin, bottom), self._scaled(28), opacity=120)
        mask = Image.new("L", self._size, 0)
        pen = ImageDraw.Draw(mask)
        pen.text((self._margin, self._margin), "KLING-FLOWS SANDBOX", fill=225, font=head)
        pen.text((self._margin, self._margin + self._scaled(30)), self._spec.caption, fill=255, font=small)
        pad = self._scaled(36)
        self._write_words(pen, (self._margin + pad, top + pad, width - self._margin - pad, bottom - pad))
        if self._spec.watermark:
            label = "sandbox watermark"
            reach = pen.textlength(label, font=small)
            pen.text((width - self._margin - reach, self._margin), label, fill=150, font=small)
        foreground.words(mask)
        return foreground

    def _write_words(self, pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int]) -> None:
        """The prompt as large as it fits into ``box``; what does not fit in the smallest size is cut off."""
        text = printable(self._spec.words)
        size = self._scaled(64)
        smallest = max(12, self._scaled(20))
        while True:
            font = load_font(size, text)
            step = round(size * 1.35)
            lines = wrap(text, font, box[2] - box[0])
            room = max(1, (box[3] - box[1]) // step)
            if len(lines) <= room or size <= smallest:
                break
            size = max(smallest, int(size * 0.86))
        if len(lines) > room:
            lines = [*lines[: room - 1], lines[room - 1] + " …"]
        top = box[1] + max(0, (box[3] - box[1] - len(lines) * step) // 2)
        for number, line in enumerate(lines):
            pen.text((box[0], top + number * step), line, fill=255, font=font)

    def _draw_progress(self, picture: Planes, second: float) -> None:
        width, height = self._size
        label = f"{second:05.2f} s / {self._spec.seconds} s"
        mask = Image.new("L", (self._scaled(380), self._scaled(56)), 0)
        ImageDraw.Draw(mask).text((0, 0), label, fill=255, font=self._clock_font)
        picture.stamp(mask, (self._margin, height - self._margin - self._scaled(70)), WHITE)
        reach, thickness = width - 2 * self._margin, max(2, self._scaled(8))
        at = (self._margin, height - self._margin - thickness)
        picture.stamp(Image.new("L", (reach, thickness), 70), at, WHITE)
        done = int(reach * min(1.0, second / self._spec.seconds)) & ~1
        if done:
            picture.stamp(Image.new("L", (done, thickness), 255), at, self._accent)


def printable(text: str) -> str:
    """``text`` without what no font can draw: control and format characters and lone surrogates; spaces are joined."""
    kept = (" " if unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"} else letter for letter in text)
    joined = " ".join("".join(kept).split())
    return joined if len(joined) <= _MAX_CHARACTERS else joined[:_MAX_CHARACTERS] + " …"


def wrap(text: str, font: Font, width: int) -> list[str]:
    """Break ``text`` into lines of at most ``width`` pixels: at spaces, and inside of words that are too long (CJK)."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if font.getlength(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        line = ""
        for letter in word:
            if line and font.getlength(line + letter) > width:
                lines.append(line)
                line = ""
            line += letter
    if line:
        lines.append(line)
    return lines


def load_font(size: int, text: str) -> Font:
    """The best font here for ``text``; Pillow's own where the system has none that we know."""
    wanted = _LATIN_FONTS
    if any(ord(letter) >= _FIRST_CJK for letter in text):
        wanted = (*_CJK_FONTS, *_LATIN_FONTS)
    return _open_font(wanted, size)


@functools.lru_cache(maxsize=64)
def _open_font(names: tuple[str, ...], size: int) -> Font:
    files = _font_files()
    for name in names:
        if name in files:
            try:
                return ImageFont.truetype(files[name], size, layout_engine=ImageFont.Layout.BASIC)
            except OSError:
                # A damaged font file must not cost the video.
                continue
    return ImageFont.load_default(size)


@functools.cache
def _font_files() -> dict[str, str]:
    found: dict[str, str] = {}
    for folder in _FONT_FOLDERS:
        for parent, _, names in os.walk(folder):
            for name in names:
                found.setdefault(name, os.path.join(parent, name))
    return found
