"""Answers that go wrong on their way to the client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse, Response
from starlette.types import Message, Receive, Scope, Send

from kling_flows.sandbox.connection import Connection, disconnected

#: Bytes that :class:`Overstated` promises beyond the body.
_OVERSTATED_BYTES: Final = 1024


class Dropped(Response):
    """The connection is cut without an answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        Connection.of(scope).cut()
        await disconnected(receive)


class Delayed(Response):
    """An answer that comes later, if the client is still there.

    Args:
        answer: Makes the answer.
        seconds: How much later.
    """

    def __init__(self, answer: Callable[[], Awaitable[Response]], seconds: float) -> None:
        super().__init__()
        self._answer = answer
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if not await client_left(scope, receive, self._seconds):
            response = await self._answer()
            await response(scope, receive, send)


class Hanging(Response):
    """No answer; the connection is cut after some time, if the client is still there.

    Args:
        seconds: How long; ``None`` for as long as the client waits.
    """

    def __init__(self, seconds: float | None) -> None:
        super().__init__()
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if not await client_left(scope, receive, self._seconds):
            Connection.of(scope).cut()
            await disconnected(receive)


class _Shortened(Response):
    """The first half of another answer's body.

    Args:
        whole: The other answer; it must know its length.
    """

    def __init__(self, whole: Response) -> None:
        super().__init__()
        self._whole = whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        left = 0
        ended = False

        async def send_half(message: Message) -> None:
            nonlocal left, ended
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message["headers"]))
                left = int(headers["content-length"]) // 2
                self.announce(headers, left)
                await send({**message, "headers": headers.raw})
            elif not ended:
                piece = message.get("body", b"")[:left]
                left -= len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                if not left:
                    ended = True
                    await self.end(scope, send)

        await self._whole(scope, receive, send_half)
        # To return before the loss of a cut connection is known would count as an incomplete answer.
        await disconnected(receive)

    def announce(self, headers: MutableHeaders, length: int) -> None:
        """Change the headers of an answer of which ``length`` bytes will come."""
        raise NotImplementedError

    async def end(self, scope: Scope, send: Send) -> None:
        """End the answer."""
        raise NotImplementedError


class Truncated(_Shortened):
    """Half of an answer, as if it were whole."""

    def announce(self, headers: MutableHeaders, length: int) -> None:
        """The length is that of the half."""
        headers["content-length"] = str(length)

    async def end(self, scope: Scope, send: Send) -> None:
        """A regular end."""
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Interrupted(_Shortened):
    """Half of an answer, then the connection is reset."""

    def announce(self, headers: MutableHeaders, length: int) -> None:
        """The whole length stays promised."""

    async def end(self, scope: Scope, send: Send) -> None:
        """A reset, after what was sent has left."""
        connection = Connection.of(scope)
        await connection.flush()
        connection.cut(reset=True)


class Overstated(Response):
    """A whole answer whose Content-Length promises more; then the connection closes.

    Args:
        whole: The answer; it must know its length.
    """

    def __init__(self, whole: Response) -> None:
        super().__init__()
        self._whole = whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""

        async def send_all(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message["headers"]))
                headers["content-length"] = str(int(headers["content-length"]) + _OVERSTATED_BYTES)
                await send({**message, "headers": headers.raw})
                return
            await send({**message, "more_body": True})
            if not message.get("more_body", False):
                connection = Connection.of(scope)
                await connection.flush()
                connection.cut()

        await self._whole(scope, receive, send_all)
        await disconnected(receive)


class Counted(Response):
    """An answer whose body bytes are counted.

    Args:
        whole: The answer.
        count: Called with the number of bytes of each piece.
    """

    def __init__(self, whole: Response, count: Callable[[int], None]) -> None:
        super().__init__()
        self._whole = whole
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.body":
                self._count(len(message.get("body", b"")))
            await send(message)

        await self._whole(scope, receive, send_counted)


def gateway_page(status: int, title: str) -> Response:
    """An HTML page such as a proxy or CDN sends."""
    heading = f"{status} {title}"
    return HTMLResponse(
        f"<html>\r\n<head><title>{heading}</title></head>\r\n<body>\r\n<center><h1>{heading}</h1></center>\r\n"
        "<hr><center>sandbox</center>\r\n</body>\r\n</html>\r\n",
        status_code=status,
    )


async def client_left(scope: Scope, receive: Receive, seconds: float | None) -> bool:
    """Wait for some time, or until the client has gone; whether it has. The server's stop ends the wait too."""
    connection = Connection.of(scope)
    connection.stalled = True
    try:
        async with asyncio.timeout(seconds):
            await disconnected(receive)
    except TimeoutError:
        return False
    finally:
        connection.stalled = False
    return True
