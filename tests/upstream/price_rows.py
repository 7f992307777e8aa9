"""The price rows of text-to-video, as fact sheet 8.1 gives them: what a clip costs in units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final


@dataclass(frozen=True)
class PriceRow:
    """One figure. ``voice``: with a voice of the caller's beside the sound."""

    model: str
    mode: str
    sound: bool
    voice: bool
    seconds: int
    units: Decimal

    def __str__(self) -> str:
        heard = "voice" if self.voice else "sound" if self.sound else "silent"
        return f"{self.model}-{self.mode}-{heard}-{self.seconds}s"


#: Units for each second: mode, silent, with sound.
_PER_SECOND: Final = {
    "kling-v3": [("std", "0.6", "0.9"), ("pro", "0.8", "1.2"), ("4k", "3.0", "3.0")],
    "kling-3.0-turbo": [("std", "0.8", "0.8"), ("pro", "1.0", "1.0")],
}
#: Units for 5 s and for 10 s: mode, what is heard.
_PER_CLIP: Final = {
    "kling-v2-6": [
        ("std", "silent", "1.5", "3"),
        ("pro", "silent", "2.5", "5"),
        ("pro", "sound", "5", "10"),
        ("pro", "voice", "6", "12"),
    ],
    "kling-v2-5-turbo": [("std", "silent", "1.5", "3"), ("pro", "silent", "2.5", "5")],
    "kling-v2-1-master": [("std", "silent", "10", "20")],
    "kling-v2-master": [("std", "silent", "10", "20")],
    "kling-v1-6": [("std", "silent", "2", "4"), ("pro", "silent", "3.5", "7")],
    "kling-v1": [("std", "silent", "1", "2"), ("pro", "silent", "3.5", "7")],
}


def _rows() -> Iterator[PriceRow]:
    for model, rates in _PER_SECOND.items():
        for mode, silent, sound in rates:
            for seconds in (3, 5, 15):
                yield PriceRow(model, mode, False, False, seconds, Decimal(silent) * seconds)
                yield PriceRow(model, mode, True, False, seconds, Decimal(sound) * seconds)
    for model, clips in _PER_CLIP.items():
        for mode, heard, five, ten in clips:
            for seconds, units in ((5, five), (10, ten)):
                yield PriceRow(model, mode, heard != "silent", heard == "voice", seconds, Decimal(units))


PRICE_ROWS: Final = tuple(_rows())
