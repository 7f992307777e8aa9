"""DownloadVideo: an archived file, streamed to callers that have no credentials of the storage."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import structlog

from grpc_server.convert import artifact_message
from grpc_server.hub import Hub
from grpc_server.names import name_of, parse_name
from kling_flows.errors import ArchiveError, InvalidRequest, ServerUnavailable, VideoNotArchived, Violation
from kling_flows.ledger import ArtifactRecord, Ledger, VideoTask
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1.video_task_service_pb2 import DownloadVideoRequest, DownloadVideoResponse

if TYPE_CHECKING:
    from kling_flows.archive.reading import ArchiveReader

#: Bytes of the file in one message.
CHUNK_BYTES: Final = 256 * 1024

Write = Callable[[DownloadVideoResponse], Awaitable[None]]

log = structlog.get_logger(__name__)


class OffsetBehindEnd(InvalidRequest):
    """The offset lies behind the end of the file."""

    grpc_code = "OUT_OF_RANGE"


class Downloads:
    """Streams files of one archive.

    Args:
        ledger: Knows the files.
        hub: Says when the front drains.
        archive_address: As `Settings.archive_address` has it; opened by the first download, which alone needs it.
        archive_config: As `Settings.archive_config` has it.
    """

    def __init__(
        self, ledger: Ledger, hub: Hub, archive_address: str, archive_config: Mapping[str, str] | None = None
    ) -> None:
        self._ledger = ledger
        self._hub = hub
        self._archive_address = archive_address
        self._archive_config = archive_config
        self._reader: ArchiveReader | None = None
        self._opening = asyncio.Lock()

    async def run(self, request: DownloadVideoRequest, tenant: str, write: Write) -> None:
        """Stream the file through ``write``, from the offset to its end.

        ``write`` may take as long as it likes: meanwhile nothing is read, and what is held is one block.

        Raises:
            InvalidRequest: with all violations.
            VideoTaskNotFound: there is no such task.
            VideoNotArchived: it has no such file, or not yet.
            OffsetBehindEnd: the file is shorter.
            ArchiveError: the storage cannot be read.
            ServerUnavailable: the server drains.
        """
        task_id, kind = _read_request(request, tenant)
        record = _find(await self._ledger.get(task_id, tenant=tenant), kind)
        size = record.size_bytes
        if request.offset > size:
            raise OffsetBehindEnd([Violation("offset", "OUT_OF_RANGE", f"the file has {size} bytes")])
        if request.offset == size:
            await write(DownloadVideoResponse(artifact=artifact_message(record), offset=size))
            return
        reader = await self._open()
        offset = request.offset
        facts: pb.Artifact | None = artifact_message(record)
        async with aclosing(reader.read(record.uri, offset, size)) as blocks:
            async for block in blocks:
                for start in range(0, len(block), CHUNK_BYTES):
                    self._check_draining(offset)
                    chunk = block[start : start + CHUNK_BYTES]
                    await write(DownloadVideoResponse(artifact=facts, offset=offset, data=chunk))
                    offset += len(chunk)
                    facts = None

    async def _open(self) -> ArchiveReader:
        async with self._opening:
            if self._reader is None:
                self._reader = await asyncio.to_thread(_open_archive, self._archive_address, self._archive_config)
            return self._reader

    def _check_draining(self, offset: int) -> None:
        if self._hub.draining:
            raise ServerUnavailable(
                f"the server is draining; download again with offset {offset}", metadata={"offset": str(offset)}
            )


def _open_archive(address: str, config: Mapping[str, str] | None) -> ArchiveReader:
    # The storage library takes longer to import than all of a front that nobody asks for files.
    from kling_flows.archive.reading import ArchiveReader

    try:
        return ArchiveReader.open(address, config)
    except ArchiveError as error:
        log.error("cannot open the archive", archive=address, cause=repr(error.__cause__))
        raise


def _read_request(request: DownloadVideoRequest, tenant: str) -> tuple[str, str]:
    """The ledger's id of the task and the kind of file."""
    violations: list[Violation] = []
    task_id = parse_name(request.name, "name", tenant)
    if isinstance(task_id, Violation):
        violations.append(task_id)
    kind = request.kind or pb.Artifact.VIDEO
    if kind not in pb.Artifact.Kind.values():
        violations.append(Violation("kind", "WRONG_WORD", f"{kind} is not a kind; use VIDEO or WATERMARKED_VIDEO"))
    if request.offset < 0:
        violations.append(Violation("offset", "OUT_OF_RANGE", "cannot be negative; 0 is the beginning"))
    if violations or isinstance(task_id, Violation):
        raise InvalidRequest(violations)
    return task_id, pb.Artifact.Kind.Name(kind)


def _find(task: VideoTask, kind: str) -> ArtifactRecord:
    for record in task.artifacts:
        if record.kind == kind:
            return record
    if task.state.final and not task.video_pending:
        remedy = "it is final: there will be none" if not task.artifacts else "it has others"
    else:
        remedy = "watch it, and download once it is there"
    raise VideoNotArchived(
        f"{name_of(task.id)} is {task.state} and has no {kind} in the archive; {remedy}",
        metadata={"video_task": task.id, "kind": kind, "state": task.state.value},
    )
