"""The first frame of a video as a small picture, where the library that decodes videos is installed."""

from __future__ import annotations

import asyncio
import base64
import io
from typing import TYPE_CHECKING, Any, Final, cast

import structlog

from kling_flows.archive import VideoArchive
from kling_flows.errors import ArchiveError

if TYPE_CHECKING:
    from obstore import ReadableFile

log = structlog.get_logger(__name__)

_WIDTH: Final = 320
_QUALITY: Final = 70

#: Decoding takes a core for some milliseconds and reads from the archive: not more than this takes at a time.
_SECONDS: Final = 15.0


async def poster(archive: VideoArchive, uri: str) -> str | None:
    """The first frame as a ``data:`` URL; None if it cannot be had.

    Args:
        archive: Where the video is.
        uri: Of the video.
    """
    try:
        async with asyncio.timeout(_SECONDS):
            picture = await asyncio.to_thread(_first_frame, archive, uri)
    except ImportError:
        # The extra `posters` is not installed.
        return None
    except (ArchiveError, TimeoutError, OSError, ValueError) as error:
        log.info("a video has no poster", video=uri, error=f"{type(error).__name__}: {error}")
        return None
    return "data:image/jpeg;base64," + base64.b64encode(picture).decode()


class _File:
    # PyAV takes nothing but bytes, and asks for no more than this.
    def __init__(self, file: ReadableFile) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        return bytes(self._file.read(size))

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _first_frame(archive: VideoArchive, uri: str) -> bytes:
    import av

    with av.open(_File(archive.open_file(uri)), "r", format="mp4") as container:
        frame = next(container.decode(video=0), None)
        if frame is None:
            raise ValueError("it has no frame")
        # What it gives is Pillow's, which PyAV does not say.
        image = cast("Any", frame).to_image(
            width=_WIDTH, height=max(round(frame.height * _WIDTH / frame.width / 2) * 2, 2)
        )
    picture = io.BytesIO()
    image.save(picture, "JPEG", quality=_QUALITY)
    return picture.getvalue()
