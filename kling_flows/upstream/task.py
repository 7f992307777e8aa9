"""The upstream task as every dialect reports it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final

#: ``charge_type`` of a charge in units (fact sheet 4.4).
UNIT: Final = "unit"
#: ``charge_type`` of a charge in money (fact sheet 4.4).
CASH: Final = "cash"


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
class Charge:
    """What one task was charged with, out of one purse (fact sheet 4.4).

    Args:
        charge_type: ``unit`` or ``cash``; another word is kept as it came.
        amount: In units, or in ``currency``.
        currency: ``USD`` or ``CNY`` with cash; empty if the provider did not say.
        package_type: Kind of the units, such as ``video``; otherwise empty.
        cash_type: ``balance`` or ``test_balance`` with cash; otherwise empty.
        list_price: Before discounts, in ``currency``, if the provider says so.
    """

    charge_type: str
    amount: Decimal
    currency: str = ""
    package_type: str = ""
    cash_type: str = ""
    list_price: Decimal | None = None


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
        billing: Every charge, once the provider says so. The legacy dialect names no currency beside cash.
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
    billing: tuple[Charge, ...] = ()

    @property
    def price_usd(self) -> Decimal | None:
        """Cash that was charged, in USD; ``None`` if there was none, or if its currency is another or not said."""
        cash = [charge for charge in self.billing if charge.charge_type == CASH]
        if not cash or any(charge.currency != "USD" for charge in cash):
            return None
        return sum((charge.amount for charge in cash), Decimal(0))
