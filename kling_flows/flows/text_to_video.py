"""One video, one flow run, three visible task runs: submit, wait, archive."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from prefect import flow
from prefect.runtime import flow_run as runtime
from prefect.states import Cancelled, Crashed

from kling_flows.engine.engine import Engine
from kling_flows.engine.failures import ending
from kling_flows.engine.intake import new_video_task, request_digest
from kling_flows.engine.session import engine_session
from kling_flows.errors import LeaseLost, RunnerDraining, VideoTaskCancelled, VideoTaskNotFound, VideoTaskUnresolved
from kling_flows.flows.names import run_name
from kling_flows.ledger import State, VideoTask
from kling_flows.ledger.operations import NOTICE_SECONDS
from kling_flows.settings import Settings
from kling_flows.tasks import archive_video, flow_run_record, submit_video, wait_for_video
from kling_flows.upstream import TextToVideoRequest

#: Nothing is stored there: naming a place saves Prefect from asking its server for one, twice a run.
RESULT_STORAGE = Path(gettempdir())


def _run_name() -> str:
    return run_name(_task_id(runtime.get_parameters().get("task_id")))


def _task_id(given: str | None) -> str:
    # Made of the run's own id, so that the same run, tried again, is the same video and is not paid again.
    return given or f"vt-{runtime.get_id()}"


@flow(
    name="text-to-video",
    flow_run_name=_run_name,
    persist_result=False,
    result_storage=RESULT_STORAGE,
    description="Turns a prompt into an archived video, and pays once.",
)
async def text_to_video(request: TextToVideoRequest, task_id: str | None = None) -> VideoTask:
    """Generate a video and archive it.

    Args:
        request: What to generate.
        task_id: The video task to carry on, or the id of a new one; made from the flow run's id if it is not given.

    Returns:
        The video task, SUCCEEDED; ``artifacts[0].uri`` is the file. A task that is CANCELLED or EXPIRED stays that, but
        if its video was still wanted and is now in the archive, it is returned as well.

    Raises:
        InvalidRequest: the request breaks a rule; nothing was sent.
        BudgetExceeded: a budget does not cover it; nothing was sent.
        VideoTaskFailed: it ended without a video.
        UpstreamError, ArchiveError: a step failed more often than it is repeated; run it again to go on.
    """
    task_id = _task_id(task_id)
    async with engine_session() as engine:
        try:
            try:
                task = await _steps(engine, task_id, request)
            except LeaseLost:
                if not await still_wanted(engine, task_id):
                    raise
                task = await _steps(engine, task_id, request)
        except (LeaseLost, RunnerDraining) as interrupted:
            task = await engine.ledger.get(task_id)
            if not task.state.final or (task.active and isinstance(interrupted, RunnerDraining)):
                return _interrupted(interrupted.message)
    return _outcome(task)


async def _steps(engine: Engine, task_id: str, request: TextToVideoRequest) -> VideoTask:
    task = await _take(engine, task_id, request)
    await attach(engine, task)
    for step in (submit_video, wait_for_video, archive_video):
        task = await step(task_id)
    return task


async def still_wanted(engine: Engine, task_id: str) -> bool:
    """Whether a task that was just lost has ended for its caller only; waits until it may be taken up again."""
    if not (await engine.ledger.get(task_id)).video_pending or engine.draining.is_set():
        return False
    await asyncio.sleep(NOTICE_SECONDS)
    return True


async def _take(engine: Engine, task_id: str, request: TextToVideoRequest) -> VideoTask:
    try:
        return await engine.ledger.claim_one(task_id, engine.runner_id, account=engine.client.account.name)
    except VideoTaskNotFound:
        settings, account = Settings.load(), engine.client.account
        task = new_video_task(
            request,
            account.provider,
            tenant=settings.tenant,
            task_id=task_id,
            account=account.name,
            dialect=account.dialect,
        )
        digest = request_digest(request, {}, task_id)
        return await engine.ledger.create(
            task, request_digest=digest, runner_id=engine.runner_id, budgets=settings.budgets
        )


async def attach(engine: Engine, task: VideoTask) -> None:
    """Write down that this run carries on a task that an earlier run has begun."""
    run = flow_run_record()
    if run is None or not task.active or task.flow_run is None or task.flow_run.id == run.id:
        return
    await engine.advance(task.id, lambda before: before.model_copy(update={"flow_run": run}))


def _outcome(task: VideoTask) -> Any:
    if task.state is State.UNRESOLVED:
        raise VideoTaskUnresolved(task.error.message if task.error else f"videoTasks/{task.id} is UNRESOLVED")
    error = None if task.artifacts else ending(task)
    if isinstance(error, VideoTaskCancelled):
        return Cancelled(message=error.message)
    if error is not None:
        raise error
    return task


def _interrupted(message: str) -> Any:
    return Crashed(message=message)
