"""The three steps of a video task as Prefect tasks, for our flows and for anybody's."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State as PrefectState
from prefect.client.schemas.objects import TaskRun

from kling_flows import steps
from kling_flows.blocks import Credentials, VideoArchive
from kling_flows.engine.retries import RETRY_DELAYS, RETRY_JITTER, worth_repeating
from kling_flows.ledger import VideoTask
from kling_flows.upstream import TextToVideoRequest


async def _worth_repeating(_task: object, _run: TaskRun, state: PrefectState[Any]) -> bool:
    error = await state.aresult(raise_on_failure=False)
    return isinstance(error, BaseException) and worth_repeating(error)


# A cached result would be a second memory of what was paid, and one that can be lost: the ledger is the only one.
POLICY: dict[str, Any] = {
    "retries": len(RETRY_DELAYS),
    "retry_delay_seconds": list(RETRY_DELAYS),
    "retry_jitter_factor": RETRY_JITTER,
    "retry_condition_fn": _worth_repeating,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}


@task(name="submit-video", task_run_name="submit-video", **POLICY)
async def submit_video(
    request: TextToVideoRequest,
    task_id: str | None = None,
    *,
    credentials: Credentials | None = None,
    archive: VideoArchive | None = None,
) -> VideoTask:
    """Ask the provider for a video, once, however often this is repeated.

    The video task's id is made of the flow run and the request, so that a retry of either asks for the same video. So
    do two calls with the same request in one flow run: give two task ids if two videos are wanted.

    Args:
        request: What to generate.
        task_id: The id of the video task: 1 to 48 of a-z, 0-9 and '-', beginning with a letter.
        credentials: Whose account pays; by default the one that ``KLING_FLOWS_*`` names.
        archive: Where the video will be; by default where ``KLING_FLOWS_ARCHIVE`` says.

    Returns:
        The video task, which the provider has accepted. Hand it to :func:`wait_for_video`.

    Raises:
        InvalidRequest: the request breaks a rule; nothing was sent.
        BudgetExceeded: a budget does not cover it; nothing was sent.
        VideoTaskFailed: the provider has refused it.
        VideoTaskUnresolved: nobody can tell whether the provider has accepted it; a person decides.
    """
    async with steps.video_session(credentials, archive) as engine:
        return await steps.submit(engine, request, task_id or steps.id_for(request))


@task(name="wait-for-video", task_run_name="wait-for-video", **POLICY)
async def wait_for_video(
    video: VideoTask | str, *, credentials: Credentials | None = None, archive: VideoArchive | None = None
) -> VideoTask:
    """Wait until the provider has made the video. It costs nothing to be interrupted here.

    Args:
        video: The video task, or its id.
        credentials: As for :func:`submit_video`.
        archive: As for :func:`submit_video`.

    Raises:
        VideoTaskFailed: it ended without a video.
    """
    async with steps.video_session(credentials, archive) as engine:
        return await steps.wait_until_made(engine, _id_of(video))


@task(name="archive-video", task_run_name="archive-video", **POLICY)
async def archive_video(
    video: VideoTask | str, *, credentials: Credentials | None = None, archive: VideoArchive | None = None
) -> VideoTask:
    """Copy the video into the archive. A failure never leads to a new generation.

    Args:
        video: The video task, or its id.
        credentials: As for :func:`submit_video`.
        archive: As for :func:`submit_video`.

    Returns:
        The video task; ``artifacts[0].uri`` is the file.

    Raises:
        VideoTaskFailed: it ended without a video.
    """
    async with steps.video_session(credentials, archive) as engine:
        return await steps.archive(engine, _id_of(video))


def _id_of(video: VideoTask | str) -> str:
    return video if isinstance(video, str) else video.id
