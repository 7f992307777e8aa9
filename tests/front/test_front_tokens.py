"""Tokens: opaque, sealed, bound."""

from __future__ import annotations

import base64
import re
import string
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpc_server.tokens import WHOLE_SNAPSHOT, ResumePoint, Tokens
from kling_flows.errors import ResumeTokenInvalid
from kling_flows.ledger import TaskPlace

KEY = bytes(range(32))
TOKENS = Tokens(KEY, "ab12cd34")
POSITIONS = st.integers(0, 2**63 - 1)
TIMES = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - st adds it
ALPHABET = string.ascii_letters + string.digits + "-_"


@given(POSITIONS)
def test_a_resume_token_comes_back_whatever_is_watched(position: int) -> None:
    assert TOKENS.open_resume(TOKENS.resume(position), b"any") == ResumePoint(position)


@given(POSITIONS, TIMES, POSITIONS)
def test_a_snapshot_token_comes_back_for_what_it_was_made_for(position: int, when: datetime, seq: int) -> None:
    point = ResumePoint(position, TaskPlace(when.timestamp(), seq))
    token = TOKENS.snapshot(point, b"these")

    assert TOKENS.open_resume(token, b"these") == point
    with pytest.raises(ResumeTokenInvalid):
        TOKENS.open_resume(token, b"those")


@given(POSITIONS)
def test_a_page_token_comes_back_for_its_list_only(seq: int) -> None:
    token = TOKENS.page(seq, b"list")

    assert TOKENS.open_page(token, b"list") == seq
    with pytest.raises(ResumeTokenInvalid):
        TOKENS.open_page(token, b"another")
    with pytest.raises(ResumeTokenInvalid):
        TOKENS.open_resume(token, b"list")


@given(TIMES, POSITIONS)
def test_a_page_of_tasks_begins_exactly_where_the_one_before_ended(when: datetime, seq: int) -> None:
    place = TaskPlace(when.timestamp(), seq)
    token = TOKENS.task_page(place, b"list")

    assert TOKENS.open_task_page(token, b"list") == place
    for listed, read in ((b"another", TOKENS.open_task_page), (b"list", TOKENS.open_page)):
        with pytest.raises(ResumeTokenInvalid):
            read(token, listed)


def test_a_snapshot_that_has_not_begun_or_is_complete_has_a_token_too() -> None:
    whole = TOKENS.open_resume(TOKENS.snapshot(ResumePoint(5, WHOLE_SNAPSHOT), b"w"), b"w")

    assert whole == ResumePoint(5, WHOLE_SNAPSHOT)
    assert TOKENS.snapshot(ResumePoint(5), b"w") == TOKENS.resume(5)


@settings(max_examples=50)
@given(st.text(), st.binary(max_size=64))
def test_what_we_have_not_made_is_refused(text: str, raw: bytes) -> None:
    for token in (text, base64.urlsafe_b64encode(raw).decode()):
        with pytest.raises(ResumeTokenInvalid):
            TOKENS.open_resume(token, b"")
        with pytest.raises(ResumeTokenInvalid):
            TOKENS.open_page(token, b"")


def test_no_character_of_a_token_can_be_changed() -> None:
    for token in (TOKENS.resume(5), TOKENS.snapshot(ResumePoint(5, TaskPlace(6.0, 7)), b"")):
        for place in range(len(token)):
            for character in ALPHABET.replace(token[place], ""):
                with pytest.raises(ResumeTokenInvalid):
                    TOKENS.open_resume(token[:place] + character + token[place + 1 :], b"")


@pytest.mark.parametrize("other", [Tokens(KEY, "ffffffff"), Tokens(bytes(32), "ab12cd34")])
def test_tokens_of_another_ledger_are_refused(other: Tokens) -> None:
    with pytest.raises(ResumeTokenInvalid):
        TOKENS.open_resume(other.resume(5), b"")


def test_tokens_say_nothing_and_fit_in_a_url() -> None:
    tokens = [TOKENS.resume(position) for position in range(100)]

    assert all(re.fullmatch("[A-Za-z0-9_-]{32}", token) for token in tokens)
    assert len({token[:4] for token in tokens}) > 90
    assert len({token[-4:] for token in tokens}) > 90


def test_two_fronts_on_one_ledger_make_the_same_tokens() -> None:
    assert Tokens(KEY, "ab12cd34").resume(5) == TOKENS.resume(5)
