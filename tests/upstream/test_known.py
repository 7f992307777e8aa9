"""What is kept of answers never outlives what they rest on, and never mixes two questions up."""

from __future__ import annotations

import pytest

from kling_flows.upstream import Dialect, Provider, validate
from kling_flows.upstream.known import Known

from .data import request


def test_an_answer_is_found_once_until_its_file_changes() -> None:
    file = object()
    found: list[str] = []

    def find() -> str:
        found.append("x")
        return f"answer {len(found)}"

    known = Known[str](lambda: file)
    assert [known.answer("asked", find) for _ in range(3)] == ["answer 1"] * 3
    file = object()
    assert known.answer("asked", find) == "answer 2"


def test_a_refusal_is_found_again() -> None:
    known = Known[str](object)

    def refuse() -> str:
        raise LookupError("nothing is known")

    for _ in range(2):
        with pytest.raises(LookupError, match="nothing is known"):
            known.answer("asked", refuse)


def test_more_questions_than_are_kept_are_answered_all_the_same() -> None:
    file = object()
    known = Known[int](lambda: file)
    for number in range(5_000):
        assert known.answer(number, lambda number=number: number) == number


@pytest.mark.parametrize("provider", [Provider.KLING, Provider.COMETAPI])
def test_each_prompt_is_judged_although_the_rest_is_the_same(provider: Provider) -> None:
    good, empty, long = (request(prompt=prompt) for prompt in ("a boat", " ", "x" * 10_000))
    for _ in range(2):
        assert validate(good, provider, Dialect.LEGACY) == ()
        assert [violation.field for violation in validate(empty, provider, Dialect.LEGACY)] == ["prompt"]
        assert [violation.field for violation in validate(long, provider, Dialect.LEGACY)] == ["prompt"]
        assert [v.field for v in validate(request(duration=99), provider, Dialect.LEGACY)] == ["duration"]
