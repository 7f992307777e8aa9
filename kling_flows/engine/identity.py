"""The names that things are known by: video tasks, runners, and what the provider is told."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from functools import lru_cache
from typing import Final

from kling_flows.errors import Violation

#: What a task is called by its own tenant, who may choose it.
TASK_ID: Final = re.compile(r"[a-z]([a-z0-9-]{0,46}[a-z0-9])?")

#: How ids begin that nobody has chosen; they are the same for the tenant and in the ledger.
MADE_PREFIX: Final = "vt-"

#: The tenant of whoever names none: what it chooses stands in the ledger as it is.
_PLAIN_TENANT: Final = "default"

_MARK_CHARACTERS: Final = 12
_MARK: Final = rf"_[0-9a-z]{{{_MARK_CHARACTERS}}}"

#: A task's id in the ledger. It becomes a file name and part of the provider's external id.
LEDGER_TASK_ID: Final = re.compile(rf"{TASK_ID.pattern}({_MARK})?")
_NAME_IN_TEXT: Final = re.compile(rf"(videoTasks/[a-z][a-z0-9-]*){_MARK}\b")

#: How the ids of runners begin that carry tasks.
RUNNER_PREFIX: Final = "run-"

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS: Final = [first + second for first in _ALPHABET for second in _ALPHABET]


def new_task_id() -> str:
    """A fresh id: ``vt-`` and 26 characters that sort by time."""
    number = (int(time.time() * 1000) << 80) | int.from_bytes(_random_bytes(), "big")
    return MADE_PREFIX + "".join([_PAIRS[(number >> shift) & 1023] for shift in range(120, -1, -10)])


#: Not used yet. The system is asked for many at a time: it lets go of the interpreter for each time that it is.
_unused: Final[list[bytes]] = []
_RANDOM_BYTES: Final = 10
_ASKED_FOR: Final = 256

# Else a child would give out its parent's.
os.register_at_fork(after_in_child=_unused.clear)


def _random_bytes() -> bytes:
    while True:
        try:
            return _unused.pop()
        except IndexError:
            block = os.urandom(_RANDOM_BYTES * _ASKED_FOR)
            _unused.extend(block[start : start + _RANDOM_BYTES] for start in range(0, len(block), _RANDOM_BYTES))


def ledger_task_id(tenant: str, task_id: str) -> str:
    """What the ledger calls the task that its tenant calls ``task_id``.

    A chosen id carries a mark of its tenant, so that tenants who choose the same one never meet.
    """
    if tenant == _PLAIN_TENANT or task_id.startswith(MADE_PREFIX):
        return task_id
    return f"{task_id}_{_mark(tenant)}"


def public_task_id(ledger_id: str) -> str:
    """What the tenant calls the task that the ledger calls so."""
    return ledger_id.partition("_")[0]


def public_text(text: str) -> str:
    """A text that names tasks as the ledger does, as their tenant reads it."""
    return _NAME_IN_TEXT.sub(r"\1", text)


@lru_cache(maxsize=1_024)
def _mark(tenant: str) -> str:
    number = int.from_bytes(hashlib.sha256(tenant.encode()).digest()[:8])
    return "".join(_ALPHABET[(number >> 5 * place) & 31] for place in range(_MARK_CHARACTERS))


def new_runner_id() -> str:
    """A fresh id for one life of one runner process; never reused, so that holding a task by it is a fence."""
    return RUNNER_PREFIX + secrets.token_hex(8)


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
