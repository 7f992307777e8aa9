"""What accounts have paid for in advance: packs of units, and what was deducted from them (fact sheet 8.3)."""

from __future__ import annotations

import heapq
import time
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from kling_flows.sandbox.errors import Refusal
from kling_flows.sandbox.tasks import Task
from kling_flows.sandbox.text2video import Text2Video
from kling_flows.upstream.constants import KlingCode, StatusWord

#: Units of a pack that is topped up by as many whenever it would run out.
ENDLESS_PACK: Final = Decimal(10_000)


@dataclass(frozen=True, slots=True)
class Deduction:
    """What one succeeded task took.

    Args:
        task: The task.
        before: Units left before.
        after: Units left after.
    """

    task: Task
    before: Decimal
    after: Decimal


@dataclass(slots=True)
class Pack:
    """One account's pack.

    Args:
        total: Units bought.
        bought_ms: Unix milliseconds of that.
        deductions: What succeeded tasks took, in the order of their ends.
    """

    total: Decimal
    bought_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    deductions: list[Deduction] = field(default_factory=list[Deduction])
    _deducted: Decimal = Decimal()
    _held: Decimal = Decimal()
    #: Tasks that have not ended, soonest first; the number only keeps tasks from being compared.
    _open: list[tuple[float, int, Task]] = field(default_factory=list[tuple[float, int, Task]])
    _count: int = 0

    @property
    def remaining(self) -> Decimal:
        """Units left: the total without what accepted tasks cost, but for the failed ones (fact sheet 8.1)."""
        self.settle()
        return self.total - self._deducted - self._held

    def hold(self, task: Task) -> None:
        """Set the price of an accepted task aside."""
        self._held += task.order.units
        self._count += 1
        heapq.heappush(self._open, (task.final_at, self._count, task))

    def settle(self) -> None:
        """Deduct for the tasks that have succeeded by now, and give back what the failed ones held."""
        now = time.monotonic()
        while self._open and self._open[0][0] <= now:
            task = heapq.heappop(self._open)[2]
            price = task.order.units
            self._held -= price
            if task.outcome is StatusWord.SUCCEED:
                before = self.total - self._deducted
                self._deducted += price
                self.deductions.append(Deduction(task, before, before - price))


class PackBook:
    """One pack per account.

    Args:
        units: Units in each; ``None`` for packs that never run out.
    """

    def __init__(self, units: float | None) -> None:
        self._endless = units is None
        total = ENDLESS_PACK if units is None else Decimal(str(units))
        self._packs: defaultdict[str, Pack] = defaultdict(lambda: Pack(total))

    def of(self, account: str) -> Pack:
        """The account's pack, settled."""
        pack = self._packs[account]
        pack.settle()
        return pack

    def check(self, account: str, order: Text2Video) -> None:
        """Whether the account can pay.

        Raises:
            Refusal: 429/1102, it cannot.
        """
        pack = self._packs[account]
        while pack.remaining < order.units:
            if not self._endless:
                raise Refusal(KlingCode.PACK_USED_UP)
            pack.total += ENDLESS_PACK

    def hold(self, task: Task) -> None:
        """Set the price of an accepted task aside."""
        self._packs[task.account].hold(task)
