"""The submit step: at most one paid upstream task for each video task, whatever happens at whatever instant.

The journal is the ledger. SUBMITTING with the intent is committed before the first byte is sent. From there on,
until the provider's answer is committed, the outcome counts as unknown: whoever carries the task on looks it up by
its external id first, and repeats the request only with that same id, so that an earlier request that arrives late
can only collide with it.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final

import structlog

from kling_flows.engine.cancel import keeps_video, nothing_created
from kling_flows.engine.deadlines import expired
from kling_flows.engine.durations import typical_seconds
from kling_flows.engine.engine import Engine
from kling_flows.engine.failures import error_record, since_then
from kling_flows.engine.identity import external_task_id
from kling_flows.engine.lookup import LOOKUP_DELAYS
from kling_flows.errors import KlingFlowsError, LeaseLost
from kling_flows.ledger import FlowRunRecord, State, UpstreamRecord, VideoTask, slot_of
from kling_flows.upstream import TextToVideoRequest, UpstreamError, UpstreamTask
from kling_flows.upstream.errors import (
    ErrorClass,
    UpstreamAlreadyExists,
    UpstreamAmbiguous,
    UpstreamConcurrency,
    UpstreamInvalid,
    UpstreamNotFound,
    UpstreamPermission,
)

#: Longest time for which a provider's Retry-After is obeyed within a step, in seconds; the step's own delays follow.
_LONGEST_WAIT: Final = 60.0

log = structlog.get_logger(__name__)

#: The provider has refused for good: nothing was created and nothing will be paid.
_REFUSED: Final = frozenset(
    {ErrorClass.INVALID, ErrorClass.AUTH, ErrorClass.BILLING, ErrorClass.PERMISSION, ErrorClass.POLICY}
)


async def submit(
    engine: Engine, task_id: str, flow_run: FlowRunRecord | None = None, known: VideoTask | None = None
) -> VideoTask:
    """Bring a task to SUBMITTED, or leave it where it is if it is further; final if the provider refuses.

    Args:
        engine: Holds the task.
        task_id: Which one.
        flow_run: What carries it.
        known: The task as it was a moment ago; read if it is not given.

    Raises:
        UpstreamError: throttled, unavailable, or the outcome is unknown: repeat the step.
        LeaseLost: somebody else carries the task, or it has ended.
        RunnerDraining: this runner stops.
    """
    task = known or await engine.ledger.get(task_id)
    if task.state not in (State.QUEUED, State.SUBMITTING):
        return task
    engine.check_open()
    doubtful = task.state is State.SUBMITTING and _intent(task).outcome_unknown
    if doubtful:
        settled = await _settle(engine, task)
        if settled is not None:
            return settled
    return await _send(engine, task, flow_run, doubtful=doubtful)


async def _intend(engine: Engine, task: VideoTask, flow_run: FlowRunRecord | None) -> VideoTask:
    callbacks = engine.callbacks
    typical = task.typical_seconds
    if typical is None:
        known = await engine.ledger.read_durations()
        account = (await engine.upstream_of(task)).client.account
        typical = typical_seconds(known, account.provider, task.request)

    def change(before: VideoTask) -> VideoTask:
        if before.state not in (State.QUEUED, State.SUBMITTING):
            return before
        if before.deadline is not None and before.deadline <= datetime.now(UTC):
            return expired(before)
        upstream = before.upstream or _first_intent(engine, before.id)
        upstream = upstream.model_copy(
            update={
                "submit_attempts": upstream.submit_attempts + 1,
                "outcome_unknown": True,
                "called_back": callbacks is not None,
            }
        )
        return before.model_copy(
            update={
                "state": State.SUBMITTING,
                "upstream": upstream,
                "flow_run": flow_run or before.flow_run,
                "typical_seconds": typical,
            }
        )

    if callbacks is None:
        return await engine.advance(task.id, change)
    # Together with the intent: the provider may call before its answer to the create arrives.
    return await engine.ledger.advance_and_expect(
        task.id, change, runner_id=engine.runner_id, callback_digest=callbacks.digest(task.id)
    )


def _first_intent(engine: Engine, task_id: str) -> UpstreamRecord:
    account = engine.client.account
    return UpstreamRecord(
        provider=account.provider,
        dialect=account.dialect,
        base_url=account.base_url,
        account=account.name,
        external_task_id=external_task_id(engine.ledger.ledger_id, task_id),
        intent_time=datetime.now(UTC),
    )


async def _send(engine: Engine, task: VideoTask, flow_run: FlowRunRecord | None, *, doubtful: bool) -> VideoTask:
    """Send the request; ``doubtful`` says that an earlier one may still arrive, although it was looked up in vain."""
    upstream = await engine.upstream_of(task)
    try:
        # The slot comes first: what waits for one has declared nothing, so that a cancel or a drain stops it for free.
        async with engine.submit_slots:
            engine.check_open()
            task = await _intend(engine, task, flow_run)
            if task.state is not State.SUBMITTING:
                return task
            accepted = await upstream.client.create(_request(engine, task), _intent(task).external_task_id)
    except (UpstreamAlreadyExists, UpstreamAmbiguous) as unknown:
        log.warning("unknown outcome of a submit", video_task=task.id, error=unknown.message)
        settled = await _settle(engine, task)
        if settled is not None:
            return settled
        external_id = _intent(task).external_task_id
        raise UpstreamAmbiguous(
            f"{unknown.message}; the provider does not show {external_id} yet, it is looked up again",
            retry_after=unknown.retry_after,
        ) from unknown
    except UpstreamError as refused:
        if refused.error_class in _REFUSED:
            # The earlier request may have arrived meanwhile, and may be the very reason: it took the last units.
            earlier = await _settle(engine, task) if doubtful else None
            if earlier is not None:
                return earlier
        try:
            if refused.error_class in _REFUSED:
                return await engine.fail(task.id, refused)
            if isinstance(refused, UpstreamConcurrency):
                await engine.ledger.learn_refusal(slot_of(_intent(task).account, task.request.model_name))
            await _note_refusal(engine, task, refused, doubtful=doubtful)
        except LeaseLost:
            if not doubtful:
                await _note_nothing_created(engine, task)
            raise
        await asyncio.sleep(min(refused.retry_after or 0.0, _LONGEST_WAIT))
        raise
    task = await adopt(engine, task, accepted)
    await upstream.trust.learn(_intent(task).external_task_id, accepted.task_id)
    return task


def _request(engine: Engine, task: VideoTask) -> TextToVideoRequest:
    """The request as the provider gets it: it calls us, and we call the caller."""
    callbacks = engine.callbacks
    url = None if callbacks is None else callbacks.url(_intent(task).provider, task.id)
    return task.request.model_copy(update={"callback_url": url})


async def _settle(engine: Engine, task: VideoTask) -> VideoTask | None:
    """Find out what became of the last request; None means that nothing was created.

    Raises:
        UpstreamError: the provider cannot be asked at the moment.
    """
    external_id = _intent(task).external_task_id
    upstream = await engine.upstream_of(task)
    for delay in LOOKUP_DELAYS:
        await asyncio.sleep(delay)
        try:
            return await adopt(engine, task, await upstream.client.get(external_id, external=True))
        except UpstreamNotFound:
            continue
        except (UpstreamInvalid, UpstreamPermission) as refused:
            if await upstream.trust.trusted():
                # It can be asked, but not by us or not now: the question stays open until it is answered.
                raise
            return await _stop_unresolved(engine, task, refused)
    if await upstream.trust.trusted():
        return None
    return await _stop_unresolved(
        engine,
        task,
        UpstreamAmbiguous(
            f"it is unknown whether the provider has accepted {external_id}, and it is not known to find tasks by "
            "that id; look into its console, then decide with `kling-flows resolve`",
        ),
    )


async def adopt(engine: Engine, task: VideoTask, accepted: UpstreamTask) -> VideoTask:
    """Write down that the provider has accepted the task; a final one stays final."""

    def change(before: VideoTask) -> VideoTask:
        if before.upstream is None or before.upstream.task_id:
            return before
        upstream = before.upstream.model_copy(
            update={
                "task_id": accepted.task_id,
                "request_id": accepted.request_id,
                "status": accepted.status_word,
                "submit_time": datetime.now(UTC),
                "outcome_unknown": False,
            }
        )
        if before.state.final:
            # It ended while the request was out. The facts are kept, because they cost money; the state is final.
            wanted = (before.video_pending or keeps_video(before)) and not before.artifacts
            error = before.error
            if before.state is State.FAILED:
                words = "an earlier request was on its way and was accepted; the video will be archived"
                error = since_then(error, words, sent="true")
            return before.model_copy(update={"upstream": upstream, "video_pending": wanted, "error": error})
        return before.model_copy(update={"state": State.SUBMITTED, "upstream": upstream, "error": None})

    # Not fenced: it is the same upstream task whoever learns of it, and the fact must not be lost.
    return await engine.ledger.advance(task.id, change)


async def _note_refusal(engine: Engine, task: VideoTask, error: KlingFlowsError, *, doubtful: bool) -> None:
    def change(before: VideoTask) -> VideoTask:
        if before.state is not State.SUBMITTING or before.upstream is None:
            return before
        upstream = before.upstream.model_copy(update={"outcome_unknown": doubtful})
        return before.model_copy(update={"upstream": upstream, "error": error_record(error)})

    await engine.advance(task.id, change)


async def _note_nothing_created(engine: Engine, task: VideoTask) -> None:
    """A refusal that comes after the end of the task still says what it did not cost."""
    attempt = _intent(task).submit_attempts

    def change(before: VideoTask) -> VideoTask:
        upstream = before.upstream
        if not before.state.final or upstream is None or upstream.task_id or not upstream.outcome_unknown:
            return before
        # What is unknown may be the outcome of another request than the one that was refused.
        if upstream.submit_attempts != attempt:
            return before
        return nothing_created(before, "the provider has refused it")

    await engine.ledger.advance(task.id, change)


async def _stop_unresolved(engine: Engine, task: VideoTask, error: UpstreamError) -> VideoTask:
    def change(before: VideoTask) -> VideoTask:
        if before.state is not State.SUBMITTING:
            return before
        return before.model_copy(update={"state": State.UNRESOLVED, "error": error_record(error)})

    return await engine.advance(task.id, change)


def _intent(task: VideoTask) -> UpstreamRecord:
    if task.upstream is None:
        raise RuntimeError(f"videoTasks/{task.id} is {task.state} without an intent")
    return task.upstream
