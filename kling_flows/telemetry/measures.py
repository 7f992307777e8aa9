"""What a runner does that is worth counting; told from inside, without knowing who counts."""

from __future__ import annotations


class Measures:
    """Counts nothing. A runner with a metrics endpoint has one that does."""

    def upstream_call(self, operation: str, outcome: str) -> None:
        """A call of the provider has ended: ``ok``, the class of its error, or ``cancelled``."""

    def upstream_end_seen(self, lag: float) -> None:
        """The end of an upstream task was seen so many seconds after it, by the provider's own clock."""

    def video_archived(self, size_bytes: int, seconds: float) -> None:
        """A file was copied into the archive."""

    def flow_run_started(self, kind: str, video_tasks: int) -> None:
        """Video tasks are carried from here on: by a flow run (``single`` or ``batch``), or ``without`` one."""
