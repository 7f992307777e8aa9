"""How far back, as people write it."""

from __future__ import annotations

import re
from typing import Final

import typer

#: Seconds of each unit that a period may be given in.
_UNITS: Final = {"m": 60, "h": 3_600, "d": 86_400}
_PERIOD: Final = re.compile(r"([1-9][0-9]{0,5})([mhd])")


def check_period(text: str) -> str:
    """The text itself, if it is a period.

    Raises:
        typer.BadParameter: it is none.
    """
    if not _PERIOD.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is not a number of m, h or d; for example 30d")
    return text


def seconds_of(period: str) -> int:
    """Its length in seconds."""
    return int(period[:-1]) * _UNITS[period[-1]]
