from __future__ import annotations

import pytest

from kling_flows.upstream import Credentials, UpstreamClient
from kling_flows.upstream.text import excerpt, hide

from .data import ACCESS_KEY, API_KEY, SECRET_KEY, account, api_key_credentials, jwt_credentials


@pytest.mark.parametrize("credentials", [jwt_credentials(), api_key_credentials()])
def test_text_forms_never_show_a_secret(credentials: Credentials) -> None:
    token = credentials.authorization(1_773_000_000.0).removeprefix("Bearer ")
    made = account("https://host", credentials)
    client = UpstreamClient(made)
    for shown in (credentials, made, client, made.name, vars(client)):
        for text in (str(shown), repr(shown), f"{shown}"):
            for secret in (ACCESS_KEY, SECRET_KEY, API_KEY, token):
                assert secret not in text


def test_hide_takes_the_longest_secret_first() -> None:
    assert hide("x abcdef y abc", ("abc", "abcdef")) == "x [redacted] y [redacted]"


def test_excerpt_is_one_short_printable_line() -> None:
    text = excerpt("a\n\tb\x00\x1b[31m" + "c" * 500)
    assert text.startswith("a b [31mccc")
    assert len(text) == 200
    assert text.isprintable()


def test_excerpt_keeps_what_only_looks_like_markup() -> None:
    assert excerpt("must be < 5 and > 3") == "must be < 5 and > 3"


@pytest.mark.parametrize("text", ["<" * 50_000, "<script>" * 20_000, "bearer " * 20_000, "eyJ" * 50_000])
def test_excerpt_of_hostile_text_is_quick(text: str) -> None:
    assert len(excerpt(text)) <= 200
