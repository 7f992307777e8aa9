from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from kling_flows.archive import SourceExpired, StoredVideo, VideoArchive
from kling_flows.archive.download import CHUNK_BYTES
from kling_flows.errors import ArchiveError, ConfigurationError

from .conftest import HERE
from .source import CLIP, ETAG, Reply, answers, box, cut_after, serves, serving, stalls_after, unframed, video

CREATED = datetime(2026, 3, 31, 23, 59, tzinfo=UTC)
FACTS = {"upstream": {"task_id": "850"}}


async def _store(archive: VideoArchive, *replies: Reply) -> StoredVideo:
    async with serving(*replies) as source:
        return await archive.store("vt-1", CREATED, archive.download(source.url), FACTS)


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


async def test_what_was_stored_is_found(archive: VideoArchive, folder: Path) -> None:
    stored = await _store(archive, serves(CLIP))
    assert await archive.find("vt-1", CREATED, FACTS) == stored
    assert (stored.size_bytes, stored.sha256) == (len(CLIP), hashlib.sha256(CLIP).hexdigest())
    assert stored.media_type == "video/mp4"
    assert _path(stored.uri).read_bytes() == CLIP
    assert _files(folder) == ["2026/03/vt-1.json", "2026/03/vt-1.mp4"]


async def test_the_manifest_says_what_the_file_is(archive: VideoArchive) -> None:
    stored = await _store(archive, serves(CLIP))
    assert json.loads(_path(stored.manifest_uri).read_text()) == {
        "schema": 1,
        "file": {
            "uri": stored.uri,
            "manifest_uri": stored.manifest_uri,
            "size_bytes": len(CLIP),
            "sha256": stored.sha256,
            "media_type": "video/mp4",
        },
        **FACTS,
    }


async def test_nothing_of_the_source_s_address_is_kept(archive: VideoArchive) -> None:
    stored = await _store(archive, serves(CLIP))
    assert "secret" not in _path(stored.manifest_uri).read_text()


