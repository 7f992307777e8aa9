"""The provider's callbacks as a runner sees them: the address that is given out, and what is made of a call.

A callback is a hint (design, invariant 6): nothing of it is believed, it only makes the planner look. One that comes
before the create's answer is in the ledger already when the wait begins, which looks for it there. One that never
comes costs a reconciliation (:data:`~kling_flows.engine.polling.RECONCILE_SECONDS`).
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, Self
from urllib.parse import urlsplit

import structlog

from kling_flows.engine.clients import Upstreams
from kling_flows.engine.signatures import CALLBACKS_PATH
from kling_flows.errors import ConfigurationError, LedgerUnavailable
from kling_flows.ledger import Ledger, token_digest
from kling_flows.settings import Settings

log = structlog.get_logger(__name__)

_TOKEN_BYTES: Final = 24

#: Longest time between two looks for hints, in seconds; commits of other processes wake earlier.
_LOOK_SECONDS: Final = 1.0

#: Seconds for which a callback is known again.
_KEEP_SECONDS: Final = 86_400.0

_PRUNE_SECONDS: Final = 3_600.0


class CallbackAddresses:
    """Makes the address that the provider calls about one task.

    The token in it is derived from the ledger's key, so that a request that is repeated repeats it too. The ledger
    keeps its digest.

    Args:
        base_url: Public URL of the front's HTTP side.
        key: The ledger's key.
    """

    def __init__(self, base_url: str, key: bytes) -> None:
        self._base_url = base_url.rstrip("/")
        self._key = key

    @classmethod
    def of(cls, settings: Settings, ledger: Ledger) -> Self | None:
        """The addresses under ``settings.callback_base_url``; None if the provider cannot reach us.

        Raises:
            ConfigurationError: it is not an http address.
        """
        base_url = settings.callback_base_url
        if base_url is None:
            return None
        try:
            parts = urlsplit(base_url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
        except ValueError:
            usable = False
        if not usable:
            raise ConfigurationError(
                "KLING_FLOWS_CALLBACK_BASE_URL",
                "is not an http address without a query; for example https://video.example.com",
            )
        return cls(base_url, ledger.token_key)

    def url(self, provider: str, task_id: str) -> str:
        """Where the provider calls about a task; the address is a secret."""
        return f"{self._base_url}{CALLBACKS_PATH}/{provider}/{self._token(task_id)}"

    def digest(self, task_id: str) -> str:
        """What the ledger knows the address by."""
        return token_digest(self._token(task_id))

    def _token(self, task_id: str) -> str:
        tag = hmac.digest(self._key, b"callback\0" + task_id.encode(), "sha256")
        return base64.urlsafe_b64encode(tag[:_TOKEN_BYTES]).decode()


@asynccontextmanager
async def watched_hints(ledger: Ledger, runner_id: str, upstreams: Upstreams) -> AsyncGenerator[None]:
    """Hints about the tasks of a runner are followed while this context is open."""
    reading = asyncio.create_task(_HintReader(ledger, runner_id, upstreams).run(), name="hints")
    try:
        yield
    finally:
        reading.cancel()
        await asyncio.wait({reading})


class _HintReader:
    def __init__(self, ledger: Ledger, runner_id: str, upstreams: Upstreams) -> None:
        self._ledger = ledger
        self._runner_id = runner_id
        self._upstreams = upstreams
        # What came before is looked for when a wait begins.
        self._position: int | None = None
        self._prune_at = 0.0

    async def run(self) -> None:
        while True:
            changes = self._ledger.changes_by_others()
            try:
                await self._read()
                await self._prune()
            except LedgerUnavailable as error:
                log.warning("hints cannot be read", error=error.message)
            except Exception:
                # Without this loop every callback would be waited for in vain.
                log.exception("hints cannot be read")
            await changes.wait(_LOOK_SECONDS)

    async def _read(self) -> None:
        if self._position is None:
            self._position = await self._ledger.last_hint()
        self._position, hints = await self._ledger.read_hints(self._position, self._runner_id)
        for hint in hints:
            record = hint.task.upstream
            if record is None or not record.task_id:
                # The create is not answered yet.
                continue
            try:
                planner = (await self._upstreams.of(hint.task)).planner
            except ConfigurationError:
                # Nobody here can look at it, as the step itself says.
                continue
            if hint.urgent:
                planner.look_now(record.task_id)
            else:
                planner.look_soon(record.task_id)

    async def _prune(self) -> None:
        now = time.monotonic()
        if now < self._prune_at:
            return
        self._prune_at = now + _PRUNE_SECONDS
        await self._ledger.prune_hints(time.time() - _KEEP_SECONDS)
