"""A video as a job: triggered, waited for, fetched."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import ClassVar

from prefect._internal.compatibility.async_dispatch import async_dispatch
from prefect.blocks.abstract import JobBlock, JobRun
from prefect.utilities.asyncutils import run_coro_as_sync
from pydantic import Field, HttpUrl

from kling_flows import steps
from kling_flows.blocks.archive import VideoArchive
from kling_flows.blocks.credentials import Credentials
from kling_flows.blocks.look import DOCUMENTATION, LOGO
from kling_flows.engine.engine import Engine
from kling_flows.engine.retries import with_retries
from kling_flows.ledger import VideoTask
from kling_flows.upstream import TextToVideoRequest


# Prefect declares the methods of jobs as coroutines; those of its integrations are called either way, as these are.
class KlingTextToVideoRun(JobRun[VideoTask]):
    """One video that was asked for. It outlives this object: another with the same id goes on with it.

    Args:
        job: Whose account and archive.
        video_task_id: The id of the video task.
    """

    def __init__(self, job: KlingTextToVideo, video_task_id: str) -> None:
        self._job = job
        self.video_task_id = video_task_id

    async def await_for_completion(self) -> None:
        """The asynchronous form of :meth:`wait_for_completion`."""
        async with self._job.session() as engine:
            task = await steps.carry_to_end(engine, self.video_task_id)
        self.logger.info("videoTasks/%s is %s", task.id, task.state)
        steps.checked(task)

    @async_dispatch(await_for_completion)
    def wait_for_completion(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Wait until the video is in the archive.

        Raises:
            VideoTaskFailed: it ended without a video.
            VideoTaskUnresolved: a person has to decide.
            UpstreamError, ArchiveError: a step failed more often than it is repeated; call again to go on.
        """
        return run_coro_as_sync(self.await_for_completion())

    async def afetch_result(self) -> VideoTask:
        """The asynchronous form of :meth:`fetch_result`."""
        async with self._job.session() as engine:
            task_id = await steps.known_id(engine, self.video_task_id)
            return steps.checked(await engine.ledger.get(task_id))

    @async_dispatch(afetch_result)
    def fetch_result(self) -> VideoTask:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The video task as it is now; ``artifacts[0].uri`` is the file once it is in the archive.

        Raises:
            VideoTaskFailed: it ended without a video.
        """
        return run_coro_as_sync(self.afetch_result())


class KlingTextToVideo(JobBlock[VideoTask]):
    """A video to be made by Kling, as a job that can be triggered again and again.

    Example:
        ```python
        from kling_flows import KlingTextToVideo, TextToVideoRequest

        job = KlingTextToVideo(request=TextToVideoRequest(prompt="A paper boat on a quiet river"))
        run = job.trigger()
        run.wait_for_completion()
        print(run.fetch_result().artifacts[0].uri)
        ```
    """

    _block_type_name: ClassVar[str | None] = "Kling Text-to-Video"
    _block_type_slug: ClassVar[str | None] = "kling-text-to-video"
    _logo_url: ClassVar[HttpUrl | None] = LOGO
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION
    _description: ClassVar[str | None] = "A video to be made by Kling: trigger it, wait for it, fetch it."

    request: TextToVideoRequest = Field(title="Request", description="What to generate.")
    credentials: Credentials | None = Field(
        default=None, title="Credentials", description="Whose account pays; by default what KLING_FLOWS_* says."
    )
    archive: VideoArchive | None = Field(
        default=None, title="Archive", description="Where the video goes; by default what KLING_FLOWS_ARCHIVE says."
    )

    def session(self) -> AbstractAsyncContextManager[Engine]:
        """The engine that this job works with, as a context."""
        return steps.video_session(self.credentials, self.archive)

    async def atrigger(self, video_task_id: str | None = None) -> KlingTextToVideoRun:
        """The asynchronous form of :meth:`trigger`."""
        task_id = video_task_id or steps.id_for(self.request)
        async with self.session() as engine:
            task = await with_retries(lambda: steps.submit(engine, self.request, task_id))
        return KlingTextToVideoRun(self, task.id)

    @async_dispatch(atrigger)
    def trigger(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, video_task_id: str | None = None
    ) -> KlingTextToVideoRun:
        """Ask the provider for the video.

        In a flow run it asks once for each request, however often the run is tried again; elsewhere each call is
        another video.

        Args:
            video_task_id: The id of the video task; to name it is to ask once.

        Raises:
            InvalidRequest: the request breaks a rule; nothing was sent.
            BudgetExceeded: a budget does not cover it; nothing was sent.
            VideoTaskFailed: the provider has refused it.
            VideoTaskUnresolved: a person has to decide.
        """
        return run_coro_as_sync(self.atrigger(video_task_id))