async def test_a_large_video_is_streamed_and_whole(archive: VideoArchive) -> None:
    body = video(14 << 20)
    stored = await _store(archive, serves(body))
    assert (stored.size_bytes, stored.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert hashlib.sha256(_path(stored.uri).read_bytes()).hexdigest() == stored.sha256


async def test_a_second_store_replaces_the_first(archive: VideoArchive, folder: Path) -> None:
    await _store(archive, serves(CLIP))
    other = video(1 << 16)
    stored = await _store(archive, serves(other))
    assert _path(stored.uri).read_bytes() == other
    assert await archive.find("vt-1", CREATED, FACTS) == stored
    assert len(_files(folder)) == 2


BAD = {
    "half of it, as if it were whole": serves(CLIP[: len(CLIP) // 2]),
    "its last byte is missing": serves(CLIP[:-1]),
    "half of it, without a length": unframed(CLIP[: len(CLIP) // 2]),
    "its first box only": serves(CLIP[:32]),
    "more promised than sent": serves(CLIP, Content_Length=str(len(CLIP) + 1024)),
    "a web page": answers(200, b"<html>" * 100, Content_Type="text/html; charset=utf-8"),
    "a web page that calls itself a video": answers(200, b"<html>" * 100, Content_Type="video/mp4"),
    "JSON": answers(200, b'{"code": 5000}', Content_Type="application/json"),
    "another kind of file": answers(200, b"RIFF" + bytes(1000), Content_Type="video/mp4"),
    "nothing": answers(200),
    "a box without the video": serves(box("ftyp", b"isom" * 4) + box("moov", bytes(100))),
    "a busy server": answers(503),
    "too many requests": answers(429),
    "redirects without end": answers(302, Location="/again"),
    "a redirect to nowhere": answers(302, Location="http://[::1"),
    "always cut": cut_after(1000, CLIP),
}


@pytest.mark.parametrize("reply", BAD.values(), ids=BAD)
async def test_what_is_not_the_whole_video_is_refused_and_leaves_nothing(
    archive: VideoArchive, folder: Path, reply: Reply
) -> None:
    with pytest.raises(ArchiveError) as caught:
        # More is promised than comes, so that the connection has to be cut for the difference to be seen.
        async with asyncio.timeout(60):
            await _store(archive, _then_closes(reply))
    assert not isinstance(caught.value, SourceExpired)
    assert "secret" not in caught.value.message
    assert _files(folder) == []
    assert await archive.find("vt-1", CREATED, FACTS) is None


def _then_closes(reply: Reply) -> Reply:
    async def closing(headers: object, writer: asyncio.StreamWriter) -> None:
        await reply(headers, writer)  # type: ignore[arg-type]
        writer.close()

    return closing


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_an_address_that_has_expired_is_told_apart(archive: VideoArchive, folder: Path, status: int) -> None:
    with pytest.raises(SourceExpired):
        await _store(archive, answers(status, b"<html>", Content_Type="text/html"))
    assert _files(folder) == []


async def test_a_source_that_is_not_there_is_an_archive_error(archive: VideoArchive, folder: Path) -> None:
    async with serving(serves(CLIP)) as source:
        url = source.url
    with pytest.raises(ArchiveError):
        await archive.store("vt-1", CREATED, archive.download(url), FACTS)
    assert _files(folder) == []


async def test_a_cut_download_goes_on_where_it_was(archive: VideoArchive) -> None:
    body = video(3 << 20)
    async with serving(cut_after(2 << 20, body), cut_after(1 << 19, body), serves(body)) as source:
        stored = await archive.store("vt-1", CREATED, archive.download(source.url), FACTS)
    assert (stored.size_bytes, stored.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert _path(stored.uri).read_bytes() == body
    starts = [int(request.get("range", "bytes=0-")[6:-1]) for request in source.requests]
    assert len(starts) == 3
    assert starts[0] == 0
    assert (1 << 20) < starts[1] <= (2 << 20)
    assert starts[1] < starts[2] <= starts[1] + (1 << 19)
    assert all(start % CHUNK_BYTES == 0 for start in starts)
    assert [request.get("if-range") for request in source.requests] == [None, ETAG, ETAG]


async def test_a_video_that_changes_after_a_cut_is_not_patched_together(archive: VideoArchive, folder: Path) -> None:
    body = video(1 << 20)
    with pytest.raises(ArchiveError):
        await _store(archive, cut_after(1 << 19, body), answers(200, body[::-1], Content_Type="video/mp4"))
    with pytest.raises(ArchiveError):
        await _store(archive, cut_after(1 << 19, body), serves(video(2 << 20)))
    assert _files(folder) == []


async def test_trailing_bytes_do_not_cost_a_paid_video(archive: VideoArchive) -> None:
    for rest in (b"\0\0\0", b"\0" * 64, b"junk" * 16, b"\0\0\0\1uuid"):
        assert (await _store(archive, serves(CLIP + rest))).size_bytes == len(CLIP + rest)


@pytest.mark.parametrize("header", ["long", "to the end"])
async def test_every_way_to_give_a_box_its_length_is_understood(archive: VideoArchive, header: str) -> None:
    data = bytes(70_000)
    head = box("ftyp", b"isom" * 4) + box("moov", bytes(100))
    if header == "long":
        body = head + (1).to_bytes(4, "big") + b"mdat" + (16 + len(data)).to_bytes(8, "big") + data
        with pytest.raises(ArchiveError):
            await _store(archive, serves(body[:-1]))
    else:
        body = head + (0).to_bytes(4, "big") + b"mdat" + data
    assert (await _store(archive, serves(body))).size_bytes == len(body)


@pytest.mark.parametrize("place", ["file", "file/below", "file://{}/file/below"])
async def test_a_place_that_cannot_be_written_is_a_matter_of_configuration(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    address = place.format(tmp_path) if "{}" in place else str(tmp_path / place)
    with pytest.raises(ConfigurationError) as caught:
        VideoArchive.open(address)
    assert caught.value.setting == "KLING_FLOWS_ARCHIVE"
    assert address in caught.value.message


@pytest.mark.parametrize("address", ["ftp://host/x", "nonsense://", "://"])
async def test_an_address_that_nobody_understands_is_a_matter_of_configuration(address: str) -> None:
    with pytest.raises(ConfigurationError):
        VideoArchive.open(address)


@pytest.mark.parametrize("option", ["aws_allow_http", "allow_http", "no_such_option"])
async def test_an_option_that_the_storage_does_not_take_is_a_matter_of_configuration(option: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        VideoArchive.open("s3://bucket/prefix", config={option: "hidden-value"})
    assert caught.value.setting == "KLING_FLOWS_ARCHIVE"
    assert option in caught.value.message
    assert "hidden-value" not in caught.value.message


async def test_opening_leaves_nothing_behind(archive: VideoArchive, folder: Path) -> None:
    assert list(folder.iterdir()) == []


async def test_a_folder_may_be_given_as_a_url(tmp_path: Path) -> None:
    archive = VideoArchive.open(f"file://{tmp_path}/videos", policy=HERE)
    stored = await _store(archive, serves(CLIP))
    assert _path(stored.uri) == tmp_path / "videos/2026/03/vt-1.mp4"
    await archive.close()


@contextmanager
def _full_disk(limit: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_is_an_archive_error_and_leaves_nothing(archive: VideoArchive, folder: Path) -> None:
    with _full_disk(20_000), pytest.raises(ArchiveError, match="archive is full"):
        await _store(archive, serves(CLIP))
    assert _files(folder) == []
    assert (await _store(archive, serves(CLIP))).size_bytes == len(CLIP)


async def test_a_folder_in_the_way_is_an_archive_error(archive: VideoArchive, folder: Path) -> None:
    (folder / "2026").write_text("in the way")
    with pytest.raises(ArchiveError):
        await _store(archive, serves(CLIP))
    assert _files(folder) == ["2026"]


@pytest.mark.parametrize("sent", [0, 1000, 1 << 20], ids=["before the first byte", "in the first chunk", "later"])
async def test_a_cancelled_store_ends_at_once_and_leaves_nothing(
    archive: VideoArchive, folder: Path, sent: int
) -> None:
    body = video(8 << 20)
    async with serving(stalls_after(sent, body)) as source:
        storing = asyncio.create_task(archive.store("vt-1", CREATED, archive.download(source.url), FACTS))
        await source.stalled.wait()
        began = time.monotonic()
        storing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await storing
        assert time.monotonic() - began < 20
    assert _files(folder) == []


async def test_a_cancelled_store_does_not_wait_for_its_next_try(
    archive: VideoArchive, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kling_flows.archive.download._RESUME_SECONDS", 60.0)
    async with serving(cut_after(1000, CLIP)) as source:
        storing = asyncio.create_task(archive.store("vt-1", CREATED, archive.download(source.url), FACTS))
        while not source.requests:
            await asyncio.sleep(0.01)
        storing.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await storing
    assert _files(folder) == []


async def test_after_a_cancel_it_can_be_stored(archive: VideoArchive) -> None:
    async with serving(stalls_after(1000, CLIP), serves(CLIP)) as source:
        storing = asyncio.create_task(archive.store("vt-1", CREATED, archive.download(source.url), FACTS))
        await source.stalled.wait()
        storing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await storing
        stored = await archive.store("vt-1", CREATED, archive.download(source.url), FACTS)
    assert await archive.find("vt-1", CREATED, FACTS) == stored


async def test_what_is_not_whole_is_not_found(archive: VideoArchive, folder: Path) -> None:
    assert await archive.find("vt-1", CREATED, FACTS) is None
    stored = await _store(archive, serves(CLIP))
    manifest, file = _path(stored.manifest_uri), _path(stored.uri)
    whole = manifest.read_text()
    for broken in ("", "[]", "{}", "null", '{"file": {}}', whole[:-10], whole.replace('"size_bytes"', '"size"')):
        manifest.write_text(broken)
        assert await archive.find("vt-1", CREATED, FACTS) is None
    manifest.write_text(whole)
    file.write_bytes(CLIP[:-1])
    assert await archive.find("vt-1", CREATED, FACTS) is None
    file.unlink()
    assert await archive.find("vt-1", CREATED, FACTS) is None


async def test_another_task_s_video_of_the_same_id_is_not_found(archive: VideoArchive) -> None:
    await _store(archive, serves(CLIP))
    assert await archive.find("vt-1", CREATED, {"upstream": {"task_id": "851"}}) is None


async def test_many_are_stored_at_once(archive: VideoArchive, folder: Path) -> None:
    async with serving(serves(CLIP)) as source:
        stored = await asyncio.gather(
            *(archive.store(f"vt-{n}", CREATED, archive.download(source.url), FACTS) for n in range(20))
        )
    assert len({video.uri for video in stored}) == 20
    assert len(_files(folder)) == 40


async def test_what_a_killed_process_left_of_this_video_is_cleared_away(archive: VideoArchive, folder: Path) -> None:
    (folder / "2026/03").mkdir(parents=True)
    (folder / "2026/03/vt-1.mp4#1").write_bytes(b"half")
    (folder / "2026/03/vt-1.mp4#2").write_bytes(b"half of a second try")
    (folder / "2026/03/vt-2.mp4#1").write_bytes(b"somebody else's half")
    await _store(archive, serves(CLIP))
    assert _files(folder) == ["2026/03/vt-1.json", "2026/03/vt-1.mp4", "2026/03/vt-2.mp4#1"]


async def test_a_video_is_on_the_disk_before_it_counts_as_stored(
    archive: VideoArchive, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr("kling_flows.archive.folder.os.fsync", record)
    await _store(archive, serves(CLIP))
    month = folder / "2026/03"
    assert synced == [str(month / "vt-1.mp4"), str(month / "vt-1.json"), str(month)]
