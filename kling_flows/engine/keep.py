"""The archive step: the provider's video becomes ours. A failure here never leads to a new generation.

A video that is paid is given up only when it is certain that it is gone: its address or its task is no longer there,
and the time for which the provider keeps videos is over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeVar

from kling_flows.archive import SourceExpired, StoredVideo
from kling_flows.engine.engine import Engine
from kling_flows.engine.failures import error_record, since_then
from kling_flows.engine.phases import Phase, phase_of
from kling_flows.engine.tracing import traced_step
from kling_flows.errors import ArchiveError, KlingFlowsError, LeaseLost, VideoTaskLost
from kling_flows.ledger import ArtifactRecord, State, UpstreamRecord, VideoTask
from kling_flows.outbound.addresses import policy_for
from kling_flows.upstream import UpstreamClient, UpstreamNotFound, UpstreamTask, UpstreamVideo

T = TypeVar("T")

FileKind = Literal["VIDEO", "WATERMARKED_VIDEO"]

#: Looks at a task for the address of its watermarked copy, and seconds between them, before it is done without.
_WATERMARK_LOOKS: Final = 5
_WATERMARK_SECONDS: Final = 2.0


class _NoAddress(ArchiveError):
    """The provider says that there is a video and gives no address."""


#: Signs that the provider has deleted the video; before its time they are taken for a passing fault.
_GONE: Final = (SourceExpired, _NoAddress, UpstreamNotFound)


async def archive(engine: Engine, task_id: str, known: VideoTask | None = None) -> VideoTask:
    """Bring a task from ARCHIVING to SUCCEEDED, or to LOST; a final one gets its video and stays what it is.

    Args:
        engine: Holds the task.
        task_id: Which one.
        known: The task as it was a moment ago; read if it is not given.

    Raises:
        ArchiveError: the source or the storage failed: repeat the step.
        UpstreamError: the provider cannot be asked for the video's address: repeat the step.
        ConfigurationError: the settings no longer have the credentials of its account.
        LeaseLost: somebody else carries the task, or it has ended.
        RunnerDraining: this runner stops.
    """
    task = known or await engine.ledger.get(task_id)
    if phase_of(task) is not Phase.ARCHIVE:
        return task
    with traced_step("archive", task):
        return await _archive(engine, task)


async def _archive(engine: Engine, task: VideoTask) -> VideoTask:
    task_id = task.id
    client = (await engine.upstream_of(task)).client
    engine.check_open()
    if task.upstream is None:
        raise RuntimeError(f"videoTasks/{task_id} is {task.state} without an upstream task")
    source = _Source(client, task.upstream.task_id, engine.ended.pop(task_id, None))
    try:
        kept = await _while_held(engine, task_id, _keep(engine, task, task.upstream, source))
    except (ArchiveError, UpstreamNotFound) as error:
        if isinstance(error, _GONE) and _is_over(engine, task.upstream, source):
            return await _give_up(engine, task_id, error)
        await _note(engine, task_id, error)
        raise

    def change(before: VideoTask) -> VideoTask:
        if phase_of(before) is not Phase.ARCHIVE:
            return before
        facts = {"artifacts": kept.artifacts, "upstream": _settled(before.upstream, source, kept.note)}
        if before.state.final:
            error = since_then(before.error, "the video is in the archive")
            return before.model_copy(update={**facts, "video_pending": False, "error": error})
        return before.model_copy(update={**facts, "state": State.SUCCEEDED, "error": None})

    return await engine.advance(task_id, change)


class _Source:
    """Where the videos are, as far as the last look at the upstream task says it."""

    def __init__(self, client: UpstreamClient, task_id: str, seen: UpstreamTask | None) -> None:
        self._client = client
        self._task_id = task_id
        #: Its end was seen here and this is the first try to archive it, so that nothing can be in the archive yet.
        self.untried = seen is not None
        self.seen = seen

    async def video(self, *, fresh: bool = False) -> UpstreamVideo:
        if fresh or self.seen is None:
            self.seen = await self._client.get(self._task_id)
        if not self.seen.videos:
            raise _NoAddress("the provider shows no address of the video at the moment; it is asked again")
        return self.seen.videos[0]

    async def address(self, kind: FileKind, *, fresh: bool = False) -> str:
        video = await self.video(fresh=fresh)
        if kind == "VIDEO":
            return video.url
        if not video.watermark_url:
            raise _NoAddress("the provider shows no address of the watermarked copy")
        return video.watermark_url


@dataclass(frozen=True, slots=True)
class _Kept:
    artifacts: tuple[ArtifactRecord, ...]
    #: What is missing, in words.
    note: str = ""


async def _while_held(engine: Engine, task_id: str, work: Coroutine[Any, Any, T]) -> T:
    """Do the work until it is done or the task is no longer ours: whoever takes it over writes to the same place."""
    working = asyncio.ensure_future(work)
    lost = asyncio.Event()

    def stop() -> None:
        # It is told every second, but letting go of the storage takes longer and must not be interrupted itself.
        if not lost.is_set():
            lost.set()
            working.cancel()

    with engine.lease.watching(task_id, stop):
        try:
            return await working
        except asyncio.CancelledError:
            this = asyncio.current_task()
            if not lost.is_set() or (this is not None and this.cancelling()):
                raise
            raise LeaseLost(f"videoTasks/{task_id} is no longer carried here") from None


async def _keep(engine: Engine, task: VideoTask, upstream: UpstreamRecord, source: _Source) -> _Kept:
    # What ended first is deleted first.
    ended = upstream.end_time or task.create_time
    async with engine.archive_gate.entered(ended.timestamp()):
        video = await _copy(engine, task, upstream, source, "VIDEO")
        wanted = task.request.watermark_info
        if wanted is None or not wanted.enabled:
            return _Kept((video,))
        await _note_copy(engine, task.id, video)
        try:
            await _await_watermark(source)
            return _Kept((video, await _copy(engine, task, upstream, source, "WATERMARKED_VIDEO")))
        except _NoAddress as missing:
            return _Kept((video,), missing.message)
        except SourceExpired as gone:
            if not _is_over(engine, upstream, source):
                raise
            return _Kept((video,), f"the watermarked copy could not be archived: {gone.message}")


async def _await_watermark(source: _Source) -> None:
    for look in range(_WATERMARK_LOOKS):
        try:
            await source.address("WATERMARKED_VIDEO", fresh=look > 0)
        except _NoAddress:
            await asyncio.sleep(_WATERMARK_SECONDS)
        else:
            return


async def _copy(
    engine: Engine, task: VideoTask, upstream: UpstreamRecord, source: _Source, kind: FileKind
) -> ArtifactRecord:
    name = file_name(task.id, kind)
    if not source.untried:
        published = await engine.archive.find(name, task.create_time, {"upstream": _upstream_facts(upstream)})
        if published is not None:
            # The process ended between publishing and writing that down.
            return _artifact(published, None, kind)

    async def store(address: str) -> ArtifactRecord:
        video = await source.video()
        download = engine.archive.download(address, policy_for(upstream.base_url))
        began = time.monotonic()
        stored = await engine.archive.store(
            name, task.create_time, download, manifest_facts(task, upstream, video, kind)
        )
        engine.measures.video_archived(stored.size_bytes, time.monotonic() - began)
        return _artifact(stored, video, kind)

    try:
        return await store(await source.address(kind))
    except SourceExpired:
        return await store(await source.address(kind, fresh=True))


def file_name(task_id: str, kind: FileKind) -> str:
    """What the file of a task is called in the archive, without its ending."""
    # No id of a task ends in a word like this after a _, so that no other task's file has this name.
    return task_id if kind == "VIDEO" else f"{task_id}_watermarked"


def _is_over(engine: Engine, upstream: UpstreamRecord, source: _Source) -> bool:
    """Whether the provider may have deleted the video by its own rules."""
    times = [upstream.end_time, source.seen.updated_at if source.seen is not None else None]
    ended = min((when for when in times if when is not None), default=None)
    return ended is not None and datetime.now(UTC) - ended >= timedelta(seconds=engine.retention)


async def _give_up(engine: Engine, task_id: str, error: KlingFlowsError) -> VideoTask:
    def change(before: VideoTask) -> VideoTask:
        if phase_of(before) is not Phase.ARCHIVE or before.upstream is None:
            return before
        words = f"the provider has deleted the video before it could be archived: {error.message}"
        if before.state.final:
            said = since_then(before.error, words, lost="true")
            return before.model_copy(update={"video_pending": False, "error": said})
        lost = VideoTaskLost(
            f"{words}; it was made and billed, ask the provider's support with the task id",
            metadata={"upstream_task_id": before.upstream.task_id},
        )
        return before.model_copy(update={"state": State.LOST, "error": error_record(lost)})

    return await engine.advance(task_id, change)


def _settled(upstream: UpstreamRecord | None, source: _Source, note: str) -> UpstreamRecord | None:
    if upstream is None:
        return None
    update: dict[str, Any] = {}
    if note:
        update["status_message"] = note
    if not upstream.settled_units and source.seen is not None and source.seen.unit_deduction is not None:
        update["settled_units"] = str(source.seen.unit_deduction)
    return upstream.model_copy(update=update)


def manifest_facts(
    task: VideoTask, upstream: UpstreamRecord, video: UpstreamVideo, kind: FileKind
) -> Mapping[str, Any]:
    """What the manifest of a file says beside the file's own facts."""
    return {
        "video_task": task.id,
        "kind": kind,
        "tenant": task.tenant,
        "labels": task.labels,
        "create_time": task.create_time.isoformat(),
        "request": task.request.model_dump(mode="json", exclude_none=True),
        "duration_seconds": video.duration_seconds,
        "upstream": _upstream_facts(upstream),
    }


