from __future__ import annotations

import pytest

from kling_flows.engine.durations import duration_key, earliest_seconds
from kling_flows.engine.engine import Engine
from kling_flows.upstream import TextToVideoRequest

from .rig import queue

REQUEST = TextToVideoRequest(prompt="a cup")
KEY = duration_key("sandbox", REQUEST)


async def _learn(engine: Engine, *seconds: float) -> None:
    for value in seconds:
        await engine.ledger.advance_and_learn("t", lambda t: t, runner_id=engine.runner_id, key=KEY, seconds=value)


async def test_without_a_sample_nothing_is_claimed(engine: Engine) -> None:
    assert await earliest_seconds(engine.ledger, "sandbox", REQUEST) is None


async def test_one_sample_says_little_about_the_earliest_end_and_many_say_much(engine: Engine) -> None:
    await queue(engine)
    await _learn(engine, 40.0)
    assert await earliest_seconds(engine.ledger, "sandbox", REQUEST) == pytest.approx(20.0)
    await _learn(engine, *(10.0 + number % 30 for number in range(99)))
    earliest = await earliest_seconds(engine.ledger, "sandbox", REQUEST)
    assert earliest is not None
    assert 8.5 < earliest < 13.0


async def test_videos_of_another_kind_learn_apart(engine: Engine) -> None:
    await queue(engine)
    await _learn(engine, 40.0)
    assert await earliest_seconds(engine.ledger, "kling", REQUEST) is None
