"""The files behind the result URLs."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from kling_flows.errors import ConfigurationError
from kling_flows.sandbox.clips import ClipSpec
from kling_flows.sandbox.settings import SandboxSettings, VideoSource

#: The clip of :attr:`VideoSource.TINY`, whatever was ordered: 5 s of 320x180 at 6 frames per second, without sound.
TINY_CLIP: Final = Path(__file__).with_name("tiny.mp4")
#: What the name of a file with a watermark ends in.
WATERMARK_SUFFIX: Final = "-watermark"


@dataclass(frozen=True, slots=True)
class Clip:
    """A file to serve.

    Args:
        path: Where it is.
        stat: Its size and times.
        etag: Its entity tag: the same for the same bytes, also after they were rendered again.
    """

    path: Path
    stat: os.stat_result
    etag: str

    @classmethod
    def of_file(cls, path: Path) -> Clip:
        """Describe a finished file."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        return cls(path, path.stat(), f'"{digest.hexdigest()[:32]}"')


class VideoStore(Protocol):
    """Gives the file of a clip."""

    def prepare(self, spec: ClipSpec) -> None:
        """Begin to make the file: it will be wanted soon."""
        ...

    async def open(self, spec: ClipSpec) -> Clip:
        """The file, made now if need be."""
        ...

    def close(self) -> None:
        """Drop everything."""
        ...


class TinyVideos:
    """The same small file for every clip."""

    def __init__(self) -> None:
        self._clip = Clip.of_file(TINY_CLIP)

    def prepare(self, spec: ClipSpec) -> None:
        """See :class:`VideoStore`."""

    async def open(self, spec: ClipSpec) -> Clip:
        """See :class:`VideoStore`."""
        return self._clip

    def close(self) -> None:
        """See :class:`VideoStore`."""


class RenderedVideos:
    """Files rendered in worker threads and kept in a temporary folder, up to a number of bytes.

    The encoder and most of the drawing run without Python's lock, so that calls are answered meanwhile.

    Args:
        workers: Clips rendered at the same time.
        cache_bytes: Bytes kept; the least recently used files go first, never the newest.

    Raises:
        ConfigurationError: PyAV or Pillow is missing, or PyAV has no H.264 encoder.
    """

    def __init__(self, *, workers: int, cache_bytes: int) -> None:
        try:
            from kling_flows.sandbox.encoding import encode, h264_encoder
        except ImportError as error:
            raise ConfigurationError(
                "video",
                f"rendering needs PyAV and Pillow ({error}): pip install 'kling-flows[sandbox]', or choose tiny",
            ) from error
        h264_encoder()
        self._encode = encode
        self._cache_bytes = cache_bytes
        self._folder = Path(tempfile.mkdtemp(prefix="kling-flows-sandbox-"))
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="sandbox-render")
        self._stop = threading.Event()
        self._numbers = itertools.count()
        # Least recently used first. Equal orders share a file.
        self._clips: OrderedDict[ClipSpec, asyncio.Future[Clip]] = OrderedDict()

    def prepare(self, spec: ClipSpec) -> None:
        """See :class:`VideoStore`."""
        self._future(spec)

    async def open(self, spec: ClipSpec) -> Clip:
        """See :class:`VideoStore`."""
        future = self._future(spec)
        self._clips.move_to_end(spec)
        # One caller who leaves must not stop a rendering that others wait for.
        return await asyncio.shield(future)

    def close(self) -> None:
        """See :class:`VideoStore`."""
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _future(self, spec: ClipSpec) -> asyncio.Future[Clip]:
        future = self._clips.get(spec)
        if future is None:
            path = self._folder / f"{next(self._numbers)}.mp4"
            future = asyncio.get_running_loop().run_in_executor(self._pool, self._render, spec, path)
            self._clips[spec] = future
            future.add_done_callback(lambda done: self._finish(spec, done))
        return future

    def _render(self, spec: ClipSpec, path: Path) -> Clip:
        self._encode(spec, path, self._stop)
        return Clip.of_file(path)

    def _finish(self, spec: ClipSpec, done: asyncio.Future[Clip]) -> None:
        if done.cancelled() or done.exception() is not None:
            # The next caller tries again.
            self._clips.pop(spec, None)
            return
        kept = [
            (key, future.result())
            for key, future in self._clips.items()
            if future.done() and not future.cancelled() and future.exception() is None
        ]
        total = sum(clip.stat.st_size for _, clip in kept)
        for key, clip in kept:
            if total <= self._cache_bytes or key == spec:
                break
            del self._clips[key]
            clip.path.unlink(missing_ok=True)
            total -= clip.stat.st_size


def open_store(settings: SandboxSettings) -> VideoStore:
    """The store that the settings ask for.

    Raises:
        ConfigurationError: It needs a package that is not installed.
    """
    if settings.video is VideoSource.TINY:
        return TinyVideos()
    return RenderedVideos(workers=settings.render_workers, cache_bytes=settings.cache_bytes)
