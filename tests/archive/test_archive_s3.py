"""The archive in a bucket: a real S3 server, and a client of it that is not ours to look at what is there."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import pytest

from kling_flows.archive import StoredVideo, VideoArchive
from kling_flows.archive.reading import BLOCK_BYTES
from kling_flows.cli.doctor.finding import Level
from kling_flows.cli.doctor.storage import check_archive
from kling_flows.errors import ArchiveError
from kling_flows.ledger import ArtifactRecord, State
from kling_flows.settings import Settings
from kling_flows.v1.video_task_service_pb2 import DownloadVideoRequest
from tests.front.conftest import rig  # noqa: F401 - a fixture
from tests.front.rig import Rig, new_record
from tests.stack import until

from .conftest import HERE
from .s3_server import BUCKET, S3, s3_server
from .source import CLIP, Reply, cut_after, serves, serving, stalls_after, video

pytestmark = pytest.mark.xdist_group("s3")

ADDRESS = f"s3://{BUCKET}/ads"
CREATED = datetime(2026, 3, 31, 23, 59, tzinfo=UTC)
FACTS = {"upstream": {"task_id": "850"}}
VIDEO, MANIFEST = "ads/2026/03/vt-1.mp4", "ads/2026/03/vt-1.json"

#: More than two parts of an upload, and more than two blocks of a download.
LONG = video(12 << 20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(autouse=True)
def unencrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As deployments/compose has it: the store of a private network."""
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")


@pytest.fixture
def s3(server: S3) -> Iterator[S3]:
    """With an empty bucket."""
    yield server
    server.empty()


@pytest.fixture
async def bucket(s3: S3) -> AsyncIterator[VideoArchive]:
    archive = VideoArchive.open(ADDRESS, policy=HERE, config=s3.options())
    yield archive
    await archive.close()


async def _store(archive: VideoArchive, *replies: Reply) -> StoredVideo:
    async with serving(*replies) as source:
        return await archive.store("vt-1", CREATED, archive.download(source.url), FACTS)


