"""Whether bytes that came as a whole are one: an MP4 says of each of its boxes how long it is."""

from __future__ import annotations

from typing import Final

#: Bytes of a box's length and type, and of the 64-bit length that follows where the length is 1.
_HEADER_BYTES: Final = 8
_LONG_HEADER_BYTES: Final = 16
_LONG: Final = 1
_TO_THE_END: Final = 0

#: What a player cannot do without.
_NEEDED: Final = frozenset({b"moov", b"mdat"})
_FRAGMENT: Final = b"moof"


class BoxWalk:
    """Follows the top-level boxes (ISO/IEC 14496-12, 4.2) through the bytes and keeps none of them.

    Only the boxes that a player needs are judged: a paid video with a few odd bytes behind it is still a video.
    """

    def __init__(self) -> None:
        self._header = bytearray()
        # Bytes of the present box that are still to come; None: all that comes.
        self._left: int | None = 0
        self._kind = b""
        self._seen: set[bytes] = set()

    @property
    def complete(self) -> bool:
        """Whether the boxes that a player needs are there, and none of them is cut."""
        return self._seen >= _NEEDED and not (self._left and self._kind in _NEEDED | {_FRAGMENT})

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        position = 0
        while position < len(chunk) and self._left is not None:
            if self._left:
                step = min(self._left, len(chunk) - position)
                self._left -= step
                position += step
                continue
            self._header.append(chunk[position])
            position += 1
            self._read_header()

    def _read_header(self) -> None:
        if len(self._header) < _HEADER_BYTES:
            return
        length = int.from_bytes(self._header[:4], "big")
        if length == _LONG:
            if len(self._header) < _LONG_HEADER_BYTES:
                return
            length = int.from_bytes(self._header[8:16], "big")
        known = length == _TO_THE_END or length >= len(self._header)
        if known:
            self._kind = bytes(self._header[4:8])
            self._seen.add(self._kind)
        # After a length that no box has, there is nothing more to be found.
        self._left = length - len(self._header) if known and length != _TO_THE_END else None
        self._header.clear()
