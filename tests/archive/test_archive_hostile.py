"""Sources that lie, never end or barely move; names, folders and disks that do not want what they are given."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from kling_flows.archive import Download, SourceExpired, StoredVideo, VideoArchive, download, pace
from kling_flows.archive.download import CHUNK_BYTES, download_client
from kling_flows.errors import ArchiveError, ConfigurationError

from .conftest import HERE
from .source import CLIP, ETAG, Headers, Reply, answers, cut_after, serves, serving, unframed, video

CREATED = datetime(2026, 3, 31, 23, 59, tzinfo=UTC)
FACTS = {"upstream": {"task_id": "850"}}
BODY = video(2 << 20)


async def _store(archive: VideoArchive, *replies: Reply) -> StoredVideo:
    async with serving(*replies) as source, asyncio.timeout(30):
        return await archive.store("vt-1", CREATED, archive.download(source.url), FACTS)


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


async def _refused(archive: VideoArchive, folder: Path, *replies: Reply) -> ArchiveError:
    with pytest.raises(ArchiveError) as caught:
        await _store(archive, *replies)
    assert not isinstance(caught.value, SourceExpired)
    assert "secret" not in caught.value.message
    assert _files(folder) == []
    return caught.value


def plain(body: bytes, size: int | None = None, **headers: str) -> Reply:
    """All of it, whatever range was asked for; cut after so many bytes."""

    async def reply(_: Headers, writer: asyncio.StreamWriter) -> None:
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
        writer.write(f"HTTP/1.1 200 X\r\nContent-Length: {len(body)}\r\n{''.join(lines)}\r\n".encode() + body[:size])
        await writer.drain()
        if size is not None:
            writer.close()
            raise ConnectionResetError

    return reply


# ------------------------------------------------------------------------------------------------------ where it goes


async def test_an_archive_fetches_nothing_from_this_machine_unless_it_is_told_to(folder: Path) -> None:
    archive = VideoArchive.open(str(folder))
    async with serving(serves(CLIP)) as source:
        with pytest.raises(ArchiveError, match="is not fetched") as caught:
            await archive.store("vt-1", CREATED, archive.download(source.url), FACTS)
        assert source.requests == []
        for _ in range(2):
            await archive.store("vt-1", CREATED, archive.download(source.url, HERE), FACTS)
        with pytest.raises(ArchiveError, match="is not fetched"):
            await archive.store("vt-1", CREATED, archive.download(source.url), FACTS)
        assert len(source.requests) == 2
    assert "secret" not in caught.value.message
    assert caught.value.metadata == {"host": "127.0.0.1"}
    await archive.close()


async def test_a_redirect_into_a_private_network_is_an_archive_error(archive: VideoArchive, folder: Path) -> None:
    error = await _refused(archive, folder, answers(302, Location="http://169.254.169.254/latest?token=secret"))
    assert "169.254.169.254" in error.message


# -------------------------------------------------------------------------------------------------------- after a cut


class _Meter:
    """Counts what a reply sends."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._writer: Any = None
        self.sent = 0

    async def __call__(self, headers: Headers, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        await self._reply(headers, self)  # type: ignore[arg-type]

    def write(self, data: bytes) -> None:
        self.sent += len(data.partition(b"\r\n\r\n")[2])
        self._writer.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)


async def test_a_cut_at_nine_tenths_costs_the_last_tenth_and_at_most_one_chunk(archive: VideoArchive) -> None:
    body = video(10 << 20)
    first, second = _Meter(cut_after(9 << 20, body)), _Meter(serves(body))
    stored = await _store(archive, first, second)
    assert stored.sha256 == hashlib.sha256(body).hexdigest()
    assert first.sent == 9 << 20
    assert second.sent <= len(body) - (9 << 20) + CHUNK_BYTES


async def test_a_server_that_cannot_resume_sends_it_again_and_is_compared(archive: VideoArchive) -> None:
    stored = await _store(archive, cut_after(1 << 20, BODY), plain(BODY, 600_000), plain(BODY, 1_900_000), plain(BODY))
    assert (stored.size_bytes, stored.sha256) == (len(BODY), hashlib.sha256(BODY).hexdigest())
    assert _path(stored.uri).read_bytes() == BODY


