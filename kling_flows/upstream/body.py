"""Reading JSON that may be anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

#: A decoded answer: a JSON object, text that is not one, or ``None`` for an empty answer.
Body: TypeAlias = Mapping[str, object] | str | None


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
