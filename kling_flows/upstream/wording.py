"""Judging and wording single values, for the rules of `validation`."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from urllib.parse import urlsplit


def is_unicode(value: str) -> bool:
    """Return whether text can be encoded: half of a surrogate pair cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_http_url(url: str) -> bool:
    """Return whether text is an absolute http(s) URL with a host."""
    # `urlsplit` drops line breaks and tabs without a word.
    if not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def seconds(values: Sequence[int]) -> str:
    """Return a set of lengths in words, such as ``3 to 15 s`` or ``5 or 10 s``."""
    if len(values) > 2 and list(values) == list(range(values[0], values[-1] + 1)):
        return f"{values[0]} to {values[-1]} s"
    return f"{listed(values)} s"


def listed(values: Sequence[object], last: str = "or") -> str:
    """Return values as a list in words."""
    words = [str(value) for value in values] or ["nothing"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def plain(number: Decimal | None) -> str:
    """Return decimal text without an exponent and without needless zeros, such as ``3`` or ``4.5``; empty for None."""
    return "" if number is None else f"{number.normalize():f}"
