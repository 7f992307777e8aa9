"""Videos that have gone from the archive while the provider still has them; and those that may go."""

from __future__ import annotations

from kling_flows.archive import StoredVideo
from kling_flows.engine.engine import Engine
from kling_flows.engine.keep import file_name, manifest_facts
from kling_flows.errors import ArchiveError
from kling_flows.ledger import ArtifactRecord, VideoTask
from kling_flows.outbound import policy_for


async def is_missing(engine: Engine, task: VideoTask, artifact: ArtifactRecord) -> bool:
    """Whether the file is no longer in the archive, whole and with its manifest.

    Raises:
        ArchiveError: the archive cannot be read.
    """
    return await engine.archive.find(file_name(task.id, artifact.kind), task.create_time, {}) is None


async def fetch_again(engine: Engine, task: VideoTask, artifact: ArtifactRecord) -> StoredVideo:
    """Copy a file into the archive once more, to the same place. Nothing is generated.

    Raises:
        ArchiveError: the provider has no such file any more, or the storage refuses.
        UpstreamError: the provider cannot be asked.
        ConfigurationError: the settings no longer have the credentials of the task's account.
    """
    upstream = task.upstream
    if upstream is None or not upstream.task_id:
        raise ArchiveError(f"videoTasks/{task.id} was never at a provider")
    seen = await (await engine.upstream_of(task)).client.get(upstream.task_id)
    if not seen.videos:
        raise ArchiveError("the provider shows no address of the video")
    video = seen.videos[0]
    address = video.url if artifact.kind == "VIDEO" else video.watermark_url
    if not address:
        raise ArchiveError("the provider shows no address of the watermarked copy")
    download = engine.archive.download(address, policy_for(upstream.base_url))
    return await engine.archive.store(
        file_name(task.id, artifact.kind),
        task.create_time,
        download,
        manifest_facts(task, upstream, video, artifact.kind),
    )


async def prune(engine: Engine, task: VideoTask) -> VideoTask:
    """Delete a task's files from the archive, and write down that it has none.

    Raises:
        ArchiveError: the storage refuses.
    """
    for artifact in task.artifacts:
        await engine.archive.remove(file_name(task.id, artifact.kind), task.create_time)

    # Last: what was interrupted before is seen again.
    def change(before: VideoTask) -> VideoTask:
        return before.model_copy(update={"artifacts": ()}) if before.artifacts and not before.active else before

    return await engine.ledger.advance(task.id, change)
