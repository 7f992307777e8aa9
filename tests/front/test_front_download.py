"""DownloadVideo: an archived file as a stream."""

from __future__ import annotations

import asyncio
import hashlib
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from grpc_server.download import CHUNK_BYTES, Downloads
from grpc_server.hub import Hub
from kling_flows.archive.reading import BLOCK_BYTES, ArchiveReader
from kling_flows.errors import ServerUnavailable, VideoNotArchived
from kling_flows.ledger import ArtifactRecord, State, VideoTask
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1 import video_task_service_pb2 as rpc

from .rig import PATIENCE, Rig, Served, new_record, refused

SIZE = 3 * BLOCK_BYTES + 12_345


class Shelf:
    """A front over an archive with one video in it."""

    def __init__(self, served: Served, folder: Path, content: bytes) -> None:
        self.served = served
        self.folder = folder
        self.file = folder / "ab12cd34" / "2026" / "11" / "v-1.mp4"
        self.content = content

    def record(self, **changes: Any) -> ArtifactRecord:
        facts = ArtifactRecord(
            kind="VIDEO",
            uri=self.file.as_uri(),
            manifest_uri=self.file.with_suffix(".json").as_uri(),
            size_bytes=len(self.content),
            sha256=hashlib.sha256(self.content).hexdigest(),
            media_type="video/mp4",
            duration_seconds=5.0,
        )
        return facts.model_copy(update=changes)

    async def put(self, task_id: str = "v-1", *, tenant: str = "default", **changes: Any) -> VideoTask:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_bytes(self.content)
        task = new_record(task_id, tenant=tenant).model_copy(
            update={"state": State.SUCCEEDED, "artifacts": (self.record(**changes),)}
        )
        return await self.served.ledger.create(task)

    def call(self, name: str = "videoTasks/v-1", **fields: Any) -> Any:
        return self.served.stub.DownloadVideo(rpc.DownloadVideoRequest(name=name, **fields))

    async def messages(self, **fields: Any) -> list[rpc.DownloadVideoResponse]:
        async with asyncio.timeout(PATIENCE):
            return [message async for message in self.call(**fields)]


@pytest.fixture
async def shelf(rig: Rig, tmp_path: Path) -> Shelf:
    folder = tmp_path / "the archive"
    folder.mkdir()
    served = await rig.serve(archive=str(folder))
    return Shelf(served, folder, random.Random(1).randbytes(SIZE))


async def test_a_whole_file_comes_in_pieces_with_its_facts_first(shelf: Shelf) -> None:
    await shelf.put()
    messages = await shelf.messages()
    facts = messages[0].artifact
    data = b"".join(message.data for message in messages)

    assert hashlib.sha256(data).digest() == facts.sha256
    assert (facts.size_bytes, facts.media_type, facts.kind) == (SIZE, "video/mp4", pb.Artifact.VIDEO)
    assert not any(message.HasField("artifact") for message in messages[1:])
    assert all(0 < len(message.data) <= CHUNK_BYTES for message in messages)
    assert [message.offset for message in messages] == list(range(0, SIZE, CHUNK_BYTES))


@pytest.mark.parametrize("offset", [1, CHUNK_BYTES, BLOCK_BYTES - 1, BLOCK_BYTES + 7, SIZE - 1])
async def test_a_download_goes_on_where_another_one_broke(shelf: Shelf, offset: int) -> None:
    await shelf.put()
    messages = await shelf.messages(offset=offset)

    assert messages[0].offset == offset
    assert messages[0].artifact.size_bytes == SIZE
    assert b"".join(message.data for message in messages) == shelf.content[offset:]


async def test_the_end_is_an_offset_too(shelf: Shelf) -> None:
    await shelf.put()
    (message,) = await shelf.messages(offset=SIZE)

    assert (message.offset, message.data, message.artifact.size_bytes) == (SIZE, b"", SIZE)


