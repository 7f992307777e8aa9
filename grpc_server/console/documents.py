"""Messages as JSON and back: protobuf's JSON with the protos' field names, as the command line prints it."""

from __future__ import annotations

import asyncio
from typing import Any, Final, TypeVar

from google.protobuf.json_format import MessageToDict, Parse, ParseError
from google.protobuf.message import Message
from starlette.requests import Request

from grpc_server.http.caller import read_body
from kling_flows.errors import InvalidRequest, Violation

M = TypeVar("M", bound=Message)

#: Bytes of the largest body that is taken; a create with everything filled in has some 20 kB.
MOST_BYTES: Final = 256 * 1024

#: Seconds that a body may take.
_BODY_SECONDS: Final = 10.0

_JSON: Final = "application/json"


def document(message: Message) -> dict[str, Any]:
    """``message`` as JSON."""
    return MessageToDict(message, preserving_proto_field_name=True)


async def read_document(request: Request, message: M) -> M:
    """Fill ``message`` from the request's body.

    Raises:
        InvalidRequest: it is no JSON of such a message, too long, or too slow.
        ClientDisconnect: the caller went away.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _JSON:
        raise _malformed(f"send it as {_JSON}")
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            body = await read_body(request, MOST_BYTES)
    except TimeoutError:
        raise _malformed(f"the body did not arrive within {_BODY_SECONDS:g} s; send it again") from None
    if body is None:
        raise _malformed(f"the body has more than {MOST_BYTES} bytes; send less")
    try:
        return Parse(body, message)
    except (ParseError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(f"is no JSON of {message.DESCRIPTOR.name}: {str(error)[:200]}") from None


def task_name(request: Request) -> str:
    """The name of the task that the request's path is about."""
    return f"videoTasks/{request.path_params['id']}"


def _malformed(what: str) -> InvalidRequest:
    return InvalidRequest([Violation("request", "MALFORMED", what)])
