"""The names that things are known by: video tasks, runners, and what the provider is told."""

from __future__ import annotations

import os
import re
import secrets
import time
from typing import Final

from kling_flows.errors import Violation

#: What a caller may choose as a task's id. It becomes a file name and part of the provider's external id.
TASK_ID: Final = re.compile(r"[a-z]([a-z0-9-]{0,46}[a-z0-9])?")

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"


def new_task_id() -> str:
    """A fresh id: ``vt-`` and 26 characters that sort by time."""
    number = (int(time.time() * 1000) << 80) | int.from_bytes(os.urandom(10), "big")
    return "vt-" + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


def new_runner_id() -> str:
    """A fresh id for one life of one runner process; never reused, so that holding a task by it is a fence."""
    return f"run-{secrets.token_hex(8)}"


def external_task_id(ledger_id: str, task_id: str) -> str:
    """What the provider knows the task by.

    The ledger's id is part of it, so that two ledgers on one account cannot adopt each other's tasks.
    """
    return f"kf-{ledger_id}-{task_id}"


def check_task_id(task_id: str, field: str) -> Violation | None:
    """The rule that ``task_id`` breaks, if any."""
    if TASK_ID.fullmatch(task_id):
        return None
    return Violation(
        field, "MALFORMED", "must be 1 to 48 of a-z, 0-9 and '-', begin with a letter and not end with '-'"
    )
