"""The provider's callbacks: checked, written down, and answered at once; who carries the task looks into it.

Nothing of a callback is believed (design, invariant 6). The unguessable token in its address says which task it is
about; where secrets are set it must also be signed (Standard Webhooks; fact sheet 6).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Final

import structlog
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from grpc_server.http.caller import read_body
from kling_flows.engine.signatures import webhook_of
from kling_flows.errors import LedgerUnavailable
from kling_flows.ledger import Ledger, token_digest
from kling_flows.upstream import Provider, UnreadableAnswer, parse_callback

log = structlog.get_logger(__name__)

#: Bytes of the largest body that is taken; the documented ones are some 1 kB.
MOST_BYTES: Final = 64 * 1024

#: Seconds that a body may take.
_BODY_SECONDS: Final = 10.0

_MOST_TOKEN_CHARACTERS: Final = 128

_PROVIDERS: Final = frozenset(provider.value for provider in Provider)


class CallbackReceiver:
    """Takes callbacks of one ledger's tasks.

    Args:
        ledger: Where they are written.
        secrets: Any of them may have signed a callback; none: signatures are not asked for.

    Raises:
        ConfigurationError: a secret is none.
    """

    def __init__(self, ledger: Ledger, secrets: Sequence[SecretStr]) -> None:
        self._ledger = ledger
        self._webhooks = [webhook_of("KLING_FLOWS_CALLBACK_SECRETS", secret) for secret in secrets]

    async def receive(self, request: Request) -> Response:
        """Answer ``POST /callbacks/{provider}/{token}``: 200 once it is durable.

        404 for a token that was never given out, 401 for a bad signature, 413 and 408 for a body that is too long or
        too slow, 503 while nothing can be written: the provider may call again.
        """
        token = request.path_params["token"]
        if request.path_params["provider"] not in _PROVIDERS or len(token) > _MOST_TOKEN_CHARACTERS:
            return Response(status_code=404)
        digest = token_digest(token)
        try:
            # Before the body is read: strangers get nothing of our memory.
            if not await self._ledger.is_expected(digest):
                return Response(status_code=404)
            async with asyncio.timeout(_BODY_SECONDS):
                body = await read_body(request, MOST_BYTES)
            if body is None:
                return Response(status_code=413)
            if self._webhooks and not _signed(self._webhooks, body, request):
                log.warning("a callback was refused: its signature is missing, wrong or too old")
                return Response(status_code=401)
            # The header is the sender's own name for a callback that it repeats.
            named = request.headers.get("webhook-id", "").encode() or body
            webhook_id = hashlib.sha256(digest.encode() + b"\0" + named).hexdigest()
            known = await self._ledger.note_hint(digest, webhook_id, urgent=_says_ended(body))
            return Response(status_code=200 if known else 404)
        except ClientDisconnect:
            return Response(status_code=400)
        except TimeoutError:
            return Response(status_code=408)
        except LedgerUnavailable as error:
            log.warning("a callback cannot be written", error=error.message)
            return Response(status_code=503, headers={"retry-after": "5"})


def _signed(webhooks: Sequence[Webhook], body: bytes, request: Request) -> bool:
    headers = dict(request.headers)
    return any(_verifies(webhook, body, headers) for webhook in webhooks)


def _verifies(webhook: Webhook, body: bytes, headers: dict[str, str]) -> bool:
    try:
        webhook.verify(body, headers, json_parse=False)
    except (WebhookVerificationError, ValueError):
        # The library lets through what it cannot decode: a signature without a version, text that is not UTF-8.
        return False
    return True


def _says_ended(body: bytes) -> bool:
    """Whether to look at once or at leisure; what cannot be read may be an end."""
    try:
        task = parse_callback(body)
    except (UnreadableAnswer, RecursionError):
        return True
    return task.status.final
