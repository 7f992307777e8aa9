"""A video on its way from the provider: streamed, resumed after cuts, and checked before anybody may see it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Final, TypeVar

import httpx

from kling_flows.archive.answer import read_answer
from kling_flows.archive.container import BoxWalk
from kling_flows.archive.pace import Pace
from kling_flows.errors import AddressRefused, ArchiveError
from kling_flows.outbound import PUBLIC_ONLY, AddressPolicy
from kling_flows.outbound.client import guarded_client

T = TypeVar("T")

#: Bytes that are read at a time; with the storage's own buffers this bounds the memory that a download takes.
CHUNK_BYTES: Final = 256 * 1024

#: A longer video is none of Kling's: the largest clip seen has 27 MB (fact sheet 5).
MAX_VIDEO_BYTES: Final = 8 * 1024**3

#: How often a cut download is resumed before the step gives up and is repeated later.
_RESUMES: Final = 5

_RESUME_SECONDS: Final = 0.5

#: Longest silence of the source, in seconds.
_SILENCE_SECONDS: Final = 30.0

#: Longest wait for the headers of the answer, redirects included, in seconds.
_ANSWER_SECONDS: Final = 60.0

#: A first box shorter or longer than this is no ISO media file's ``ftyp``.
_FTYP_BYTES: Final = range(8, 4096)


class SourceExpired(ArchiveError):
    """The provider no longer serves this address; a look at the task gives a fresh one."""


class Download:
    """One pass over a source. ``size_bytes`` and ``sha256`` are known when :meth:`chunks` has ended.

    Args:
        client: Follows the source's redirects as it was told to, and goes only where it may.
        url: The source.
        max_bytes: Longest video that is taken.
    """

    def __init__(self, client: httpx.AsyncClient, url: str, *, max_bytes: int = MAX_VIDEO_BYTES) -> None:
        self._client = client
        self._url = url
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._boxes = BoxWalk()
        self._total: int | None = None
        self._etag: str | None = None
        self._aborted = False
        self._waiting: asyncio.Timeout | None = None
        self.size_bytes = 0
        self.media_type = "video/mp4"

    @property
    def sha256(self) -> str:
        """Hex digest of the bytes so far."""
        return self._hash.hexdigest()

    def abort(self) -> None:
        """Let :meth:`chunks` end with an error, also while the source is silent, so that nothing is published."""
        self._aborted = True
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The bytes, in order; ends only if they are all there and are a video.

        Raises:
            SourceExpired: the source refuses the address.
            ArchiveError: cut too often, wrong length, too long, not an MP4, or at an address that is not allowed.
        """
        for attempt in range(_RESUMES + 1):
            try:
                async with aclosing(self._read()) as pieces:
                    while (chunk := await self._unless_aborted(anext(pieces, None))) is not None:
                        self._take(chunk)
                        yield chunk
            except (httpx.TransportError, TimeoutError) as error:
                if attempt == _RESUMES:
                    raise ArchiveError(
                        f"the download was cut {attempt + 1} times, last after {self.size_bytes} of "
                        f"{self._total or 'unknown'} bytes ({type(error).__name__}); it is tried again later"
                    ) from error
                await self._unless_aborted(asyncio.sleep(_RESUME_SECONDS * 2**attempt))
                continue
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                # Redirects that lead nowhere.
                raise ArchiveError(
                    f"the video's address cannot be read ({type(error).__name__}); it is tried again later"
                ) from error
            except AddressRefused as error:
                # The provider may give another address the next time; the video is not given up for this one.
                raise ArchiveError(
                    f"the video's address is not fetched: {error.message}; the provider is asked again later",
                    metadata=error.metadata,
                ) from error
            break
        self._check_length()

    async def _unless_aborted(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(0 if self._aborted else None) as self._waiting:
                result = await work
            if not self._aborted:
                return result
        except TimeoutError:
            if not self._aborted:
                raise
        finally:
            self._waiting = None
        raise ArchiveError("the download was stopped; it starts again with the next run")

    async def _read(self) -> AsyncGenerator[bytes]:
        headers = {"Accept-Encoding": "identity"}
        if self.size_bytes:
            headers["Range"] = f"bytes={self.size_bytes}-"
            if self._etag:
                headers["If-Range"] = self._etag
        request = self._client.build_request("GET", self._url, headers=headers)
        async with asyncio.timeout(_ANSWER_SECONDS):
            response = await self._client.send(request, stream=True)
        async with aclosing(response):
            start = self._check_answer(response)
            # Chunks are cut to one size, whatever pieces the network delivers.
            async with aclosing(_cut(Pace().watched(response.aiter_raw()))) as chunks:
                if start < self.size_bytes:
                    async for chunk in self._behind_what_is_here(chunks):
                        yield chunk
                else:
                    async for chunk in chunks:
                        yield chunk

    async def _behind_what_is_here(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """A server that cannot resume sends all of it again, which has to begin with what is here already."""
        again, left = hashlib.sha256(), self.size_bytes
        async for chunk in chunks:
            if left == 0:
                yield chunk
                continue
            again.update(chunk[:left])
            rest = chunk[left:]
            left -= len(chunk) - len(rest)
            if left == 0 and again.digest() != self._hash.digest():
                raise _changed()
            if rest:
                yield rest
        if left:
            raise _changed()

    def _check_answer(self, response: httpx.Response) -> int:
        if response.status_code in (401, 403, 404, 410):
            raise SourceExpired(f"the video's address has expired (HTTP {response.status_code})")
        answer = read_answer(response, self.size_bytes)
        if self._total is not None and answer.total not in (None, self._total):
            raise ArchiveError(
                f"the video's length changed from {self._total} to {answer.total} bytes; it is fetched again"
            )
        self._total = self._total if answer.total is None else answer.total
        if self._total is not None and self._total > self._max_bytes:
            raise self._too_long()
        if answer.start and self._etag and answer.etag not in (None, self._etag):
            raise _changed()
        self._etag = answer.etag
        return answer.start

    def _take(self, chunk: bytes) -> None:
        if self.size_bytes == 0:
            _check_container(chunk)
        if self.size_bytes + len(chunk) > self._max_bytes:
            raise self._too_long()
        self._hash.update(chunk)
        self._boxes.feed(chunk)
        self.size_bytes += len(chunk)

    def _too_long(self) -> ArchiveError:
        return ArchiveError(f"the video's address gives more than {self._max_bytes} bytes; it is tried again later")

    def _check_length(self) -> None:
        if self.size_bytes == 0:
            raise ArchiveError("the video's address answers nothing; it is tried again later")
        if self._total is not None and self.size_bytes != self._total:
            raise ArchiveError(f"{self.size_bytes} of {self._total} bytes arrived; it is fetched again")
        if not self._boxes.complete:
            raise ArchiveError(
                f"the {self.size_bytes} bytes that arrived are the beginning of an MP4 only; it is fetched again"
            )


def download_client(policy: AddressPolicy = PUBLIC_ONLY) -> httpx.AsyncClient:
    """A client with the deadlines that downloads need, which goes only where the policy allows."""
    return guarded_client(policy, timeout=_SILENCE_SECONDS)


def _changed() -> ArchiveError:
    return ArchiveError("the video changed after a cut; it is fetched again")


async def _cut(pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    buffer = bytearray()
    async with aclosing(pieces):
        async for piece in pieces:
            buffer += piece
            while len(buffer) >= CHUNK_BYTES:
                yield bytes(buffer[:CHUNK_BYTES])
                del buffer[:CHUNK_BYTES]
    if buffer:
        yield bytes(buffer)


def _check_container(first: bytes) -> None:
    # ISO/IEC 14496-12: an MP4 begins with a box of type ftyp.
    if len(first) < 12 or first[4:8] != b"ftyp" or int.from_bytes(first[:4], "big") not in _FTYP_BYTES:
        raise ArchiveError("what the video's address answers is not an MP4; it is tried again later")
