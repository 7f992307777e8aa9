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

#: Boxes that are followed; a clip of some seconds has fewer than a hundred, fragmented or not.
_MOST_BOXES: Final = 100_000


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
        self._boxes = 0

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
            needed = _LONG_HEADER_BYTES if self._length() == _LONG else _HEADER_BYTES
            part = chunk[position : position + needed - len(self._header)]
            self._header += part
            position += len(part)
            self._read_header()

    def _length(self) -> int | None:
        return int.from_bytes(self._header[:4], "big") if len(self._header) >= _HEADER_BYTES else None

    def _read_header(self) -> None:
        length = self._length()
        if length == _LONG and len(self._header) == _LONG_HEADER_BYTES:
            length = int.from_bytes(self._header[8:16], "big")
            to_the_end = False
        elif length is None or length == _LONG:
            return
        else:
            to_the_end = length == _TO_THE_END
        known = to_the_end or length >= len(self._header)
        if known:
            self._kind = bytes(self._header[4:8])
            # Only what is asked for: a hostile file has a new kind of box every eight bytes.
            self._seen |= {self._kind} & _NEEDED
            self._boxes += 1
        # After a length that no box has, there is nothing more to be found.
        goes_on = known and not to_the_end and self._boxes < _MOST_BOXES
        self._left = length - len(self._header) if goes_on else None
        self._header.clear()
