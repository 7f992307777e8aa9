"""A caller, and the caller of the current RPC."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
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


def calling(identity: Identity) -> AbstractContextManager[None]:
    """Make ``identity`` the caller of what runs inside."""
    return _Calling(identity)


class _Calling:
    # A class: what `contextmanager` makes of a generator costs a call three times as much.
    __slots__ = ("_identity", "_token")

    _token: Token[Identity]

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def __enter__(self) -> None:
        self._token = _caller.set(self._identity)

    def __exit__(self, *_error: object) -> None:
        _caller.reset(self._token)
