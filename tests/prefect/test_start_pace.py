"""A few flow runs start at once, and then so many a second."""

from __future__ import annotations

import pytest

from kling_flows.runner.pace import AT_ONCE, SECONDS_APART, StartPace


def test_what_comes_seldom_never_waits() -> None:
    pace = StartPace()
    assert [pace.delay(1000.0 + number) for number in range(20)] == [0.0] * 20


def test_some_start_at_once_and_the_rest_apart() -> None:
    pace, now = StartPace(), 1000.0
    begun: list[float] = []
    for _ in range(AT_ONCE + 3):
        now += pace.delay(now)
        begun.append(now - 1000.0)
    assert begun == pytest.approx([0.0] * AT_ONCE + [SECONDS_APART * number for number in (1, 2, 3)])


def test_a_pause_gives_starts_back_one_by_one() -> None:
    pace = StartPace()
    for _ in range(AT_ONCE):
        pace.delay(1000.0)
    later = 1000.0 + 2 * SECONDS_APART
    assert [pace.delay(later) for _ in range(3)] == pytest.approx([0.0, 0.0, SECONDS_APART])
