"""Which step a video task needs next.

It follows from the state while the task lives. A final task whose video is still wanted has lost that clue: there the
facts of its upstream task say it. Nothing here ever leads a final task to a new request.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from kling_flows.ledger import State, VideoTask


class Phase(Enum):
    """The next step; NONE: there is nothing to do, or a person has to decide."""

    SUBMIT = auto()
    #: Find out whether the provider has accepted it; only of a final task.
    SETTLE = auto()
    WAIT = auto()
    ARCHIVE = auto()
    NONE = auto()


_OF_STATE: Final = {
    State.QUEUED: Phase.SUBMIT,
    State.SUBMITTING: Phase.SUBMIT,
    State.SUBMITTED: Phase.WAIT,
    State.PROCESSING: Phase.WAIT,
    State.ARCHIVING: Phase.ARCHIVE,
}


def phase_of(task: VideoTask) -> Phase:
    """The step that the task needs."""
    if not task.video_pending:
        return _OF_STATE.get(task.state, Phase.NONE)
    upstream = task.upstream
    if upstream is None or not upstream.task_id:
        return Phase.SETTLE
    return Phase.WAIT if upstream.end_time is None else Phase.ARCHIVE