def _upstream_facts(upstream: UpstreamRecord) -> Mapping[str, Any]:
    return upstream.model_dump(mode="json", include={"provider", "account", "task_id", "external_task_id"})


def _artifact(stored: StoredVideo, video: UpstreamVideo | None, kind: FileKind) -> ArtifactRecord:
    return ArtifactRecord(
        kind=kind,
        uri=stored.uri,
        manifest_uri=stored.manifest_uri,
        size_bytes=stored.size_bytes,
        sha256=stored.sha256,
        media_type=stored.media_type,
        duration_seconds=video.duration_seconds if video else None,
    )


async def _note_copy(engine: Engine, task_id: str, artifact: ArtifactRecord) -> None:
    """Show the video itself while its watermarked copy may still take a while."""

    def change(before: VideoTask) -> VideoTask:
        if phase_of(before) is not Phase.ARCHIVE or before.artifacts:
            return before
        return before.model_copy(update={"artifacts": (artifact,)})

    await engine.advance(task_id, change)


async def _note(engine: Engine, task_id: str, error: KlingFlowsError) -> None:
    def change(before: VideoTask) -> VideoTask:
        # Why a final task ended must not be covered by what its late video lacks.
        if before.state is not State.ARCHIVING or (before.error and before.error.message == error.message):
            return before
        return before.model_copy(update={"error": error_record(error)})

    await engine.advance(task_id, change)
