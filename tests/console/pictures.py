"""What the documentation shows of the console: kept by the run of the browser tests that is asked to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import FloatRect, Page

#: Set to a folder to keep the documentation's pictures as this run sees them.
FOLDER = os.environ.get("KLING_FLOWS_CONSOLE_PICTURES")

#: Without the address of this run's archive, further down.
_CLIP: FloatRect = {"x": 0, "y": 0, "width": 1280, "height": 625}

#: Width and height of the film, in pixels.
_FILM_SIZE = (896, 438)


def picture(page: Page, name: str) -> None:
    """Keep what is seen."""
    if FOLDER:
        with Image.open(BytesIO(page.screenshot(clip=_CLIP))) as image:
            image.save(Path(FOLDER) / f"{name}.webp", quality=80)


class Film:
    """What is seen while it changes, as an animation; nothing unless pictures are kept."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._frames: list[Image.Image] = []
        self._milliseconds: list[int] = []

    def take(self, milliseconds: int) -> None:
        """Show what is seen now for that long; the same again lengthens the frame before."""
        if not FOLDER:
            return
        with Image.open(BytesIO(self._page.screenshot(clip=_CLIP))) as image:
            frame = image.convert("RGB").resize(_FILM_SIZE, Image.Resampling.LANCZOS)
        if self._frames and frame.tobytes() == self._frames[-1].tobytes():
            self._milliseconds[-1] += milliseconds
        else:
            self._frames.append(frame)
            self._milliseconds.append(milliseconds)

    def follow(self, milliseconds: int, is_over: Callable[[], bool], most: int = 60) -> None:
        """Take a frame each so many milliseconds until it is over, ``most`` at most."""
        for _ in range(most if FOLDER else 0):
            began = time.monotonic()
            self.take(milliseconds)
            if is_over():
                return
            self._page.wait_for_timeout(max(0.0, milliseconds - (time.monotonic() - began) * 1_000))

    def keep(self, name: str) -> None:
        """Write the animation."""
        if FOLDER:
            first, *others = self._frames
            path = Path(FOLDER) / f"{name}.webp"
            first.save(
                path, save_all=True, append_images=others, duration=self._milliseconds, loop=0, quality=70, method=6
            )
