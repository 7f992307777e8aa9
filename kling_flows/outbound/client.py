"""The HTTP client for addresses that came from outside."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any, Final, cast

import httpcore
import httpx

from kling_flows.errors import AddressRefused
from kling_flows.outbound.addresses import PUBLIC_ONLY, AddressPolicy

#: Redirects that are followed, each of them checked anew.
MAX_REDIRECTS: Final = 5

#: Seconds that the name server gets.
_RESOLVE_SECONDS: Final = 5.0

#: Seconds until the connection stands.
_CONNECT_SECONDS: Final = 10.0

#: Most addresses of one name that are tried.
_MOST_ADDRESSES: Final = 4

_LIMITS: Final = httpx.Limits(max_connections=64, max_keepalive_connections=16)

#: Where a request notes for its redirects that it was encrypted.
_ENCRYPTED: Final = "kling_flows.encrypted"


def guarded_client(
    policy: AddressPolicy = PUBLIC_ONLY,
    *,
    timeout: float,
    connect: float = _CONNECT_SECONDS,
    limits: httpx.Limits = _LIMITS,
    follow_redirects: bool = True,
    proxy: str | None = None,
) -> httpx.AsyncClient:
    """A client that goes only where the policy allows.

    Every request, each hop of a redirect included, is refused with :class:`~kling_flows.errors.AddressRefused` if its
    URL or one of the addresses of its host is not allowed, or if it would leave https for http. A connection is made to
    exactly the addresses that were checked; TLS and ``Host`` still name the host. Bodies of redirects are not read.
    The environment's proxies are ignored; its ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` are not.

    Args:
        policy: What is allowed.
        timeout: Longest silence while reading or writing, in seconds.
        connect: Longest wait for a name's addresses and a connection, in seconds.
        limits: Connections.
        follow_redirects: Up to ``MAX_REDIRECTS`` of them.
        proxy: URL of a proxy of the operator's, which then resolves the names: only the URLs are checked here.
    """
    return httpx.AsyncClient(
        transport=_GuardedTransport(policy, limits, proxy),
        timeout=httpx.Timeout(timeout, connect=connect, pool=None),
        follow_redirects=follow_redirects,
        max_redirects=MAX_REDIRECTS,
        trust_env=False,
    )


class _GuardedTransport(httpx.AsyncHTTPTransport):
    def __init__(self, policy: AddressPolicy, limits: httpx.Limits, proxy: str | None) -> None:
        context = httpx.create_ssl_context()
        super().__init__(verify=context, limits=limits, proxy=proxy, trust_env=False)
        if proxy is None:
            # httpx has no other way to say how connections are made.
            self._pool = httpcore.AsyncConnectionPool(
                ssl_context=context,
                max_connections=limits.max_connections,
                max_keepalive_connections=limits.max_keepalive_connections,
                keepalive_expiry=limits.keepalive_expiry,
                network_backend=GuardedBackend(policy),
            )
        self._policy = policy

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        reason = self._policy.check(url.scheme, url.userinfo.decode(), url.host, url.port)
        if reason is None and url.scheme == "http" and request.extensions.get(_ENCRYPTED):
            reason = "it leads from https to http"
        if reason is not None:
            raise _refused(url.host, reason)
        request.extensions[_ENCRYPTED] = url.scheme == "https"
        response = await super().handle_async_request(request)
        if not response.has_redirect_location:
            return response
        # httpx would read it whole, whatever its length.
        await response.aclose()
        location = [(name, value) for name, value in response.headers.raw if name.lower() == b"location"]
        return httpx.Response(response.status_code, headers=location)


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Resolves a host once, checks every address, and connects to one of those."""

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        self._network = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore.

        Raises:
            AddressRefused: one of the host's addresses is not allowed.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (_CONNECT_SECONDS if timeout is None else timeout)
        addresses = await self._addresses(host, port, min(_RESOLVE_SECONDS, deadline - loop.time()))
        for number, address in enumerate(addresses, 1):
            # A first address that is silent must not take all the time.
            share = (deadline - loop.time()) / (len(addresses) - number + 1)
            try:
                return await self._network.connect_tcp(address, port, max(share, 0.1), local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(addresses):
                    raise
        raise httpcore.ConnectError(f"{host} has no address")

    async def _addresses(self, host: str, port: int, seconds: float) -> list[str]:
        try:
            async with asyncio.timeout(seconds):
                answers = await _resolve(host, port)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"no address of {host} within {seconds:.0f} s") from error
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} has no address") from error
        for answer in answers:
            reason = self._policy.refusal(ip_address(answer), host)
            if reason is not None:
                # A name with addresses of both kinds is not an accident.
                raise _refused(host, reason)
        return answers[:_MOST_ADDRESSES]

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Never allowed."""
        raise AddressRefused("a local socket is no address of the Internet")

    async def sleep(self, seconds: float) -> None:
        """See httpcore."""
        await asyncio.sleep(seconds)


async def _resolve(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # The scope of an IPv6 address stands apart in the answer; with it the address is link-local.
    return list(dict.fromkeys(str(answer[4][0]) for answer in found))


def _refused(host: str, reason: str) -> AddressRefused:
    return AddressRefused(
        f"{host or 'a URL without a host'} is refused: {reason}; only public addresses are allowed here, unless the "
        "operator allows others",
        metadata={"host": host},
    )
