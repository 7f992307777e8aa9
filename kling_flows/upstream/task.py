"""The upstream task as every dialect reports it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum


class UpstreamStatus(StrEnum):
    """Where an upstream task stands. ``UNKNOWN`` is a word we do not know: not final (fact sheet 5)."""

    SUBMITTED = "submitted"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"

    @property
    def final(self) -> bool:
        """Whether the provider will change it no more."""
        return self in (UpstreamStatus.SUCCEEDED, UpstreamStatus.FAILED)


@dataclass(frozen=True, slots=True)
class UpstreamVideo:
    """One video of a task.

    Args:
        id: The provider's id of the video; empty if it gave none.
        url: Where the bytes are; expires (fact sheet 5).
        watermark_url: The same video with a watermark, if one was asked for.
        duration_seconds: Measured length, which differs a little from the requested one.
    """

    id: str
    url: str
    watermark_url: str | None
    duration_seconds: float | None


@dataclass(frozen=True, slots=True)
class UpstreamTask:
    """One answer about one task.

    Args:
        task_id: The provider's id; opaque text.
        external_task_id: Our id, if the provider repeats it.
        status: What the status word means.
        status_word: The provider's own word; empty if it gave none.
        status_message: Why the task failed; free text, otherwise empty.
        request_id: The provider's id of this answer, for its support; empty if it gave none.
        created_at: By the provider's clock, UTC.
        updated_at: By the provider's clock, UTC.
        videos: Those with a URL. A task that succeeded can be without for a moment (fact sheet 4.2).
        unit_deduction: Units that were charged, once the provider says so.
    """

    task_id: str
    external_task_id: str | None
    status: UpstreamStatus
    status_word: str
    status_message: str
    request_id: str
    created_at: datetime | None
    updated_at: datetime | None
    videos: tuple[UpstreamVideo, ...]
    unit_deduction: Decimal | None
