"""How often flow runs start: what a start costs is Prefect's, and many video tasks can share one."""

from __future__ import annotations

import time
from typing import Final

#: Flow runs that may start one right after the other, after a while without any.
AT_ONCE: Final = 4

#: Seconds between two starts beyond that. A start costs some 200 ms of CPU in all processes (decision 0005): more often
#: than this, Prefect would take a third of a core and more for showing what a shared run shows as well.
SECONDS_APART: Final = 1.0


class StartPace:
    """A bucket of :data:`AT_ONCE` starts, of which one comes back every :data:`SECONDS_APART`."""

    def __init__(self) -> None:
        # When the bucket will be full again; the "theoretical arrival time" of the generic cell rate algorithm.
        self._full_at = 0.0

    def delay(self, now: float | None = None) -> float:
        """Seconds until the next start may be; that start is then counted.

        Args:
            now: Seconds of a monotonic clock; by default the system's.
        """
        now = time.monotonic() if now is None else now
        full_at = max(self._full_at, now)
        delay = max(0.0, full_at - now - (AT_ONCE - 1) * SECONDS_APART)
        self._full_at = full_at + SECONDS_APART
        return delay
