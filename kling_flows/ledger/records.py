"""What the ledger keeps of a video task: its record, its states, and which state may follow which."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from kling_flows.upstream import TextToVideoRequest


class State(StrEnum):
    """Where a video task is; the meaning of each is in ``protos/kling_flows/v1/video_task.proto``."""

    QUEUED = "QUEUED"
    SUBMITTING = "SUBMITTING"
    SUBMITTED = "SUBMITTED"
    PROCESSING = "PROCESSING"
    ARCHIVING = "ARCHIVING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    LOST = "LOST"
    UNRESOLVED = "UNRESOLVED"

    @property
    def final(self) -> bool:
        """Whether nothing can follow."""
        return self in FINAL_STATES


FINAL_STATES: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED, State.LOST})

#: States that a runner carries forward by itself; UNRESOLVED waits for a person.
ACTIVE_STATES: Final = frozenset(set(State) - FINAL_STATES - {State.UNRESOLVED})

_WITHOUT_VIDEO: Final = frozenset({State.FAILED, State.CANCELLED, State.EXPIRED})

#: Which other state may follow. An adopted upstream task may be met in any of its states, hence the jumps.
TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    State.QUEUED: _WITHOUT_VIDEO | {State.SUBMITTING},
    State.SUBMITTING: _WITHOUT_VIDEO | {State.SUBMITTED, State.UNRESOLVED},
    State.SUBMITTED: _WITHOUT_VIDEO | {State.PROCESSING, State.ARCHIVING},
    State.PROCESSING: _WITHOUT_VIDEO | {State.ARCHIVING},
    State.ARCHIVING: _WITHOUT_VIDEO | {State.SUCCEEDED, State.LOST},
    State.UNRESOLVED: _WITHOUT_VIDEO | {State.SUBMITTED},
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.EXPIRED: frozenset(),
    State.LOST: frozenset(),
}


class LateVideo(StrEnum):
    """What becomes of a video whose task ends for its caller while the provider still makes it."""

    KEEP_VIDEO = "KEEP_VIDEO"
    DISCARD = "DISCARD"


class _Record(BaseModel):
    # Documents outlive releases: a field that this release does not know is ignored, not an error.
    model_config = ConfigDict(frozen=True, extra="ignore")


class UpstreamRecord(_Record):
    """The provider's side. Provider, dialect, base URL and account are pinned by the intent and never change."""

    provider: str
    dialect: str
    base_url: str
    account: str
    external_task_id: str
    task_id: str = ""
    request_id: str = ""
    status: str = ""
    status_message: str = ""
    intent_time: datetime
    submit_time: datetime | None = None
    end_time: datetime | None = None
    submit_attempts: int = 0
    # True from before the request is sent until its outcome is known: accepted or refused.
    outcome_unknown: bool = False
    # The provider was given an address to call when the task changes.
    called_back: bool = False
    settled_units: str = ""


class ArtifactRecord(_Record):
    """A file in the archive; ``sha256`` in hex, sizes in bytes, duration in seconds."""

    kind: Literal["VIDEO", "WATERMARKED_VIDEO"]
    uri: str
    manifest_uri: str
    size_bytes: int
    sha256: str
    media_type: str
    duration_seconds: float | None = None


class ErrorRecord(_Record):
    """Why a task ended without a video, or why its current step has to be repeated."""

    reason: str
    grpc_code: str
    message: str
    metadata: dict[str, str] = {}


class QuoteRecord(_Record):
    """What the video was expected to cost when it was asked for: decimal text in video units and in US dollars."""

    units: str
    usd: str
    uncertain: tuple[str, ...] = ()


class FlowRunRecord(_Record):
    """The Prefect flow run that carries the task."""

    id: str
    name: str
    url: str = ""


class VideoTask(_Record):
    """One video task as it was after one of its events."""

    id: str
    tenant: str
    state: State
    revision: int
    request: TextToVideoRequest
    labels: dict[str, str] = {}
    create_time: datetime
    update_time: datetime
    end_time: datetime | None = None
    upstream: UpstreamRecord | None = None
    artifacts: tuple[ArtifactRecord, ...] = ()
    error: ErrorRecord | None = None
    typical_seconds: float | None = None
    flow_run: FlowRunRecord | None = None
    #: Which account pays: `Account.name`; empty if the front that took it in has no key.
    account: str = ""
    quote: QuoteRecord | None = None
    #: 0 to 9; higher goes first.
    priority: int = 0
    #: Its own deadline, after which it is EXPIRED.
    deadline: datetime | None = None
    on_deadline: LateVideo = LateVideo.KEEP_VIDEO
    #: It is final, yet its upstream task is still followed and the video will be archived.
    video_pending: bool = False
    #: Where its create stands in the caller's trace, as a W3C ``traceparent``; empty if it stands in none.
    traceparent: str = ""

    @property
    def active(self) -> bool:
        """Whether a runner has something to do for it."""
        return self.state in ACTIVE_STATES or self.video_pending


class Event(_Record):
    """One state change, at its place in the ledger's log."""

    position: int
    task: VideoTask


class Lease(_Record):
    """A runner's sign of life. ``beat`` grows with every renewal, so that peers need no common clock."""

    runner_id: str
    beat: int
    host: str
    lock_file: str
