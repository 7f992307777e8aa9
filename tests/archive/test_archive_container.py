"""Boxes whose lengths lie: the walk neither loops, nor grows, nor stumbles."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_flows.archive.container import BoxWalk

from .source import box

FTYP = box("ftyp", b"isom" * 4)
MOOV = box("moov", bytes(100))
MDAT = box("mdat", bytes(1000))


def sized(length: int, kind: bytes, rest: bytes = b"") -> bytes:
    return struct.pack(">I4s", length, kind) + rest


def long(length: int, kind: bytes, rest: bytes = b"") -> bytes:
    return struct.pack(">I4sQ", 1, kind, length) + rest


def walked(data: bytes, step: int = 0) -> bool:
    walk = BoxWalk()
    for start in range(0, len(data), step or len(data) or 1):
        walk.feed(data[start : start + step] if step else data)
    return walk.complete


CASES = {
    "nothing": (b"", False),
    "whole": (FTYP + MOOV + MDAT, True),
    "the video first": (FTYP + MDAT + MOOV, True),
    "a long length": (FTYP + MOOV + long(16 + 100, b"mdat", bytes(100)), True),
    "a long length, cut": (FTYP + MOOV + long(16 + 101, b"mdat", bytes(100)), False),
    "the longest length": (FTYP + MOOV + long(2**64 - 1, b"mdat", bytes(100)), False),
    "the longest short length": (FTYP + MOOV + sized(2**32 - 1, b"mdat", bytes(100)), False),
    "to the end": (FTYP + MOOV + sized(0, b"mdat", bytes(100)), True),
    "a long length of nothing": (FTYP + MOOV + long(0, b"mdat"), False),
    "a long length of less than its header": (FTYP + MOOV + long(15, b"mdat"), False),
    "an empty box": (FTYP + MOOV + sized(8, b"mdat"), True),
    "a length of less than its header": (FTYP + sized(7, b"moov") + MDAT, False),
    "a length that goes back": (FTYP + sized(2, b"moov") + MDAT, False),
    "a box in a box": (FTYP + MOOV + box("free", MDAT), False),
    "a box longer than its parent": (FTYP + box("moov", sized(2**32 - 1, b"trak")) + MDAT, True),
    "a cut header": (FTYP + MOOV + MDAT + b"\0\0", True),
    "a cut long header": (FTYP + MOOV + long(2**40, b"mdat")[:12], False),
    "a cut fragment": (FTYP + MOOV + MDAT + sized(1000, b"moof"), False),
}


@pytest.mark.parametrize(("data", "complete"), CASES.values(), ids=CASES)
def test_lengths_are_followed_as_far_as_they_make_sense(data: bytes, complete: bool) -> None:
    assert walked(data) is complete
    assert walked(data, 1) is complete
    assert walked(data, 7) is complete


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([FTYP, MOOV, MDAT]))), st.integers(1, 50))
def test_how_the_bytes_are_cut_makes_no_difference(parts: list[bytes], step: int) -> None:
    data = b"".join(parts)
    assert walked(data, step) is walked(data)


def test_a_million_kinds_of_boxes_take_no_memory() -> None:
    data = b"".join(sized(8, struct.pack(">I", number)) for number in range(1 << 18))
    walk = BoxWalk()
    tracemalloc.start()
    try:
        for _ in range(4):
            walk.feed(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    assert not walk.complete
