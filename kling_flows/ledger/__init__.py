"""The durable record of every video task and every event of it."""

from kling_flows.ledger.ledger import CommitSignal, Ledger
from kling_flows.ledger.operations import not_found
from kling_flows.ledger.records import (
    ACTIVE_STATES,
    FINAL_STATES,
    TRANSITIONS,
    ArtifactRecord,
    ErrorRecord,
    Event,
    FlowRunRecord,
    LateVideo,
    Lease,
    QuoteRecord,
    State,
    UpstreamRecord,
    VideoTask,
)

__all__ = [
    "ACTIVE_STATES",
    "FINAL_STATES",
    "TRANSITIONS",
    "ArtifactRecord",
    "CommitSignal",
    "ErrorRecord",
    "Event",
    "FlowRunRecord",
    "LateVideo",
    "Lease",
    "Ledger",
    "QuoteRecord",
    "State",
    "UpstreamRecord",
    "VideoTask",
    "not_found",
]
