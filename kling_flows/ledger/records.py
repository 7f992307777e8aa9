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
    UNRESOLVED = "UNRESOLVED"

    @property
    def final(self) -> bool:
        """Whether nothing can follow."""
        return self in FINAL_STATES


FINAL_STATES: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED})

#: States that a runner carries forward by itself; UNRESOLVED waits for a person.
ACTIVE_STATES: Final = frozenset(set(State) - FINAL_STATES - {State.UNRESOLVED})

_WITHOUT_VIDEO: Final = frozenset({State.FAILED, State.CANCELLED, State.EXPIRED})

#: Which other state may follow. An adopted upstream task may be met in any of its states, hence the jumps.
TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    State.QUEUED: _WITHOUT_VIDEO | {State.SUBMITTING},
    State.SUBMITTING: _WITHOUT_VIDEO | {State.SUBMITTED, State.UNRESOLVED},
    State.SUBMITTED: _WITHOUT_VIDEO | {State.PROCESSING, State.ARCHIVING},
    State.PROCESSING: _WITHOUT_VIDEO | {State.ARCHIVING},
    State.ARCHIVING: _WITHOUT_VIDEO | {State.SUCCEEDED},
    State.UNRESOLVED: _WITHOUT_VIDEO | {State.SUBMITTED},
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.EXPIRED: frozenset(),
}


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
