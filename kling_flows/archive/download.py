"""A video on its way from the provider: streamed, resumed after cuts, and checked before anybody may see it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Final, TypeVar

import httpx

from kling_flows.archive.container import BoxWalk
from kling_flows.errors import ArchiveError

T = TypeVar("T")

#: Bytes that are read at a time; with the storage's own buffers this bounds the memory that a download takes.
CHUNK_BYTES: Final = 256 * 1024

#: How often a cut download is resumed before the step gives up and is repeated later.
_RESUMES: Final = 5

_RESUME_SECONDS: Final = 0.5

#: Longest silence of the source, in seconds.
_SILENCE_SECONDS: Final = 30.0

#: A first box shorter or longer than this is no ISO media file's ``ftyp``.
_FTYP_BYTES: Final = range(8, 4096)


class SourceExpired(ArchiveError):
    """The provider no longer serves this address; a look at the task gives a fresh one."""


class Download:
    """One pass over a source. ``size_bytes`` and ``sha256`` are known when :meth:`chunks` has ended.

    Args:
        client: Follows the source's redirects as it was told to.
        url: The source.
    """

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self._client = client
        self._url = url
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

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, in order; ends only if they are all there and are a video.

        Raises:
            SourceExpired: the source refuses the address.
            ArchiveError: cut too often, wrong length, or not an MP4.
        """
        for attempt in range(_RESUMES + 1):
            try:
                async with aclosing(self._read()) as pieces:
                    while (chunk := await self._unless_aborted(anext(pieces, None))) is not None:
                        if self.size_bytes == 0:
                            _check_container(chunk)
                        self._hash.update(chunk)
                        self._boxes.feed(chunk)
                        self.size_bytes += len(chunk)
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
                # Redirects that lead nowhere, an encoding that nobody asked for.
                raise ArchiveError(
                    f"the video's address cannot be read ({type(error).__name__}); it is tried again later"
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
        async with self._client.stream("GET", self._url, headers=headers) as response:
            self._check_answer(response)
            # Chunks are cut to one size, whatever pieces the network delivers.
            async for chunk in response.aiter_bytes(CHUNK_BYTES):
                yield chunk

    def _check_answer(self, response: httpx.Response) -> None:
        if response.status_code in (401, 403, 404, 410):
            raise SourceExpired(f"the video's address has expired (HTTP {response.status_code})")
        if response.status_code not in (200, 206):
            raise ArchiveError(f"the video's address answers HTTP {response.status_code}; it is tried again later")
        if self.size_bytes and response.status_code != 206:
            raise ArchiveError("the video changed, or its server cannot resume, after a cut; it is fetched again")
        length = response.headers.get("Content-Length")
        if length is not None and length.isdigit():
            total = self.size_bytes + int(length)
            if self._total is not None and total != self._total:
                raise ArchiveError(
                    f"the video's length changed from {self._total} to {total} bytes; it is fetched again"
                )
            self._total = total
        self._etag = response.headers.get("ETag")
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind.startswith("text/") or kind == "application/json":
            raise ArchiveError(f"the video's address answers {kind} instead of a video; it is tried again later")

    def _check_length(self) -> None:
        if self.size_bytes == 0:
            raise ArchiveError("the video's address answers nothing; it is tried again later")
        if self._total is not None and self.size_bytes != self._total:
            raise ArchiveError(f"{self.size_bytes} of {self._total} bytes arrived; it is fetched again")
        if not self._boxes.complete:
            raise ArchiveError(
                f"the {self.size_bytes} bytes that arrived are the beginning of an MP4 only; it is fetched again"
            )


def download_client() -> httpx.AsyncClient:
    """A client with the deadlines that downloads need."""
    return httpx.AsyncClient(
        timeout=httpx.Timeout(_SILENCE_SECONDS, connect=10.0, pool=None),
        follow_redirects=True,
        max_redirects=5,
        limits=httpx.Limits(max_connections=64, max_keepalive_connections=16),
    )


def _check_container(first: bytes) -> None:
    # ISO/IEC 14496-12: an MP4 begins with a box of type ftyp.
    if len(first) < 12 or first[4:8] != b"ftyp" or int.from_bytes(first[:4], "big") not in _FTYP_BYTES:
        raise ArchiveError("what the video's address answers is not an MP4; it is tried again later")
