"""What a flow run shows of its videos: how far one is, and what has become of it.

An artifact is a courtesy too: whatever goes wrong with one is logged, and the video goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import structlog
from prefect.artifacts import (
    acreate_image_artifact,
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)

from kling_flows.archive import VideoArchive
from kling_flows.engine.identity import public_task_id
from kling_flows.ledger import Ledger, State, VideoTask
from kling_flows.settings import Settings
from kling_flows.shown.courtesy import courtesy
from kling_flows.shown.posters import poster
from kling_flows.shown.words import artifact_key, price, row_of, short_prompt

log = structlog.get_logger(__name__)

#: Shortest time between two updates of one artifact, in seconds: each costs the Prefect server some 15 ms, and its
#: pages do not follow by themselves.
_GAP_SECONDS: Final = 5.0

#: What a video is shown as while it lasts longer than such videos do.
_ALMOST: Final = 95.0


class Progress:
    """A progress artifact that is written behind: whoever tells it something never waits.

    Args:
        key: Of the artifact.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._told: tuple[float, str] | None = None
        self._news = asyncio.Event()
        self._closing = asyncio.Event()
        self._artifact: UUID | None = None

    def tell(self, percent: float, words: str) -> None:
        """Show this soon, unless something newer is told before."""
        self._told = (percent, words)
        self._news.set()

    def close(self) -> None:
        """Let :meth:`run` write what was told last, and end."""
        self._closing.set()
        self._news.set()

    async def run(self) -> None:
        """Write what is told until closed."""
        while not self._closing.is_set() or self._told is not None:
            await self._news.wait()
            await self._write()
            with suppress(TimeoutError):
                async with asyncio.timeout(_GAP_SECONDS):
                    await self._closing.wait()

    async def _write(self) -> None:
        told, self._told = self._told, None
        self._news.clear()
        if told is None:
            return
        percent, words = told
        if self._artifact is None:
            self._artifact = await courtesy(acreate_progress_artifact(percent, self._key, words))
        else:
            await courtesy(aupdate_progress_artifact(self._artifact, percent, words))


@asynccontextmanager
async def shown_progress(settings: Settings, key: str) -> AsyncGenerator[Progress | None]:
    """A progress artifact for as long as the context lasts; None if nobody wants one."""
    if settings.prefect_artifacts != "progress":
        yield None
        return
    progress = Progress(key)
    writing = asyncio.create_task(progress.run(), name=f"progress/{key}")
    try:
        yield progress
    finally:
        progress.close()
        await writing


@asynccontextmanager
async def shown_task(settings: Settings, ledger: Ledger, task_id: str) -> AsyncGenerator[Progress | None]:
    """As :func:`shown_progress`, for one task; also looks at it every so often, if the settings ask for it."""
    key = artifact_key("progress", task_id)
    async with shown_progress(settings, key) as progress:
        seconds = settings.prefect_progress_seconds
        if progress is None or seconds is None:
            yield progress
            return
        looking = asyncio.create_task(_look(progress, ledger, task_id, seconds), name=f"look/{key}")
        try:
            yield progress
        finally:
            looking.cancel()
            await asyncio.wait({looking})


async def _look(progress: Progress, ledger: Ledger, task_id: str, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            tell(progress, await ledger.get(task_id))
        except Exception as error:
            log.info("the progress of a task cannot be read", video_task=task_id, error=repr(error))


def tell(progress: Progress | None, task: VideoTask) -> None:
    """Show where a task is."""
    if progress is not None:
        progress.tell(percent_of(task), progress_words(task))


def percent_of(task: VideoTask) -> float:
    """How much of its time is over, 0 to 100; the provider says nothing, so it is guessed from its like."""
    if task.state.final:
        return 100.0
    if task.state is State.ARCHIVING:
        return _ALMOST
    return min(_elapsed(task) / task.typical_seconds * 100, _ALMOST) if task.typical_seconds else 0.0


def progress_words(task: VideoTask) -> str:
    """Its state, and its time beside that of its like."""
    typical = f" of about {task.typical_seconds:.0f} s" if task.typical_seconds else ""
    return f"{public_task_id(task.id)} is {task.state.value}, {_elapsed(task):.0f} s{typical}: {short_prompt(task)}"


def _elapsed(task: VideoTask) -> float:
    upstream = task.upstream
    if upstream is None or upstream.submit_time is None:
        return 0.0
    until = upstream.end_time or task.end_time or datetime.now(UTC)
    return max((until - upstream.submit_time).total_seconds(), 0.0)


async def show_result(settings: Settings, archive: VideoArchive, task: VideoTask) -> None:
    """What has become of a task: its video with poster, price and checksum, or why there is none."""
    if settings.prefect_artifacts == "off":
        return
    await courtesy(
        acreate_markdown_artifact(
            _result(task), artifact_key("video", task.id), f"{public_task_id(task.id)}: {task.state}"
        )
    )
    picture = await poster(archive, task.artifacts[0].uri) if task.artifacts else None
    if picture is not None:
        await courtesy(
            acreate_image_artifact(picture, artifact_key("poster", task.id), f"{public_task_id(task.id)}: first frame")
        )


def _result(task: VideoTask) -> str:
    request = task.request
    lines = [f"# {public_task_id(task.id)}: {task.state.value}", "", _quoted(short_prompt(task)), ""]
    rows = [("model", f"{request.model_name}, {request.mode.value}, {request.duration} s, {request.aspect_ratio}")]
    rows += [(file.kind.lower().replace("_", " "), f"[{file.uri}](<{file.uri}>)") for file in task.artifacts]
    rows += [("sha256", f"`{file.sha256}`, {file.size_bytes} bytes") for file in task.artifacts[:1]]
    rows += [("price", price(task)), ("tenant", task.tenant)]
    if task.error is not None:
        rows.append((task.error.reason, " ".join(task.error.message.replace("|", "\\|").split())))
    return "\n".join([*lines, "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _quoted(text: str) -> str:
    # A prompt is somebody's text, not our page's mark-up.
    return "> " + text.replace("<", "&lt;").replace("[", "\\[").replace("!", "\\!")


async def show_tasks(settings: Settings, tasks: Sequence[VideoTask], key: str = "video-tasks") -> None:
    """A table of tasks."""
    await show_table(settings, [row_of(task) for task in tasks], key, "The video tasks of this run")


async def show_table(settings: Settings, rows: Sequence[dict[str, Any]], key: str, description: str) -> None:
    """A table."""
    if settings.prefect_artifacts != "off":
        await courtesy(acreate_table_artifact(list(rows), key, description))
