"""What a source says about the bytes that it is going to send."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import httpx

from kling_flows.errors import ArchiveError

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/(\*|[0-9]{1,18})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """``start``: offset of its first byte; ``total``: length of the whole, if it is told."""

    start: int
    total: int | None
    etag: str | None


def read_answer(response: httpx.Response, offset: int) -> Answer:
    """Judge an answer to a request for everything from ``offset`` on; its body is not read.

    A server that cannot resume may answer 200, with everything (RFC 9110, 14.2).

    Raises:
        ArchiveError: it is not an answer to that, or not a video.
    """
    if response.status_code not in (200, 206):
        raise ArchiveError(f"the video's address answers HTTP {response.status_code}; it is tried again later")
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        # Nobody asked for it, and a few bytes of it may stand for terabytes.
        raise ArchiveError("the video's address answers in a compressed form; it is tried again later")
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind.startswith(("text/", "multipart/")) or kind == "application/json":
        raise ArchiveError(f"the video's address answers {kind[:64]} instead of a video; it is tried again later")
    text = response.headers.get("Content-Length", "")
    length = int(text) if text.isascii() and text.isdecimal() else None
    etag = response.headers.get("ETag")
    if response.status_code == 200:
        return Answer(0, length, etag)
    return Answer(offset, _total(response.headers.get("Content-Range", ""), offset, length), etag)


def _total(content_range: str, offset: int, length: int | None) -> int | None:
    found = _CONTENT_RANGE.fullmatch(content_range.strip())
    if found is None:
        raise ArchiveError("the video's address answers a part without saying which; it is fetched again")
    first, last = int(found[1]), int(found[2])
    total = None if found[3] == "*" else int(found[3])
    whole = last + 1 if total is None else total
    if first != offset or last + 1 != whole or (length is not None and length != last + 1 - first):
        raise ArchiveError("the video's address answers another part than was asked for; it is fetched again")
    return whole