async def test_an_offset_behind_the_end_is_out_of_range(shelf: Shelf) -> None:
    await shelf.put()
    refusal = await refused(shelf.messages(offset=SIZE + 1))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, "INVALID_REQUEST")
    assert refusal.fields == ["offset"]
    assert str(SIZE) in refusal.violations[0].description


async def test_a_bad_request_is_refused_with_every_field(shelf: Shelf) -> None:
    refusal = await refused(shelf.messages(name="v-1", kind=9, offset=-1))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert sorted(refusal.fields) == ["kind", "name", "offset"]


async def test_the_copy_with_the_watermark_is_another_file(shelf: Shelf) -> None:
    await shelf.put(kind="WATERMARKED_VIDEO")
    messages = await shelf.messages(kind=pb.Artifact.WATERMARKED_VIDEO)
    refusal = await refused(shelf.messages())

    assert messages[0].artifact.kind == pb.Artifact.WATERMARKED_VIDEO
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VIDEO_NOT_ARCHIVED")
    assert refusal.info.metadata["kind"] == "VIDEO"


async def test_a_task_without_a_file_says_whether_there_will_be_one(shelf: Shelf) -> None:
    name = (await shelf.served.create()).name
    waiting = await refused(shelf.messages(name=name))
    await shelf.served.move(name, State.FAILED)
    failed = await refused(shelf.messages(name=name))

    for refusal in (waiting, failed):
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VIDEO_NOT_ARCHIVED")
    assert "watch it" in waiting.message
    assert "there will be none" in failed.message


async def test_other_tenants_files_are_as_absent_as_those_that_never_were(shelf: Shelf) -> None:
    await shelf.put("theirs", tenant="other")
    for name in ("videoTasks/theirs", "videoTasks/nobodys"):
        assert (await refused(shelf.messages(name=name))).reason == "VIDEO_TASK_NOT_FOUND"


async def test_only_what_lies_inside_the_archive_is_read(shelf: Shelf, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    base = shelf.folder.as_uri()
    for number, uri in enumerate(
        (
            secret.as_uri(),
            f"{base}/../secret",
            f"{base}/%2e%2e/secret",
            f"{base}/2026/..%2f..%2fsecret",
            f"{base}//etc/passwd",
            f"{base}-other/secret",
            base,
            f"{base}/",
            "s3://bucket/secret",
            str(secret),
            "",
        )
    ):
        await shelf.put(f"v-{number}", uri=uri, size_bytes=6)
        refusal = await refused(shelf.messages(name=f"videoTasks/v-{number}"))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VIDEO_NOT_ARCHIVED")


async def test_a_file_that_was_removed_is_no_longer_archived(shelf: Shelf) -> None:
    await shelf.put()
    shelf.file.unlink()
    refusal = await refused(shelf.messages())

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VIDEO_NOT_ARCHIVED")
    assert str(shelf.folder) not in refusal.message


@pytest.mark.parametrize("length", [0, 10, BLOCK_BYTES, SIZE - 1])
async def test_a_file_that_has_become_shorter_is_an_error_and_never_an_end(shelf: Shelf, length: int) -> None:
    await shelf.put()
    shelf.file.write_bytes(shelf.content[:length])
    refusal = await refused(shelf.messages())

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "ARCHIVE_FAILED")
    assert str(shelf.folder) not in refusal.message


async def test_an_archive_that_is_not_there_yet_is_found_once_it_is(rig: Rig, tmp_path: Path) -> None:
    folder = tmp_path / "late"
    shelf = Shelf(await rig.serve(archive=str(folder)), folder, b"a video")
    task = new_record("v-1").model_copy(update={"artifacts": (shelf.record(),)})
    await shelf.served.ledger.create(task)
    refusal = await refused(shelf.messages())
    shelf.file.parent.mkdir(parents=True)
    shelf.file.write_bytes(shelf.content)

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "ARCHIVE_FAILED")
    assert refusal.retry_seconds == 1
    assert b"".join(message.data for message in await shelf.messages()) == b"a video"


