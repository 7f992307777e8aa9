"""What one check has found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kling_flows.errors import ConfigurationError


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    #: It works, and something is not as it should be.
    WARNING = "warning"
    #: Something will not work.
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.

    Args:
        check: What was looked at, in a word or two; stable.
        level: How bad it is.
        found: What was found; holds no secret.
        remedy: What to do; empty if nothing has to be done.
    """

    check: str
    level: Level
    found: str
    remedy: str = ""


def ok(check: str, found: str) -> Finding:
    """Nothing has to be done."""
    return Finding(check, Level.OK, found)


def warning(check: str, found: str, remedy: str) -> Finding:
    """It works, and something should be done."""
    return Finding(check, Level.WARNING, found, remedy)


def problem(check: str, found: str, remedy: str) -> Finding:
    """Something has to be done."""
    return Finding(check, Level.PROBLEM, found, remedy)


def misconfigured(check: str, error: ConfigurationError) -> Finding:
    """A setting cannot be used; its message names it and says why."""
    return problem(check, error.message, f"correct {error.setting}, then run doctor again")
