"""All steps of one video task, one after the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from kling_flows.engine.engine import Engine
from kling_flows.engine.follow_up import settle
from kling_flows.engine.keep import archive
from kling_flows.engine.phases import Phase, phase_of
from kling_flows.engine.retries import with_retries
from kling_flows.engine.submit import submit
from kling_flows.engine.tracing import traced_step
from kling_flows.engine.wait import wait
from kling_flows.ledger import FlowRunRecord, VideoTask

Step = Callable[[Engine, str, VideoTask | None], Awaitable[VideoTask]]

_AFTER_SUBMIT: Final[tuple[Step, ...]] = (wait, archive)


async def carry(
    engine: Engine, task_id: str, flow_run: FlowRunRecord | None, known: VideoTask | None = None
) -> VideoTask:
    """Carry a task from where it is to its end; stops early where a person has to decide (UNRESOLVED).

    A final task whose video is still wanted is carried to its video; it is never submitted, and its state stays.

    Args:
        engine: Holds the task.
        task_id: Which one.
        flow_run: What carries it.
        known: The task as it was when it was taken a moment ago, which saves reading it.

    Raises:
        KlingFlowsError: a step failed more often than it is repeated; the task stays where it is.
        LeaseLost: somebody else carries the task.
    """

    async def first(engine: Engine, task_id: str, known: VideoTask | None) -> VideoTask:
        return await begin(engine, task_id, flow_run, known)

    task = await _repeated(first, engine, task_id, known)
    for step in _AFTER_SUBMIT:
        task = await _repeated(step, engine, task_id, task)
    return task


async def _repeated(step: Step, engine: Engine, task_id: str, known: VideoTask | None) -> VideoTask:
    # What the step before has written is as new as what could be read; after a failure it no longer is.
    latest = [known]
    return await with_retries(lambda: step(engine, task_id, latest.pop() if latest else None))


async def begin(
    engine: Engine, task_id: str, flow_run: FlowRunRecord | None, known: VideoTask | None = None
) -> VideoTask:
    """The first step: submit the task, or find out whether one that is final was accepted.

    Args:
        engine: Holds the task.
        task_id: Which one.
        flow_run: What carries it.
        known: The task as it was a moment ago; read if it is not given.

    Raises:
        ConfigurationError: the settings no longer have the credentials of the account that it was submitted with.
        KlingFlowsError: as `submit` and `settle`.
    """
    task = known or await engine.ledger.get(task_id)
    with traced_step("submit", task):
        if phase_of(task) is not Phase.NONE:
            # Before the first thing that may fail otherwise: whoever cannot ask its provider can do nothing for it.
            await engine.upstream_of(task)
        if phase_of(task) is Phase.SETTLE:
            return await settle(engine, task_id)
        return await submit(engine, task_id, flow_run, task)
