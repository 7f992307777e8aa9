"""A source that only just stays awake is cut, so that the download may go on elsewhere or later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

#: The least that has to come within the seconds below. An honest line that is slower takes a day for a clip.
MIN_BYTES: Final = 16 * 1024
WINDOW_SECONDS: Final = 60.0


class Pace:
    """Judges how fast a source is.

    Args:
        min_bytes: The least that has to come within ``seconds``.
        seconds: Length of each window.
    """

    def __init__(self, min_bytes: int | None = None, seconds: float | None = None) -> None:
        self._min_bytes = MIN_BYTES if min_bytes is None else min_bytes
        self._seconds = WINDOW_SECONDS if seconds is None else seconds

    async def watched(self, pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        """The pieces, as long as they come fast enough; the time that the reader takes for them does not count.

        Raises:
            TimeoutError: they do not.
        """
        loop = asyncio.get_running_loop()
        left, arrived = self._seconds, 0
        while True:
            began = loop.time()
            async with asyncio.timeout(left):
                piece = await anext(pieces, None)
            if piece is None:
                return
            left -= loop.time() - began
            arrived += len(piece)
            if arrived >= self._min_bytes:
                left, arrived = self._seconds, 0
            yield piece
