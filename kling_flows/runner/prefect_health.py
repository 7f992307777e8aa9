"""Whether Prefect can be used: the one piece of state that decides between a flow run and going without."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

log = structlog.get_logger(__name__)

#: Seconds without an answer after which video tasks are carried without flow runs.
AWAY_SECONDS: Final = 10.0

#: The same before the first answer: a local server takes 8 to 13 s to start, and longer on a busy machine.
FIRST_ANSWER_SECONDS: Final = 90.0

#: Seconds that a flow run may take from its creation to the first line of its flow.
LATE_START_SECONDS: Final = 15.0

#: Seconds until a flow run is tried again after one that could not be started while Prefect answered.
_PAUSE_SECONDS: Final = 15.0


class PrefectHealth:
    """Judges by what is reported to it; it asks nobody."""

    def __init__(self) -> None:
        self.away = False
        #: Set when Prefect has answered for the first time, or is taken for away.
        self.known = asyncio.Event()
        self._allowance = FIRST_ANSWER_SECONDS
        self._failing_since: float | None = None
        self._not_before = 0.0

    def answered(self) -> bool:
        """Prefect has answered a question; true if flow runs can be started from now on and could not before."""
        first = not self.known.is_set()
        self.known.set()
        self._allowance = AWAY_SECONDS
        self._failing_since = None
        if not self.away or time.monotonic() < self._not_before:
            return first
        self.away = False
        log.warning("Prefect is back; video tasks are carried by flow runs again")
        return True

    def failed(self, error: str) -> None:
        """A question got no answer."""
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since >= self._allowance:
            self._leave(error)

    def start_failed(self, error: str) -> None:
        """A flow run could not be started, whatever else Prefect answers."""
        self._not_before = time.monotonic() + _PAUSE_SECONDS
        self._leave(error)

    def _leave(self, error: str) -> None:
        self.known.set()
        if not self.away:
            self.away = True
            log.warning("Prefect is away; video tasks are carried without flow runs until it is back", error=error)
