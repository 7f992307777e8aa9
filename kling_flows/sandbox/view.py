"""A task as it looks at one moment, for whatever shape it is then written in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kling_flows.sandbox.fault_board import FaultBoard
from kling_flows.sandbox.faults import Fault, Operation
from kling_flows.sandbox.signing import UrlSigner
from kling_flows.sandbox.tasks import Task
from kling_flows.sandbox.videos import WATERMARK_SUFFIX
from kling_flows.upstream.constants import StatusWord

#: The word of an ``unknown_status`` that names none.
UNKNOWN_WORD: Final = "reviewing"


@dataclass(frozen=True, slots=True)
class TaskView:
    """What is shown of a task.

    Args:
        task: The task.
        status: Its state.
        updated_ms: Unix milliseconds at which that began.
        url: URL of its result; empty if there is none to show.
        watermark_url: URL of its result with a watermark, or empty.
        word: A status to show in place of the true one; empty for the true one.
    """

    task: Task
    status: StatusWord
    updated_ms: int
    url: str = ""
    watermark_url: str = ""
    word: str = ""


class Viewer:
    """Looks at tasks.

    Args:
        faults: The rules in force.
        signer: Signs the URLs of results.
    """

    def __init__(self, faults: FaultBoard, signer: UrlSigner) -> None:
        self._faults = faults
        self._signer = signer

    def queried(self, task: Task, now: float, base: str, operation: Operation) -> TaskView:
        """A task in the answer of a get or a list.

        Args:
            task: The task.
            now: ``time.monotonic()`` at which its state is read.
            base: What the URLs of results begin with: scheme and host of the call.
            operation: The kind of call.
        """
        status = task.status(now)
        updated_ms = task.updated_ms(now)
        if not self._faults.armed:
            return self.in_state(task, status, updated_ms, base)
        succeeded = status is StatusWord.SUCCEED
        rule = self._faults.for_task(operation, task.order.searchable, succeeded=succeeded)
        if rule is None:
            return self.in_state(task, status, updated_ms, base)
        match rule.fault:
            case Fault.SUCCEED_WITHOUT_URL:
                return TaskView(task, status, updated_ms)
            case Fault.VIDEO_EXPIRED:
                return self.in_state(task, status, updated_ms, base, expired=True)
            case _:
                return TaskView(task, status, updated_ms, word=rule.message or UNKNOWN_WORD)

    def in_state(
        self, task: Task, status: StatusWord, updated_ms: int, base: str, *, expired: bool = False
    ) -> TaskView:
        """A task in a given state; ``expired`` says whether the URL of its result has run out already."""
        if status is not StatusWord.SUCCEED:
            return TaskView(task, status, updated_ms)
        url = base + self._signer.path(task.video_id, expired=expired)
        watermark_url = ""
        if task.order.watermark:
            watermark_url = base + self._signer.path(task.video_id + WATERMARK_SUFFIX, expired=expired)
        return TaskView(task, status, updated_ms, url, watermark_url)
