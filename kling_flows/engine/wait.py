"""The wait step: follows the upstream task to its end and writes down what the provider says.

A final task whose video is still wanted is followed in the same way; its state stays as it is.
"""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial

from kling_flows.engine.durations import duration_key, earliest_seconds
from kling_flows.engine.engine import Engine
from kling_flows.engine.failures import since_then
from kling_flows.engine.phases import Phase, phase_of
from kling_flows.engine.tracing import traced_step
from kling_flows.errors import LeaseLost, VideoTaskFailed
from kling_flows.ledger import State, UpstreamRecord, VideoTask
from kling_flows.upstream import UpstreamStatus, UpstreamTask


async def wait(engine: Engine, task_id: str, known: VideoTask | None = None) -> VideoTask:
    """Bring a submitted task to ARCHIVING, or to FAILED if the provider failed.

    Args:
        engine: Holds the task.
        task_id: Which one.
        known: The task as it was a moment ago; read if it is not given.

    Raises:
        ConfigurationError: the settings no longer have the credentials of its account.
        LeaseLost: somebody else carries the task, or it has ended.
        RunnerDraining: this runner stops.
    """
    task = known or await engine.ledger.get(task_id)
    if phase_of(task) is not Phase.WAIT:
        return task
    with traced_step("wait", task):
        return await _follow(engine, task)


async def _follow(engine: Engine, task: VideoTask) -> VideoTask:
    task_id = task.id
    planner = (await engine.upstream_of(task)).planner
    engine.check_open()
    upstream = task.upstream
    if upstream is None or upstream.submit_time is None:
        raise RuntimeError(f"videoTasks/{task_id} is {task.state} without an upstream task")
    age = (datetime.now(UTC) - upstream.submit_time).total_seconds()
    following = planner.follow(
        upstream.task_id,
        typical_seconds=task.typical_seconds or 0.0,
        age_seconds=max(age, 0.0),
        earliest_seconds=await earliest_seconds(engine.ledger, upstream.provider, task.request),
        called_back=upstream.called_back,
        hinted=upstream.called_back and await engine.ledger.is_hinted(task_id),
    )
    with engine.lease.watching(task_id, partial(planner.stop_following, upstream.task_id)):
        async with aclosing(following) as looks:
            async for seen in looks:
                if seen.status.final:
                    return await _end(engine, task, seen)
                task = await engine.advance(task_id, lambda before, seen=seen: _progressed(before, seen))
    engine.check_open()
    raise LeaseLost(f"videoTasks/{task_id} is no longer carried here")


def _progressed(before: VideoTask, seen: UpstreamTask) -> VideoTask:
    if before.upstream is None or phase_of(before) is not Phase.WAIT:
        return before
    upstream = before.upstream.model_copy(update={"status": seen.status_word})
    if before.state.final:
        return before.model_copy(update={"upstream": upstream})
    state = State.PROCESSING if seen.status is UpstreamStatus.PROCESSING else before.state
    return before.model_copy(update={"state": state, "upstream": upstream, "error": None})


async def _end(engine: Engine, task: VideoTask, seen: UpstreamTask) -> VideoTask:
    if task.upstream is None or task.upstream.submit_time is None:
        raise RuntimeError(f"videoTasks/{task.id} ended upstream without having been submitted")
    ended = _ended(task.upstream, seen)
    if seen.status is UpstreamStatus.FAILED:
        return await _failed(engine, task, seen, ended)
    if seen.updated_at is not None:
        engine.measures.upstream_end_seen((datetime.now(UTC) - seen.updated_at).total_seconds())

    def change(before: VideoTask) -> VideoTask:
        if phase_of(before) is not Phase.WAIT:
            return before
        if before.state.final:
            return before.model_copy(update={"upstream": ended})
        return before.model_copy(update={"state": State.ARCHIVING, "upstream": ended, "error": None})

    task = await engine.ledger.advance_and_learn(
        task.id,
        change,
        runner_id=engine.runner_id,
        key=duration_key(task.upstream.provider, task.request),
        seconds=_seconds_at_provider(task.upstream, seen),
    )
    if seen.videos:
        # Without an address there is nothing to save: the next step asks for it until the provider has deleted it. Only
        # now: whoever has lost the task must not take it for one that nobody has tried to archive.
        engine.ended[task.id] = seen
    return task


async def _failed(engine: Engine, task: VideoTask, seen: UpstreamTask, ended: UpstreamRecord) -> VideoTask:
    words = seen.status_message or "the provider gives no reason"
    if not task.state.final:
        message = f"the provider accepted the task and failed it: {words}"
        error = VideoTaskFailed(message, metadata={"upstream_task_id": seen.task_id, "status": seen.status_word})
        return await engine.fail(task.id, error, upstream=ended)

    def change(before: VideoTask) -> VideoTask:
        if phase_of(before) is not Phase.WAIT:
            return before
        said = since_then(before.error, f"the provider failed it, so that there is no video: {words}")
        return before.model_copy(update={"upstream": ended, "video_pending": False, "error": said})

    return await engine.advance(task.id, change)


def _ended(upstream: UpstreamRecord, seen: UpstreamTask) -> UpstreamRecord:
    return upstream.model_copy(
        update={
            "status": seen.status_word,
            "status_message": seen.status_message,
            "end_time": datetime.now(UTC),
            "settled_units": "" if seen.unit_deduction is None else str(seen.unit_deduction),
        }
    )


def _seconds_at_provider(upstream: UpstreamRecord, seen: UpstreamTask) -> float:
    # The provider's own times, where it gives them, do not contain the time until we looked.
    if seen.created_at is not None and seen.updated_at is not None and seen.updated_at > seen.created_at:
        return (seen.updated_at - seen.created_at).total_seconds()
    started = upstream.submit_time or upstream.intent_time
    return max((datetime.now(UTC) - started).total_seconds(), 0.0)
