"""One video, one flow run, three visible task runs: submit, wait, archive."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import gettempdir
from typing import Annotated, Any

from prefect import flow, task
from prefect.runtime import flow_run as runtime
from prefect.states import Cancelled, Crashed
from pydantic import Field

from kling_flows.engine import keep, wait
from kling_flows.engine.carry import begin
from kling_flows.engine.engine import Engine
from kling_flows.engine.session import current_engine
from kling_flows.errors import LeaseLost, RunnerDraining, VideoTaskCancelled
from kling_flows.flows.cancelling import cancel_videos
from kling_flows.flows.form import ArchiveName, CredentialsName, named_session
from kling_flows.flows.names import run_name
from kling_flows.ledger import VideoTask
from kling_flows.ledger.operations import NOTICE_SECONDS
from kling_flows.shown.artifacts import show_result, shown_task, tell
from kling_flows.shown.tags import show_tags
from kling_flows.steps import check_request, flow_run_record, known_id, outcome_error, take
from kling_flows.tasks import POLICY
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
    on_cancellation=[cancel_videos],
)
async def text_to_video(
    request: TextToVideoRequest,
    task_id: Annotated[
        str | None,
        Field(
            title="Video task",
            description="The video task to carry on, or the id of a new one: 1 to 48 of a-z, 0-9 and '-'. Left out: a "
            "new one, made from the flow run's id.",
        ),
    ] = None,
    credentials_block: CredentialsName = None,
    archive_block: ArchiveName = None,
) -> VideoTask:
    """Generate a video and archive it.

    Args:
        request: What to generate.
        task_id: The video task to carry on, or the id of a new one; made from the flow run's id if it is not given.
        credentials_block: Whose account pays; by default the one that ``KLING_FLOWS_*`` names.
        archive_block: Where the video goes; by default where ``KLING_FLOWS_ARCHIVE`` says.

    Returns:
        The video task, SUCCEEDED; ``artifacts[0].uri`` is the file. A task that is CANCELLED or EXPIRED stays that, but
        if its video was still wanted and is now in the archive, it is returned as well.

    Raises:
        InvalidRequest: the request breaks a rule; nothing was sent.
        VideoTaskExists: there is a task of that id, of another request.
        BudgetExceeded: a budget does not cover it; nothing was sent.
        VideoTaskFailed: it ended without a video.
        UpstreamError, ArchiveError: a step failed more often than it is repeated; run it again to go on.
    """
    async with named_session(credentials_block, archive_block) as engine:
        task_id = await known_id(engine, _task_id(task_id))
        await check_request(engine, task_id, request)
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
        await show_result(engine.settings, engine.archive, task)
    return _outcome(task)


# Each is one step of a task that this run holds; those of :mod:`kling_flows.tasks` first have to get hold of it.
@task(name="submit", task_run_name="submit", **POLICY)
async def _submit(task_id: str) -> VideoTask:
    return await begin(current_engine(), task_id, flow_run_record())


@task(name="wait", task_run_name="wait", **POLICY)
async def _wait(task_id: str) -> VideoTask:
    return await wait.wait(current_engine(), task_id)


@task(name="archive", task_run_name="archive", **POLICY)
async def _archive(task_id: str) -> VideoTask:
    return await keep.archive(current_engine(), task_id)


async def _steps(engine: Engine, task_id: str, request: TextToVideoRequest) -> VideoTask:
    task = await take(engine, task_id, request)
    await attach(engine, task)
    await show_tags([task])
    async with shown_task(engine.settings, engine.ledger, task_id) as progress:
        for step in (_submit, _wait, _archive):
            task = await step(task_id)
            tell(progress, task)
    return task


async def still_wanted(engine: Engine, task_id: str) -> bool:
    """Whether a task that was just lost has ended for its caller only; waits until it may be taken up again."""
    if not (await engine.ledger.get(task_id)).video_pending or engine.draining.is_set():
        return False
    await asyncio.sleep(NOTICE_SECONDS)
    return True


async def attach(engine: Engine, task: VideoTask) -> None:
    """Write down that this run carries on a task that an earlier run has begun."""
    run = flow_run_record()
    if run is None or not task.active or task.flow_run is None or task.flow_run.id == run.id:
        return
    await engine.advance(task.id, lambda before: before.model_copy(update={"flow_run": run}))


def _outcome(task: VideoTask) -> Any:
    error = outcome_error(task)
    if isinstance(error, VideoTaskCancelled):
        return Cancelled(message=error.message)
    if error is not None:
        raise error
    return task


def _interrupted(message: str) -> Any:
    return Crashed(message=message)
