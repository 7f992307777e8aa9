"""A caller, and the caller of the current RPC."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Scope(StrEnum):
    """What a caller may do with its tenant's tasks."""

    #: Get, list, watch and download; models, quotes and budgets.
    READ = "read"
    #: Create and cancel.
    WRITE = "write"
    #: Decide about UNRESOLVED tasks and dead deliveries.
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls.

    Args:
        name: For logs; never a secret.
        tenant: Whose tasks it sees.
        scopes: What it may do.
    """

    name: str
    tenant: str
    scopes: frozenset[Scope]


_caller: Final[ContextVar[Identity]] = ContextVar("kling-flows-caller")


def caller() -> Identity:
    """Who calls the RPC that this code runs in.

    Raises:
        LookupError: outside of an RPC.
    """
    return _caller.get()


@contextmanager
def calling(identity: Identity) -> Generator[None]:
    """Make ``identity`` the caller of what runs inside."""
    token = _caller.set(identity)
    try:
        yield
    finally:
        _caller.reset(token)
