"""What every accepted order cost: the proof of how often somebody paid."""

from __future__ import annotations

import time
from typing import TypedDict

from kling_flows.sandbox.tasks import Task
from kling_flows.upstream.constants import StatusWord


class ChargeRecord(TypedDict):
    """One charge.

    ``units`` are video units, ``created_at`` is in Unix milliseconds, and ``refunded`` is true from the moment at which
    the task has failed (failed tasks are not charged, fact sheet 8.1).
    """

    task_id: str
    external_task_id: str | None
    account: str
    model_name: str
    units: float
    created_at: int
    prompt: str
    refunded: bool


class ChargeBook:
    """One charge per accepted order, in the order of acceptance; nothing is ever taken out."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []

    def add(self, task: Task) -> None:
        """Charge an accepted task."""
        self._tasks.append(task)

    def records(self) -> list[ChargeRecord]:
        """All charges so far."""
        now = time.monotonic()
        return [
            ChargeRecord(
                task_id=task.task_id,
                external_task_id=task.order.external_task_id,
                account=task.account,
                model_name=task.order.model_name,
                units=float(task.order.units),
                created_at=task.created_ms,
                prompt=task.order.words,
                refunded=task.status(now) is StatusWord.FAILED,
            )
            for task in list(self._tasks)
        ]
