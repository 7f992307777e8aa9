"""What the scenario ``scale`` runs: each ledger with each dispatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Self

from kling_flows.settings import Settings


class LedgerKind(StrEnum):
    """Where the ledger is."""

    SQLITE = "SQLite"
    POSTGRESQL = "PostgreSQL"


class Dispatch(StrEnum):
    """Where video tasks are carried; the product's own words."""

    IN_PROCESS = "in-process"
    WORK_POOL = "work-pool"


def cell_name(ledger: LedgerKind, dispatch: Dispatch) -> str:
    """For people and programs."""
    return f"{ledger}, {dispatch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One stack and its load, which grows in steps: all of a step are in flight before the next one begins.

    No video ends before the last step has been measured; then all do.

    Args:
        ledger: Where the ledger is.
        dispatch: Where video tasks are carried.
        steps: Video tasks in flight at each step, the earlier ones included; ascending.
        poll_interval: Seconds between two looks at the provider.
    """

    ledger: LedgerKind
    dispatch: Dispatch
    steps: Sequence[int]
    poll_interval: float = Settings.model_fields["poll_interval"].default

    @property
    def name(self) -> str:
        """For people and programs."""
        return cell_name(self.ledger, self.dispatch)

    def changed(self, *, tasks: int | None = None, poll_interval: float | None = None) -> Self:
        """With another load.

        Args:
            tasks: Video tasks of the last step, if it has more; the others shrink alike.
            poll_interval: Seconds between two looks at the provider.
        """
        most = self.steps[-1]
        steps = sorted({max(step * min(tasks or most, most) // most, 1) for step in self.steps})
        return replace(self, steps=tuple(steps), poll_interval=poll_interval or self.poll_interval)


#: Every task of a work pool has a flow run of its own, of which some two start a second.
_STEPS: Final = {Dispatch.IN_PROCESS: (500, 1_000, 2_000, 5_000), Dispatch.WORK_POOL: (20, 40, 100)}

CELLS: Final[Sequence[Cell]] = tuple(
    Cell(ledger=ledger, dispatch=dispatch, steps=steps) for dispatch, steps in _STEPS.items() for ledger in LedgerKind
)
