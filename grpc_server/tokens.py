"""Page and resume tokens: sealed, so that nobody reads meaning into them, and bound to what they were made for."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import Final

from kling_flows.errors import ResumeTokenInvalid
from kling_flows.ledger import TaskPlace

_MOST: Final = 2**63 - 1

_TAG_BYTES: Final = 16
_POSITION: Final = struct.Struct(">Q")
# A create time in microseconds and a sequence number.
_PLACE: Final = struct.Struct(">QQ")
_SNAPSHOT: Final = struct.Struct(">QQQ")
_MICROSECONDS: Final = 1e6

#: Beyond this place stands every task: a snapshot that has delivered nothing yet.
WHOLE_SNAPSHOT: Final = TaskPlace(_MOST / _MICROSECONDS, _MOST)


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a watch goes on.

    Args:
        position: Everything after this position of the log is still to be delivered.
        beyond: Of the snapshot as of ``position``, what comes after this place is still to be delivered; None if the
            snapshot is complete.
    """

    position: int
    beyond: TaskPlace | None = None


class Tokens:
    """Makes and opens the tokens of one ledger; every front on that ledger opens the tokens of the others.

    A token is its content, encrypted and authenticated with one key (the tag of the content is the nonce of the
    encryption), so that equal content gives equal tokens and watchers can share them.
    """

    def __init__(self, key: bytes, ledger_id: str) -> None:
        self._key = key
        self._ledger_id = ledger_id.encode()
        # All who are told of an event get the same.
        self._newest = (-1, "")

    def resume(self, position: int) -> str:
        """A token to go on watching after ``position``; it serves any names and filter."""
        if self._newest[0] != position:
            self._newest = position, self._seal(b"resume", _POSITION.pack(position), b"")
        return self._newest[1]

    def snapshot(self, point: ResumePoint, watched: bytes) -> str:
        """A token to go on in the middle of a snapshot of what ``watched`` identifies."""
        if point.beyond is None:
            return self.resume(point.position)
        return self._seal(b"snapshot", _SNAPSHOT.pack(point.position, *_numbers(point.beyond)), watched)

    def open_resume(self, token: str, watched: bytes) -> ResumePoint:
        """Read a token of :meth:`resume` or :meth:`snapshot`.

        Raises:
            ResumeTokenInvalid: it is neither, or was made for a snapshot of something else.
        """
        content = self._open(b"resume", token, b"")
        if content is not None and len(content) == _POSITION.size:
            return ResumePoint(*_POSITION.unpack(content))
        content = self._open(b"snapshot", token, watched)
        if content is not None and len(content) == _SNAPSHOT.size:
            position, *place = _SNAPSHOT.unpack(content)
            return ResumePoint(position, _place(*place))
        raise invalid_resume_token()

    def page(self, before_seq: int, listed: bytes) -> str:
        """A token for the tasks before a sequence number, in the list that ``listed`` identifies."""
        return self._seal(b"page", _POSITION.pack(before_seq), listed)

    def open_page(self, token: str, listed: bytes) -> int:
        """Read a token of :meth:`page`.

        Raises:
            ResumeTokenInvalid: it is not one, or was made for another list.
        """
        return self._open_page(b"page", token, listed, _POSITION)[0]

    def task_page(self, beyond: TaskPlace, listed: bytes) -> str:
        """A token for the tasks that come after a place, in the list that ``listed`` identifies."""
        return self._seal(b"tasks", _PLACE.pack(*_numbers(beyond)), listed)

    def open_task_page(self, token: str, listed: bytes) -> TaskPlace:
        """Read a token of :meth:`task_page`.

        Raises:
            ResumeTokenInvalid: it is not one, or was made for another list.
        """
        return _place(*self._open_page(b"tasks", token, listed, _PLACE))

    def _open_page(self, kind: bytes, token: str, listed: bytes, layout: struct.Struct) -> tuple[int, ...]:
        content = self._open(kind, token, listed)
        if content is None or len(content) != layout.size:
            raise ResumeTokenInvalid(
                "page_token is not one of this ledger, or another field of the request than page_size has changed "
                "since; send it with all others unchanged, or list again without it",
                metadata={"field": "page_token"},
            )
        return layout.unpack(content)

    def _seal(self, kind: bytes, content: bytes, context: bytes) -> str:
        tag = self._tag(kind, content, context)
        return base64.urlsafe_b64encode(tag + self._mask(tag, content)).rstrip(b"=").decode()

    def _open(self, kind: bytes, token: str, context: bytes) -> bytes | None:
        try:
            raw = base64.urlsafe_b64decode(token.encode() + b"=" * (-len(token) % 4))
        except binascii.Error:
            return None
        content = self._mask(raw[:_TAG_BYTES], raw[_TAG_BYTES:][: _SNAPSHOT.size])
        # Sealing again, instead of comparing tags only, also refuses other spellings of the same bytes.
        sealed = self._seal(kind, content, context)
        return content if hmac.compare_digest(sealed.encode(), token.encode()) else None

    def _tag(self, kind: bytes, content: bytes, context: bytes) -> bytes:
        message = b"\0".join((b"tag", kind, self._ledger_id, hashlib.sha256(context).digest() + content))
        return hmac.digest(self._key, message, "sha256")[:_TAG_BYTES]

    def _mask(self, tag: bytes, content: bytes) -> bytes:
        stream = hmac.digest(self._key, b"mask\0" + tag, "sha256")
        return bytes(a ^ b for a, b in zip(content, stream, strict=False))


def _numbers(place: TaskPlace) -> tuple[int, int]:
    return min(round(place.create_time * _MICROSECONDS), _MOST), place.seq


def _place(microseconds: int, seq: int) -> TaskPlace:
    return TaskPlace(microseconds / _MICROSECONDS, seq)


def invalid_resume_token() -> ResumeTokenInvalid:
    """The error for a resume token that this ledger has not made."""
    return ResumeTokenInvalid(
        "resume_token is not one of this ledger, or was made in the snapshot of another watch; watch again without it",
        metadata={"field": "resume_token"},
    )