@pytest.mark.parametrize("body", [CLIP, LONG], ids=["in one part", "in several parts"])
async def test_what_was_stored_is_there_with_its_manifest(bucket: VideoArchive, s3: S3, body: bytes) -> None:
    stored = await _store(bucket, serves(body))
    assert await bucket.find("vt-1", CREATED, FACTS) == stored
    assert (stored.uri, stored.manifest_uri) == (f"s3://{BUCKET}/{VIDEO}", f"s3://{BUCKET}/{MANIFEST}")
    assert (stored.size_bytes, stored.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert s3.read(VIDEO) == body
    manifest = json.loads(s3.read(MANIFEST))
    assert (manifest["file"]["sha256"], manifest["upstream"]) == (stored.sha256, FACTS["upstream"])
    assert sorted(s3.objects()) == [MANIFEST, VIDEO]
    assert s3.uploads() == []


async def test_a_download_that_is_cut_goes_on_into_the_same_upload(bucket: VideoArchive, s3: S3) -> None:
    stored = await _store(bucket, cut_after(7 << 20, LONG), serves(LONG))
    assert stored.sha256 == hashlib.sha256(s3.read(VIDEO)).hexdigest() == hashlib.sha256(LONG).hexdigest()


async def test_a_video_that_does_not_come_whole_is_seen_by_nobody_and_leaves_no_parts(
    bucket: VideoArchive, s3: S3
) -> None:
    with pytest.raises(ArchiveError, match="was cut"):
        await _store(bucket, cut_after(11 << 20, LONG), cut_after(1000, LONG))
    assert s3.objects() == {}
    assert s3.uploads() == []
    assert await bucket.find("vt-1", CREATED, FACTS) is None


async def test_a_cancelled_store_is_seen_by_nobody_and_leaves_no_parts(bucket: VideoArchive, s3: S3) -> None:
    async with serving(stalls_after(11 << 20, LONG)) as source:
        storing = asyncio.create_task(bucket.store("vt-1", CREATED, bucket.download(source.url), FACTS))
        await source.stalled.wait()
        storing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await storing
    assert s3.objects() == {}
    assert s3.uploads() == []


_STORES = """
import asyncio, json, sys
from datetime import UTC, datetime
from kling_flows.archive import VideoArchive
from kling_flows.outbound import policy_for

async def main():
    archive = VideoArchive.open(sys.argv[1], policy=policy_for("http://127.0.0.1"), config=json.loads(sys.stdin.read()))
    await archive.store("vt-1", datetime(2026, 3, 31, tzinfo=UTC), archive.download(sys.argv[2]), {})

asyncio.run(main())
"""


async def test_after_a_process_was_killed_in_its_upload_the_video_is_stored_whole(bucket: VideoArchive, s3: S3) -> None:
    async with serving(stalls_after(11 << 20, LONG)) as source:
        child = subprocess.Popen([sys.executable, "-c", _STORES, ADDRESS, source.url], stdin=subprocess.PIPE)
        try:
            assert child.stdin is not None
            child.stdin.write(json.dumps(s3.options()).encode())
            child.stdin.close()
            async with asyncio.timeout(60):
                await source.stalled.wait()
            await asyncio.to_thread(until, s3.uploads, "the upload has begun")
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
    assert s3.objects() == {}
    # Nobody is left who could abort it: that is what the bucket's own rule is for, see docs/how-to/archive.md.
    assert s3.uploads() == [VIDEO]
    assert await bucket.find("vt-1", CREATED, FACTS) is None
    stored = await _store(bucket, serves(LONG))
    assert await bucket.find("vt-1", CREATED, FACTS) == stored
    assert s3.read(VIDEO) == LONG


async def test_a_second_store_replaces_the_first_and_a_removal_leaves_nothing(bucket: VideoArchive, s3: S3) -> None:
    await _store(bucket, serves(LONG))
    stored = await _store(bucket, serves(CLIP))
    assert await bucket.find("vt-1", CREATED, FACTS) == stored
    assert s3.objects()[VIDEO] == len(CLIP)
    for _ in range(2):
        await bucket.remove("vt-1", CREATED)
        assert s3.objects() == {}


async def test_callers_read_it_through_a_front_from_any_offset(
    bucket: VideoArchive,
    s3: S3,
    rig: Rig,  # noqa: F811
) -> None:
    stored = await _store(bucket, serves(LONG))
    served = await rig.serve(archive=ADDRESS, archive_options=s3.options())
    artifact = ArtifactRecord(
        kind="VIDEO",
        uri=stored.uri,
        manifest_uri=stored.manifest_uri,
        size_bytes=stored.size_bytes,
        sha256=stored.sha256,
        media_type=stored.media_type,
    )
    ended = {"state": State.SUCCEEDED, "artifacts": (artifact,)}
    await served.ledger.create(new_record("vt-1").model_copy(update=ended))
    for offset in (0, 1, 2 * BLOCK_BYTES - 1, len(LONG) - 1, len(LONG)):
        request = DownloadVideoRequest(name="videoTasks/vt-1", offset=offset)
        pieces = [message async for message in served.stub.DownloadVideo(request)]
        assert b"".join(piece.data for piece in pieces) == LONG[offset:]
        assert pieces[0].artifact.sha256.hex() == stored.sha256


WRONG = {
    "an unknown key": (ADDRESS, {"aws_access_key_id": "AKIANOBODYS"}, "InvalidAccessKeyId"),
    "another secret": (ADDRESS, {"aws_secret_access_key": "wr0ng-s3cret"}, "SignatureDoesNotMatch"),
    "no such bucket": ("s3://nobodys/ads", {}, "NoSuchBucket"),
}


@pytest.mark.parametrize(("address", "changes", "reason"), WRONG.values(), ids=WRONG)
async def test_what_is_set_wrongly_is_named_without_the_secret(
    s3: S3, address: str, changes: dict[str, str], reason: str
) -> None:
    options = s3.options(**changes)
    archive = VideoArchive.open(address, policy=HERE, config=options)
    with pytest.raises(ArchiveError) as caught:
        await _store(archive, serves(CLIP))
    await archive.close()
    assert f"({reason}); correct KLING_FLOWS_ARCHIVE or its credentials" in caught.value.message
    assert "\n" not in caught.value.message
    for secret in (options["aws_access_key_id"], options["aws_secret_access_key"]):
        assert secret not in caught.value.message


async def test_doctor_tries_the_bucket(s3: S3) -> None:
    right = Settings.load(archive=ADDRESS, archive_options=s3.options())
    assert (await check_archive(right)).level is Level.OK
    assert s3.objects() == {}
    wrong = Settings.load(archive=ADDRESS, archive_options=s3.options(aws_secret_access_key="wr0ng-s3cret"))
    found = await check_archive(wrong)
    assert found.level is Level.PROBLEM
    assert "(SignatureDoesNotMatch)" in found.found