async def test_another_video_that_is_sent_instead_is_not_patched_on(archive: VideoArchive, folder: Path) -> None:
    other = BODY[:1000] + b"x" + BODY[1001:]
    assert "changed" in (await _refused(archive, folder, cut_after(1 << 20, BODY), plain(other))).message


async def test_less_than_there_was_before_the_cut_is_not_taken_for_the_rest(
    archive: VideoArchive, folder: Path
) -> None:
    without_length = unframed(BODY[:1000])
    assert "changed" in (await _refused(archive, folder, cut_after(1 << 20, BODY), without_length)).message


def _part(content_range: str | None, *, status: int = 206, length: int | None = None, **headers: str) -> Reply:
    """The rest, under a description of the test's."""

    async def reply(request: Headers, writer: asyncio.StreamWriter) -> None:
        first = int(request.get("range", "bytes=0-")[6:-1])
        body = BODY[first:][:length]
        described = {} if content_range is None else {"Content_Range": content_range.format(first=first, last=LAST)}
        await answers(status, body, **{"ETag": ETAG, **described, **headers})(request, writer)

    return reply


LAST = len(BODY) - 1
LIES = {
    "no range": _part(None),
    "an empty range": _part(""),
    "a range of something else": _part("items {first}-{last}/" + str(len(BODY))),
    "not a number": _part("bytes {first}-x/" + str(len(BODY))),
    "a number without end": _part("bytes {first}-" + "9" * 5000 + "/" + "9" * 5000),
    "from the beginning": _part(f"bytes 0-{LAST}/{len(BODY)}"),
    "one byte too far": _part(f"bytes 786433-{LAST}/{len(BODY)}"),
    "another total": _part("bytes {first}-{last}/" + str(len(BODY) + 5)),
    "less than the rest": _part("bytes {first}-" + str(LAST - 10) + f"/{len(BODY)}", length=-10),
    "a length that is not the range's": _part("bytes {first}-{last}/" + str(len(BODY)), length=-10),
    "several parts": _part(None, Content_Type="multipart/byteranges; boundary=x"),
    "another version": _part("bytes {first}-{last}/" + str(len(BODY)), ETag='"other"'),
    "unsatisfiable": answers(416),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_a_part_that_is_not_the_one_that_was_asked_for_is_refused(
    archive: VideoArchive, folder: Path, lie: Reply
) -> None:
    await _refused(archive, folder, cut_after(1 << 20, BODY), lie)


async def test_a_part_that_nobody_asked_for_is_taken_only_if_it_is_everything(
    archive: VideoArchive, folder: Path
) -> None:
    await _refused(archive, folder, _part(f"bytes 100-{LAST}/{len(BODY)}"))
    assert (await _store(archive, _part(f"bytes 0-{LAST}/{len(BODY)}"))).size_bytes == len(BODY)


async def test_a_part_of_a_whole_of_unknown_length_is_understood(archive: VideoArchive) -> None:
    stored = await _store(archive, cut_after(1 << 20, BODY), _part("bytes {first}-{last}/*"))
    assert stored.sha256 == hashlib.sha256(BODY).hexdigest()


# ----------------------------------------------------------------------------------------- bodies and headers that lie


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "deflate, gzip", "zstd"])
async def test_a_compressed_answer_is_refused_before_it_is_unpacked(
    archive: VideoArchive, folder: Path, encoding: str
) -> None:
    packed = gzip.compress(bytes(1 << 24))
    assert "compressed" in (await _refused(archive, folder, plain(packed, Content_Encoding=encoding))).message


async def test_identity_is_not_an_encoding(archive: VideoArchive) -> None:
    assert (await _store(archive, plain(CLIP, Content_Encoding="identity"))).size_bytes == len(CLIP)


async def _pour(head: bytes, piece: bytes, pause: float = 0) -> AsyncIterator[bytes]:
    yield head
    while True:
        await asyncio.sleep(pause)
        yield piece


