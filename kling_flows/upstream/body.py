"""Reading JSON that may be anything."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Final, TypeAlias, cast

#: A decoded answer: a JSON object, text that is not one, or ``None`` for an empty answer.
Body: TypeAlias = Mapping[str, object] | str | None

#: A relay has wrapped Kling's answer, and so put the task this many ``data`` deep (fact sheet 4.5).
_DEEPEST: Final = 3
#: Numbers here are milliseconds, seconds, units and money: none comes near.
_MOST_DIGITS: Final = 30
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class UnreadableAnswer(ValueError):
    """An answer does not hold what was asked for.

    Args:
        message: What is missing.
        refusal: ``code`` and ``message`` that stand inside of the answer and say no, beside an envelope that says yes.
    """

    def __init__(self, message: str, refusal: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.refusal = refusal


def decode(text: str) -> Body:
    """Return the JSON object in ``text``, or ``text`` itself if it is none, or ``None`` if it is blank."""
    if not text.strip():
        return None
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return text
    found = as_mapping(value)
    return text if found is None else found


def as_mapping(value: object) -> Mapping[str, object] | None:
    """Return ``value`` if it is a JSON object."""
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else None


def as_sequence(value: object) -> Sequence[object] | None:
    """Return ``value`` if it is a JSON array."""
    return cast("Sequence[object]", value) if isinstance(value, list | tuple) else None


def as_text(value: object) -> str:
    """Return text as it is, an integer in digits, and the empty string for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return ""


def as_decimal(value: object) -> Decimal | None:
    """Return a number, also where it came as text; ``None`` for anything that is not a finite one."""
    text = repr(value) if isinstance(value, float) and math.isfinite(value) else as_text(value)
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    # A hostile exponent would cost a gigabyte as soon as anything counts with it.
    return number if number.is_finite() and abs(number.adjusted()) <= _MOST_DIGITS else None


def as_moment(value: object) -> datetime | None:
    """Return the time that milliseconds since 1970 stand for, also where they came as text."""
    milliseconds = as_decimal(value)
    if milliseconds is None:
        return None
    try:
        return _EPOCH + timedelta(milliseconds=int(milliseconds))
    except OverflowError:
        return None


def in_milliseconds(moment: datetime) -> int:
    """Return a time as milliseconds since 1970.

    Raises:
        ValueError: ``moment`` has no time zone, so that it could mean any hour of a day.
    """
    if moment.tzinfo is None:
        raise ValueError("a time needs a time zone")
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def levels(payload: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Yield an answer and the objects below its ``data``, outermost first."""
    level: Mapping[str, object] | None = payload
    for _ in range(_DEEPEST + 1):
        if level is None:
            return
        yield level
        level = as_mapping(level.get("data"))


def request_id_of(payload: Mapping[str, object]) -> str:
    """Return the provider's id of the answer; empty if it gave none."""
    return next((found for level in levels(payload) if (found := as_text(level.get("request_id")))), "")
