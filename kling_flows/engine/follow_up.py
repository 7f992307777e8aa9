"""The question that a final task with a wanted video may leave open: has the provider accepted it?

Everything else of such a task goes through the same steps as with a living one, see :mod:`kling_flows.engine.phases`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from kling_flows.engine.cancel import nothing_created
from kling_flows.engine.engine import Engine
from kling_flows.engine.failures import since_then
from kling_flows.engine.phases import Phase, phase_of
from kling_flows.engine.submit import adopt
from kling_flows.ledger import VideoTask
from kling_flows.upstream.client import CREATE_DEADLINE
from kling_flows.upstream.errors import UpstreamAmbiguous, UpstreamInvalid, UpstreamNotFound, UpstreamPermission

#: Seconds after a task's end before «not found» is believed. Nothing is sent after the end, but what was on its way
#: then may still arrive: it was given up after the create's own deadline at the latest.
BELIEVED_AFTER: Final = CREATE_DEADLINE + 5.0


async def settle(engine: Engine, task_id: str) -> VideoTask:
    """Look up a final task that the provider may have accepted; it is never sent again.

    Raises:
        UpstreamError: the provider cannot be asked, or it is too early to believe what it says: repeat the step.
        ConfigurationError: the settings no longer have the credentials of its account.
        LeaseLost: somebody else carries the task.
        RunnerDraining: this runner stops.
    """
    task = await engine.ledger.get(task_id)
    if phase_of(task) is not Phase.SETTLE or task.upstream is None:
        return task
    upstream = await engine.upstream_of(task)
    engine.check_open()
    external_id = task.upstream.external_task_id
    try:
        return await adopt(engine, task, await upstream.client.get(external_id, external=True))
    except UpstreamNotFound:
        ended = task.end_time or task.update_time
        if (datetime.now(UTC) - ended).total_seconds() < BELIEVED_AFTER:
            raise UpstreamAmbiguous(
                f"the provider does not show {external_id}, but a request may still be on its way; it is asked again"
            ) from None
        found_out = await upstream.trust.trusted()
    except (UpstreamInvalid, UpstreamPermission):
        if await upstream.trust.trusted():
            raise
        found_out = False
    return await engine.advance(task_id, _nothing_there if found_out else _stays_unknown)


def _nothing_there(before: VideoTask) -> VideoTask:
    if phase_of(before) is not Phase.SETTLE:
        return before
    return nothing_created(before, "the provider has no such task")


def _stays_unknown(before: VideoTask) -> VideoTask:
    if phase_of(before) is not Phase.SETTLE:
        return before
    error = since_then(
        before.error,
        "the provider does not show it, but it is not known to find tasks by that id; look into its console, and if it "
        "is there, decide with `kling-flows resolve`",
    )
    return before.model_copy(update={"video_pending": False, "error": error})
