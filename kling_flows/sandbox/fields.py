"""Checks of single JSON fields, refused in the words that the service was seen to use (fact sheet 2.3).

Every ``prefix`` is what comes before the field's name in the message: ``settings.`` of ``settings.resolution``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from kling_flows.sandbox.errors import Refusal, invalid
from kling_flows.upstream.constants import KlingCode


def decode(body: bytes) -> object:
    """A request body's JSON.

    Raises:
        Refusal: 400/1200, it is none.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(KlingCode.PARAMETERS_INVALID) from error


def top_level(body: object) -> Mapping[str, object]:
    """The fields of a decoded body.

    Raises:
        Refusal: 400/1200, it is not an object.
    """
    if not isinstance(body, dict):
        raise Refusal(KlingCode.PARAMETERS_INVALID)
    return cast(Mapping[str, object], body)


def invalid_value(path: str, value: object) -> Refusal:
    """400/1201 for a field's value."""
    return invalid(f"{path} value '{str(value)[:100]}' is invalid")


def text(fields: Mapping[str, object], name: str, prefix: str = "") -> str | None:
    """A string, or ``None`` where there is none."""
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value
    raise invalid_value(prefix + name, value)


def flag(fields: Mapping[str, object], name: str, prefix: str = "", *, default: bool = False) -> bool:
    """A boolean."""
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    raise invalid_value(prefix + name, value)


def one_of(fields: Mapping[str, object], name: str, allowed: tuple[str, ...], default: str, prefix: str = "") -> str:
    """One of some words."""
    value = text(fields, name, prefix) or default
    if value not in allowed:
        raise invalid_value(prefix + name, value)
    return value


def integer(
    fields: Mapping[str, object], name: str, allowed: frozenset[int] | range, default: int, prefix: str = ""
) -> int:
    """One of some integers."""
    value = fields.get(name)
    if value is None:
        return default
    # A JSON true is an int to Python, and is no number to Kling.
    if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
        raise invalid_value(prefix + name, value)
    return value


def milliseconds(fields: Mapping[str, object], name: str) -> int | None:
    """A Unix time in milliseconds, as an integer or as the text of one; ``None`` where there is none."""
    value = fields.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 16:
        return int(value)
    raise invalid_value(name, value)


def an_object(value: object, path: str) -> Mapping[str, object]:
    """A value as an object."""
    if not isinstance(value, dict):
        raise invalid_value(path, value)
    return cast(Mapping[str, object], value)


def section(fields: Mapping[str, object], name: str) -> Mapping[str, object]:
    """An object that may be left out."""
    value = fields.get(name)
    return {} if value is None else an_object(value, name)


def array(fields: Mapping[str, object], name: str, prefix: str = "") -> list[object]:
    """An array that may be left out."""
    value = fields.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid_value(prefix + name, value)
    return cast(list[object], value)


def number(value: object, path: str, low: float, high: float) -> float:
    """A value as a number within bounds."""
    # A JSON true is an int to Python, and is no number to Kling.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise invalid_value(path, value)
    return float(value)


def seconds_text(value: str, path: str) -> int:
    """Whole seconds written as text."""
    # int() also takes " 5", "+5", "5_0" and other scripts' digits, and refuses thousands of them in another way.
    if not (value.isascii() and value.isdigit() and len(value) <= 4):
        raise invalid_value(path, value)
    return int(value)


def check_length(value: str, path: str, limit: int) -> None:
    """Refuse a text of more than ``limit`` characters."""
    if len(value) > limit:
        raise invalid(f"{path} is too long: {len(value)} characters, at most {limit}")


def watermark(fields: Mapping[str, object], prefix: str = "") -> bool:
    """Whether ``watermark_info`` asks for a second file with a watermark."""
    value = fields.get("watermark_info")
    if value is None:
        return False
    path = f"{prefix}watermark_info"
    return flag(an_object(value, path), "enabled", f"{path}.")