def pours(head: bytes, piece: bytes, pause: float = 0) -> Reply:
    """Never ends."""

    async def reply(_: Headers, writer: asyncio.StreamWriter) -> None:
        async for data in _pour(head, piece, pause):
            writer.write(data)
            await writer.drain()

    return reply


HEAD = b"HTTP/1.1 200 X\r\n\r\n"


async def test_a_video_that_never_ends_is_given_up(archive: VideoArchive, folder: Path) -> None:
    beginning = BODY[: len(BODY) // 2]
    http = download_client(HERE)
    async with serving(pours(HEAD + beginning, bytes(1 << 16))) as source, http:
        with pytest.raises(ArchiveError, match="more than 4194304 bytes"):
            await archive.store("vt-1", CREATED, Download(http, source.url, max_bytes=4 << 20), FACTS)
    assert _files(folder) == []


async def test_a_video_that_says_that_it_is_enormous_is_not_begun(archive: VideoArchive, folder: Path) -> None:
    enormous = b"HTTP/1.1 200 X\r\nContent-Length: 8589934593\r\n\r\n"
    assert "8589934592" in (await _refused(archive, folder, pours(enormous + CLIP, b"", 0.1))).message


async def test_a_source_that_only_just_stays_awake_is_cut_and_resumed(
    archive: VideoArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "WINDOW_SECONDS", 0.2)
    drip = pours(f"HTTP/1.1 200 X\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY[: 1 << 20], b"x", 0.01)
    stored = await _store(archive, drip, serves(BODY))
    assert stored.sha256 == hashlib.sha256(BODY).hexdigest()


async def test_a_source_that_never_does_more_than_drip_is_given_up(
    archive: VideoArchive, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "WINDOW_SECONDS", 0.05)
    assert "cut 6 times" in (await _refused(archive, folder, pours(HEAD, b"x", 0.005))).message


@pytest.mark.parametrize(
    "drip",
    [
        pours(b"HTTP/1.1 200 X\r\n", b"A: b\r\n", 0.005),
        pours(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.001),
        pours(b"HTTP/1.1 200 X\r\nX: ", b"a", 0.005),
    ],
    ids=["headers", "early hints", "one header"],
)
async def test_headers_that_never_end_are_not_waited_for(
    archive: VideoArchive, folder: Path, monkeypatch: pytest.MonkeyPatch, drip: Reply
) -> None:
    monkeypatch.setattr(download, "_ANSWER_SECONDS", 0.1)
    await _refused(archive, folder, drip)


GARBAGE = {
    "giant headers": pours(b"HTTP/1.1 200 X\r\n", b"X: " + b"a" * 65536 + b"\r\n"),
    "HTTP/0.9": pours(CLIP, b""),
    "two lengths": pours(b"HTTP/1.1 200 X\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", b"x"),
    "a length that is none": pours(b"HTTP/1.1 200 X\r\nContent-Length: -5\r\n\r\n", b"x"),
    "a broken chunk": pours(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"x"),
    "a chunk of a size without end": pours(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n", b"f" * 65536),
    "a shorter length than the body": plain(CLIP[:-100]),
    "a page that says it is fine": plain(b"<!doctype html><title>Busy</title>" * 100, Content_Type="text/html"),
    "a page of no type": plain(b"<!doctype html><title>Busy</title>" * 100),
}


@pytest.mark.parametrize("reply", GARBAGE.values(), ids=GARBAGE)
async def test_what_is_not_an_answer_is_refused(archive: VideoArchive, folder: Path, reply: Reply) -> None:
    await _refused(archive, folder, reply)


# -------------------------------------------------------------------------------------------------- names and folders


HOSTILE_NAMES = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "a/b",
    "/etc/passwd",
    "a\\..\\b",
    "a\0b",
    "a\n",
    "a.mp4",
    "a%2f..",
    "~",
    "-a",
    "é",
    "a b",
    "a#1",
    "x" * 129,
]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
async def test_a_name_that_could_lead_elsewhere_is_refused(archive: VideoArchive, folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="does not name"):
        await archive.store(name, CREATED, archive.download("http://127.0.0.1:9/"), FACTS)
    with pytest.raises(ValueError, match="does not name"):
        await archive.find(name, CREATED, FACTS)
    if name:
        with pytest.raises(ValueError, match="does not name"):
            VideoArchive.open(str(folder), namespace=name)
    assert list(folder.iterdir()) == []
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


async def test_a_time_at_the_edge_of_the_calendar_stays_in_the_archive(archive: VideoArchive, folder: Path) -> None:
    async with serving(serves(CLIP)) as source:
        for created in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)):
            await archive.store("vt-1", created, archive.download(source.url), FACTS)
    assert [name for name in _files(folder) if name.endswith("mp4")] == ["0001/01/vt-1.mp4", "9999/12/vt-1.mp4"]


