"""An HTTP request as what the rest of the front works with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from starlette.requests import Request


class HttpCaller:
    """An HTTP request as the authenticator sees a call: by its headers; it has no client certificate."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        """The headers, their names in lower case."""
        return self._request.headers.items()

    def auth_context(self) -> dict[str, Iterable[bytes]]:
        """Nothing: HTTP is served without TLS."""
        return {}


async def read_body(request: Request, most_bytes: int) -> bytes | None:
    """The body; None if it is longer than ``most_bytes``.

    Raises:
        ClientDisconnect: the caller went away.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            return None
    return bytes(body)
