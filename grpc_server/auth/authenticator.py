"""Finds out who calls, and whether they may."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

import grpc

from grpc_server.auth.access_file import AccessList
from grpc_server.auth.identity import Identity, Scope
from kling_flows.errors import CredentialsRejected, PermissionMissing

_BEARER: Final = "bearer "
#: What a client certificate is known by, as gRPC names it.
_SUBJECT_PROPERTIES: Final = ("x509_subject_alternative_name", "x509_common_name")

_REMEDY: Final = "send a token of the server's access file as 'authorization: Bearer <token>', or a client certificate"


Metadata = Iterable[tuple[str, str | bytes]]


class Authenticator(Protocol):
    """Says who calls."""

    def may_know(self, metadata: Metadata) -> bool:
        """Whether `identify` may find somebody; asked before anything of the request is received."""
        ...

    def identify(self, context: grpc.aio.ServicerContext[Any, Any]) -> Identity:
        """The caller.

        Raises:
            CredentialsRejected: it is nobody who is known.
        """
        ...


class Everybody:
    """Whoever reaches the server is this one: for loopback, where the machine's own users are."""

    def __init__(self, tenant: str) -> None:
        self._identity = Identity("local", tenant, frozenset(Scope))

    def may_know(self, metadata: Metadata) -> bool:
        """See :class:`Authenticator`."""
        return True

    def identify(self, context: grpc.aio.ServicerContext[Any, Any]) -> Identity:
        """See :class:`Authenticator`."""
        return self._identity


class ByAccessList:
    """Callers of an access list, by token or by certificate; the list may be exchanged at any time."""

    def __init__(self, access: AccessList) -> None:
        self.access = access

    def may_know(self, metadata: Metadata) -> bool:
        """See :class:`Authenticator`; certificates are only seen later."""
        token = _token(metadata)
        return bool(self.access.certificate) if token is None else self.access.by_token(token) is not None

    def identify(self, context: grpc.aio.ServicerContext[Any, Any]) -> Identity:
        """See :class:`Authenticator`; a token is looked at first."""
        token = _token(context.invocation_metadata() or ())
        if token is not None:
            identity = self.access.by_token(token)
        else:
            subjects = _subjects(context.auth_context())
            identity = self.access.by_subjects(subjects) if subjects else None
            if not subjects:
                raise CredentialsRejected(f"the call has no credentials; {_REMEDY}")
        if identity is None:
            what = "token" if token is not None else "client certificate"
            raise CredentialsRejected(f"the {what} is not known to this server, or has expired; {_REMEDY}")
        return identity


def check_scope(identity: Identity, scope: Scope, method: str) -> None:
    """Refuse what the caller may not do.

    Raises:
        PermissionMissing: it lacks the scope.
    """
    if scope not in identity.scopes:
        raise PermissionMissing(
            f"{identity.name!r} may not call {method}: that needs the scope {scope.value!r}, and it has "
            f"{', '.join(sorted(identity.scopes))}",
            metadata={"scope": scope.value},
        )


def _token(metadata: Metadata) -> str | None:
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str):
            # Anything else in this header is as wrong as a wrong token.
            return value[len(_BEARER) :] if value[: len(_BEARER)].lower() == _BEARER else ""
    return None


def _subjects(auth_context: Mapping[str, Iterable[bytes]]) -> frozenset[str]:
    return frozenset(name.decode(errors="replace") for key in _SUBJECT_PROPERTIES for name in auth_context.get(key, ()))
