"""The archive step: the provider's video becomes ours. A failure here never leads to a new generation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kling_flows.archive import SourceExpired, StoredVideo
from kling_flows.engine.engine import Engine
from kling_flows.engine.failures import error_record
from kling_flows.errors import ArchiveError
from kling_flows.ledger import ArtifactRecord, State, UpstreamRecord, VideoTask
from kling_flows.upstream import UpstreamTask, UpstreamVideo


async def archive(engine: Engine, task_id: str) -> VideoTask:
    """Bring a task from ARCHIVING to SUCCEEDED.

    Raises:
        ArchiveError: the source or the storage failed: repeat the step.
        UpstreamError: the provider cannot be asked for the video's address: repeat the step.
        LeaseLost: somebody else carries the task, or it has ended.
        RunnerDraining: this runner stops.
    """
    task = await engine.ledger.get(task_id)
    if task.state is not State.ARCHIVING:
        return task
    engine.check_open()
    if task.upstream is None:
        raise RuntimeError(f"videoTasks/{task_id} is ARCHIVING without an upstream task")
    try:
        async with engine.archive_slots:
            artifact = await _store(engine, task, task.upstream)
    except ArchiveError as error:
        await _note(engine, task_id, error)
        raise

    def change(before: VideoTask) -> VideoTask:
        if before.state is not State.ARCHIVING:
            return before
        return before.model_copy(update={"state": State.SUCCEEDED, "artifacts": (artifact,), "error": None})

    return await engine.advance(task_id, change)


async def _store(engine: Engine, task: VideoTask, upstream: UpstreamRecord) -> ArtifactRecord:
    published = await engine.archive.find(task.id, task.create_time, {"upstream": _upstream_facts(upstream)})
    seen = engine.ended.pop(task.id, None)
    if published is not None:
        # The process ended between publishing and writing that down.
        return _artifact(published, None)
    if seen is None:
        seen = await engine.client.get(upstream.task_id)
    try:
        return await _copy(engine, task, upstream, seen)
    except SourceExpired:
        return await _copy(engine, task, upstream, await engine.client.get(upstream.task_id))


async def _copy(engine: Engine, task: VideoTask, upstream: UpstreamRecord, seen: UpstreamTask) -> ArtifactRecord:
    if not seen.videos:
        raise ArchiveError("the provider shows no address of the video at the moment; it is asked again")
    video = seen.videos[0]
    stored = await engine.archive.store(
        task.id, task.create_time, engine.archive.download(video.url), _facts(task, upstream, video)
    )
    return _artifact(stored, video)


def _facts(task: VideoTask, upstream: UpstreamRecord, video: UpstreamVideo) -> Mapping[str, Any]:
    return {
        "video_task": task.id,
        "tenant": task.tenant,
        "labels": task.labels,
        "create_time": task.create_time.isoformat(),
        "request": task.request.model_dump(mode="json", exclude_none=True),
        "duration_seconds": video.duration_seconds,
        "upstream": _upstream_facts(upstream),
    }


def _upstream_facts(upstream: UpstreamRecord) -> Mapping[str, Any]:
    return upstream.model_dump(mode="json", include={"provider", "account", "task_id", "external_task_id"})


def _artifact(stored: StoredVideo, video: UpstreamVideo | None) -> ArtifactRecord:
    return ArtifactRecord(
        kind="VIDEO",
        uri=stored.uri,
        manifest_uri=stored.manifest_uri,
        size_bytes=stored.size_bytes,
        sha256=stored.sha256,
        media_type=stored.media_type,
        duration_seconds=video.duration_seconds if video else None,
    )


async def _note(engine: Engine, task_id: str, error: ArchiveError) -> None:
    def change(before: VideoTask) -> VideoTask:
        if before.state is not State.ARCHIVING or (before.error and before.error.message == error.message):
            return before
        return before.model_copy(update={"error": error_record(error)})

    await engine.advance(task_id, change)