class Reads:
    """Counts the blocks that are read of an archive."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        read = ArchiveReader._read_block

        async def counted(*args: Any) -> bytes:
            self.count += 1
            return await read(*args)

        monkeypatch.setattr(ArchiveReader, "_read_block", counted)


async def test_nothing_is_read_ahead_of_a_reader_that_does_not_read(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shelf.put()
    reads = Reads(monkeypatch)
    taken = asyncio.Event()
    stuck = asyncio.Event()

    async def write(_: rpc.DownloadVideoResponse) -> None:
        taken.set()
        await stuck.wait()

    downloads = Downloads(shelf.served.ledger, Hub(shelf.served.ledger), str(shelf.folder))
    run = asyncio.create_task(downloads.run(rpc.DownloadVideoRequest(name="videoTasks/v-1"), "default", write))
    await asyncio.wait_for(taken.wait(), PATIENCE)
    for _ in range(50):
        await shelf.served.list()
    assert reads.count == 1
    stuck.set()
    await asyncio.wait_for(run, PATIENCE)
    assert reads.count == 4


async def test_a_slow_caller_is_not_given_the_file_to_the_servers_memory_and_a_gone_one_stops_it(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.content = bytes(64 * BLOCK_BYTES)
    await shelf.put()
    reads = Reads(monkeypatch)
    call = shelf.call()
    first = await asyncio.wait_for(call.read(), PATIENCE)
    for _ in range(100):
        await shelf.served.list()
    at_most = reads.count
    call.cancel()
    for _ in range(20):
        await shelf.served.list()

    assert len(first.data) == CHUNK_BYTES
    # What HTTP/2 lets be under way, and no more.
    assert at_most < 32
    assert reads.count <= at_most + 1


async def test_a_drain_ends_a_download_with_where_to_go_on(shelf: Shelf) -> None:
    await shelf.put()
    hub = Hub(shelf.served.ledger)
    received: list[bytes] = []

    async def write(message: rpc.DownloadVideoResponse) -> None:
        received.append(message.data)
        if len(received) == 3:
            hub.drain()

    downloads = Downloads(shelf.served.ledger, hub, str(shelf.folder))
    with pytest.raises(ServerUnavailable) as caught:
        await downloads.run(rpc.DownloadVideoRequest(name="videoTasks/v-1"), "default", write)
    rest = await shelf.messages(offset=int(caught.value.metadata["offset"]))

    assert b"".join((*received, *(message.data for message in rest))) == shelf.content


async def test_several_first_downloads_open_the_archive_once(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    await shelf.put()
    opened: list[str] = []
    real = ArchiveReader.open
    monkeypatch.setattr(ArchiveReader, "open", lambda address, config: opened.append(address) or real(address, config))
    answers = await asyncio.gather(*(shelf.messages() for _ in range(5)))

    assert opened == [str(shelf.folder)]
    assert {b"".join(message.data for message in messages) for messages in answers} == {shelf.content}


async def test_an_address_as_a_url_is_the_same_archive(rig: Rig, shelf: Shelf) -> None:
    await shelf.put()
    other = Shelf(await rig.serve(archive=shelf.folder.as_uri()), shelf.folder, shelf.content)

    assert b"".join(message.data for message in await other.messages()) == shelf.content


async def test_object_storage_is_read_by_its_uri() -> None:
    from obstore.store import MemoryStore

    store = MemoryStore()
    await store.put_async("2026/11/v.mp4", b"0123456789")
    reader = ArchiveReader(store, "s3://bucket/videos/")

    assert [block async for block in reader.read("s3://bucket/videos/2026/11/v.mp4", 4, 10)] == [b"456789"]
    with pytest.raises(VideoNotArchived):
        await anext(reader.read("s3://bucket/videos2/2026/11/v.mp4", 0, 10))


def test_a_front_starts_without_the_storage_library() -> None:
    script = "import sys, grpc_server.server; sys.exit('obstore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
