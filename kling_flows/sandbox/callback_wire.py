"""One callback on the wire: whom it may go to, how it is signed, how it is sent (fact sheet 6)."""

from __future__ import annotations

import asyncio
import math
import re
import ssl
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final

import httpx
from standardwebhooks import Webhook

from kling_flows.sandbox.answers import legacy_callback, standard_task, to_json
from kling_flows.sandbox.settings import SandboxSettings
from kling_flows.sandbox.view import TaskView
from kling_flows.upstream.constants import Dialect

#: Signs forged callbacks, with a key that is nobody's.
FORGER: Final = Webhook(b"a forged signature is made with this")

#: Bytes of a receiver's answer that are read.
_MAX_ANSWER_BYTES: Final = 64 * 1024
_LOCAL_NAME: Final = "localhost"
_LOCAL_ADDRESS: Final = "127.0.0.1"


def allowed_target(url: str) -> httpx.URL | None:
    """A URL that may be called; ``None`` for any other."""
    try:
        target = httpx.URL(url)
    except httpx.InvalidURL:
        return None
    if target.scheme not in ("http", "https"):
        return None
    if target.host == _LOCAL_NAME:
        return target
    try:
        return target if ip_address(target.host).is_loopback else None
    except ValueError:
        return None


def showable(url: str) -> str:
    """A URL without what may be secret in it."""
    return re.sub(r"//[^/@]*@", "//", url.partition("?")[0].partition("#")[0])


def body_of(view: TaskView) -> str:
    """A task as the dialect that it was ordered by words a callback."""
    standard = view.task.order.dialect is Dialect.STANDARD
    return to_json(standard_task(view) if standard else legacy_callback(view))


def signature(signers: list[Webhook], webhook_id: str, body: str) -> dict[str, str]:
    """The headers of Standard Webhooks, with one signature per secret."""
    now = datetime.now(UTC)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(math.floor(now.timestamp())),
        "webhook-signature": " ".join(signer.sign(webhook_id, now, body) for signer in signers),
    }


def open_client(settings: SandboxSettings) -> httpx.AsyncClient:
    """What callbacks are sent with."""
    # Receivers on this machine show certificates that nobody has signed.
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    return httpx.AsyncClient(
        verify=unverified,
        timeout=settings.callback_timeout,
        limits=httpx.Limits(max_connections=settings.callback_concurrency),
        headers={"user-agent": "kling-flows-sandbox"},
        # No proxy of the environment, and no redirect: both lead to other machines.
        trust_env=False,
        follow_redirects=False,
    )


async def post(
    client: httpx.AsyncClient, target: httpx.URL, body: str, headers: dict[str, str], timeout: float
) -> int | None:
    """Send a body.

    Args:
        client: What to send with.
        target: Where to, as :func:`allowed_target` gave it.
        body: JSON.
        headers: More headers.
        timeout: Seconds that the receiver has to answer.

    Returns:
        The HTTP status; ``None`` if none has come.
    """
    headers = {"content-type": "application/json; charset=utf-8", **headers}
    if target.host == _LOCAL_NAME:
        # Whatever this machine thinks that name means.
        headers["host"] = target.netloc.decode()
        target = target.copy_with(host=_LOCAL_ADDRESS)
    status: int | None = None
    try:
        # httpx limits the steps of a call; a receiver that drips would take for ever.
        async with (
            asyncio.timeout(timeout),
            client.stream("POST", target, content=body.encode(), headers=headers) as answer,
        ):
            status = answer.status_code
            # What has been read to its end leaves a connection that can be used again.
            left = _MAX_ANSWER_BYTES
            async for piece in answer.aiter_raw():
                left -= len(piece)
                if left < 0:
                    break
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
        # A status that has come counts, whatever becomes of the rest.
        return status
    return status
