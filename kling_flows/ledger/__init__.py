"""The durable record of every video task and every event of it."""

from kling_flows.ledger.batch import Creation, CreationRefused
from kling_flows.ledger.callbacks import Delivery, DeliveryState, Hint, token_digest
from kling_flows.ledger.claims import HANDS_ON
from kling_flows.ledger.figures import Figures, TenantSpending
from kling_flows.ledger.ledger import CommitSignal, Ledger
from kling_flows.ledger.operations import not_found
from kling_flows.ledger.queries import TaskPlace, TimeBound, place_of
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
from kling_flows.ledger.slots import holds_slot, slot_of
from kling_flows.ledger.spending import BudgetUse, Charge, charge

__all__ = [
    "ACTIVE_STATES",
    "FINAL_STATES",
    "HANDS_ON",
    "TRANSITIONS",
    "ArtifactRecord",
    "BudgetUse",
    "Charge",
    "CommitSignal",
    "Creation",
    "CreationRefused",
    "Delivery",
    "DeliveryState",
    "ErrorRecord",
    "Event",
    "Figures",
    "FlowRunRecord",
    "Hint",
    "LateVideo",
    "Lease",
    "Ledger",
    "QuoteRecord",
    "State",
    "TaskPlace",
    "TenantSpending",
    "TimeBound",
    "UpstreamRecord",
    "VideoTask",
    "charge",
    "holds_slot",
    "not_found",
    "place_of",
    "slot_of",
    "token_digest",
]