async def test_ledgers_that_share_an_archive_do_not_meet(folder: Path) -> None:
    one, two = (VideoArchive.open(str(folder), policy=HERE, namespace=name) for name in ("1a2b", "3c4d"))
    async with serving(serves(CLIP), serves(BODY)) as source:
        first = await one.store("vt-1", CREATED, one.download(source.url), FACTS)
        assert await two.find("vt-1", CREATED, FACTS) is None
        second = await two.store("vt-1", CREATED, two.download(source.url), FACTS)
    assert (await one.find("vt-1", CREATED, FACTS), await two.find("vt-1", CREATED, FACTS)) == (first, second)
    assert (first.size_bytes, second.size_bytes) == (len(CLIP), len(BODY))
    assert _path(first.uri) == folder / "1a2b/2026/03/vt-1.mp4"
    assert _path(second.manifest_uri) == folder / "3c4d/2026/03/vt-1.json"
    await one.close()
    await two.close()


async def test_a_folder_given_as_a_url_is_decoded_and_one_given_as_it_is_is_not(tmp_path: Path) -> None:
    await VideoArchive.open(f"{tmp_path.as_uri()}/my%20videos%23%3F").close()
    await VideoArchive.open(f"file://localhost{tmp_path}/here").close()
    await VideoArchive.open(f"{tmp_path}/100%25").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["100%25", "here", "my videos#?"]


@pytest.mark.parametrize("address", ["file://videos/here", "file:///tmp/videos?x=1", "file:///tmp/videos#x", "file://"])
async def test_a_file_url_that_names_no_folder_here_is_a_matter_of_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        VideoArchive.open(address)
    assert caught.value.setting == "KLING_FLOWS_ARCHIVE"
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------- full disks


@contextmanager
def _room(limit: int) -> Iterator[None]:
    """No file can be longer, as on a disk or under a quota with so much room; needs no rights and no disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 1 << 20, 11 << 20], ids=["none", "less than a part", "some parts"])
async def test_a_full_disk_says_so_and_shows_no_half_of_a_video(archive: VideoArchive, folder: Path, room: int) -> None:
    body = video(14 << 20)
    with _room(room):
        error = await _refused(archive, folder, serves(body))
    assert "archive is full" in error.message
    assert "make room" in error.message
    assert await archive.find("vt-1", CREATED, FACTS) is None
    stored = await _store(archive, serves(body))
    assert await archive.find("vt-1", CREATED, FACTS) == stored


async def test_a_disk_that_has_no_room_for_the_manifest_shows_no_finished_video(
    archive: VideoArchive, folder: Path
) -> None:
    facts = {**FACTS, "labels": {"long": "x" * 200_000}}
    async with serving(serves(CLIP)) as source:
        with _room(100_000), pytest.raises(ArchiveError, match="archive is full"):
            await archive.store("vt-1", CREATED, archive.download(source.url), facts)
        assert _files(folder) == ["2026/03/vt-1.mp4"]
        assert await archive.find("vt-1", CREATED, facts) is None
        stored = await archive.store("vt-1", CREATED, archive.download(source.url), facts)
    assert await archive.find("vt-1", CREATED, facts) == stored
