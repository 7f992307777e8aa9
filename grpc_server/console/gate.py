"""Who may ask the console for something, from which page.

Callers are those of gRPC: by a bearer token, by the cookie that a token was exchanged for, or anybody where the server
is open. A browser also sends what other sites make it send, so that

- where everybody may call, only pages under a loopback name may (a name of somebody else's that leads here would let
  that one's page read along);
- data is given to the console's own pages only, and whatever changes something has to prove that it comes from them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, cast
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from grpc_server.auth.authenticator import Authenticator, ByAccessList, check_scope
from grpc_server.auth.identity import Identity, calling
from grpc_server.console.problems import problem_of
from grpc_server.console.sessions import Sessions
from grpc_server.http.caller import HttpCaller
from grpc_server.interceptors import SCOPES
from grpc_server.limits import TenantLimits
from kling_flows.errors import CredentialsRejected, PermissionMissing
from kling_flows.settings import is_loopback

_READING: Final = frozenset({"GET", "HEAD"})

#: What browsers say of a request that the user or one of our pages has caused.
_OWN_SITE: Final = frozenset({"same-origin", "none"})

#: Answers a request that was let in.
Answer = Callable[[Request], Awaitable[Response]]

#: Answers it piece by piece.
Stream = Callable[[Request, Receive, Send], Awaitable[None]]


class ForeignRequest(PermissionMissing):
    """Another site's page has caused the request."""


class Gate:
    """Lets requests in.

    Args:
        authenticator: Says who calls.
        sessions: Open cookies.
        limits: Of the tenants.
    """

    def __init__(self, authenticator: Authenticator, sessions: Sessions, limits: TenantLimits) -> None:
        self._authenticator = authenticator
        self.sessions = sessions
        self._limits = limits

    @property
    def listed(self) -> ByAccessList | None:
        """Who may call; None if everybody may."""
        return self._authenticator if isinstance(self._authenticator, ByAccessList) else None

    def page(self, answer: Answer) -> Answer:
        """What anybody may see: the pages themselves, without data."""

        async def guarded(request: Request) -> Response:
            try:
                self._check_host(request)
                return await answer(request)
            except PermissionMissing as error:
                return problem_of(error, request.url.path)

        return guarded

    def open(self, answer: Answer) -> Answer:
        """What somebody who is not known yet may do from our pages: sign in and out."""

        async def guarded(request: Request) -> Response:
            try:
                self._check_site(request)
                return await answer(request)
            except ClientDisconnect:
                return Response(status_code=400)
            except Exception as error:
                return problem_of(error, request.url.path)

        return guarded

    def rpc(self, method: str, answer: Answer) -> Answer:
        """What callers of an RPC may do."""

        async def guarded(request: Request) -> Response:
            try:
                identity = self._admit(request, method)
                with self._limits.call(identity.tenant, streaming=False), calling(identity):
                    return await answer(request)
            except ClientDisconnect:
                return Response(status_code=400)
            except Exception as error:
                return problem_of(error, method)

        return guarded

    def stream(self, method: str, stream: Stream) -> GuardedStream:
        """What callers of a streaming RPC may do."""
        return GuardedStream(self, method, stream)

    async def run_stream(self, method: str, stream: Stream, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Run it; its errors become the response as long as there is none."""
        request, started = Request(scope, receive), False

        async def sending(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            identity = self._admit(request, method)
            with self._limits.call(identity.tenant, streaming=True), calling(identity):
                await stream(request, receive, sending)
        except Exception as error:
            response = problem_of(error, method)
            if not started:
                await response(scope, receive, send)

    def _admit(self, request: Request, method: str) -> Identity:
        self._check_site(request)
        identity = self.identify(request)
        check_scope(identity, SCOPES[method], method)
        return identity

    def identify(self, request: Request) -> Identity:
        """The caller.

        Raises:
            CredentialsRejected: it is nobody who is known.
        """
        listed = self.listed
        cookie = request.cookies.get(self.sessions.cookie)
        if listed is None or cookie is None or "authorization" in request.headers:
            return self._authenticator.identify(cast(Any, HttpCaller(request)))
        identity = self.sessions.open(listed.access, cookie)
        if identity is None:
            raise CredentialsRejected("the session has ended; sign in again with a token of the server's access file")
        return identity

    def _check_site(self, request: Request) -> None:
        """Refuse what another site's page has caused.

        Raises:
            ForeignRequest: it has.
        """
        self._check_host(request)
        headers = request.headers
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is not None and site not in _OWN_SITE:
            raise ForeignRequest("only the console's own pages may ask for this; open the console itself")
        if request.method in _READING or ("authorization" in headers and self.listed is not None):
            return
        if origin is None and site is None:
            raise ForeignRequest("a change needs an Origin header; browsers send it, other callers have gRPC")
        if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
            raise ForeignRequest(
                f"{origin[:100]!r} is not where the console is served; a proxy before it must pass Host on as it is"
            )

    def _check_host(self, request: Request) -> None:
        if self.listed is not None:
            return
        try:
            host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        except ValueError:
            host = ""
        if host != "localhost" and not is_loopback(host):
            raise ForeignRequest(
                f"{host[:100]!r} is not a name of this machine alone; open the console at 127.0.0.1, or set up an "
                "access file (KLING_FLOWS_ACCESS_FILE)"
            )


class GuardedStream:
    """An ASGI application for one streaming RPC."""

    def __init__(self, gate: Gate, method: str, stream: Stream) -> None:
        self._gate = gate
        self._method = method
        self._stream = stream

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        await self._gate.run_stream(self._method, self._stream, scope, receive, send)
