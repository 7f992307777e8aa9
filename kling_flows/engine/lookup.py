"""Whether an account's provider answers a look-up by external id: on that rests that nothing is paid twice."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from kling_flows.ledger import Ledger
from kling_flows.upstream import Provider, UpstreamClient, UpstreamError
from kling_flows.upstream.errors import UpstreamNotFound

log = structlog.get_logger(__name__)

#: Seconds before each look-up by external id: the provider may need a moment to show what it accepted.
LOOKUP_DELAYS: Final = (0.0, 1.0, 3.0)

#: The look-up is documented there (fact sheet 4.2), or is ours.
_DOCUMENTED: Final = frozenset({Provider.KLING, Provider.SANDBOX})


class LookupTrust:
    """What is known of one account, kept in the ledger: learned from the first task that the provider accepts."""

    def __init__(self, ledger: Ledger, client: UpstreamClient) -> None:
        self._ledger = ledger
        self._client = client
        self._key = f"lookup/{client.account.name}"
        self._known: str | None = None

    async def trusted(self) -> bool:
        """Whether «not found» by external id means that nothing was created."""
        known = await self._read()
        if known is None:
            return self._client.account.provider in _DOCUMENTED
        return known == "honoured"

    async def learn(self, external_task_id: str, task_id: str) -> None:
        """Look an accepted task up by its external id, once per account; an error leaves it unknown."""
        if await self._read() is not None:
            return
        try:
            honoured = await self._finds(external_task_id)
            if not honoured:
                # A task that cannot be seen by the provider's own id either is only not shown yet.
                await self._client.get(task_id)
        except UpstreamError as error:
            log.warning("cannot verify the look-up by external_task_id yet", error=error.message)
            return
        if not honoured:
            log.error(
                "the provider does not find a task by external_task_id; after an unknown outcome tasks will stop as "
                "UNRESOLVED instead of being submitted again",
                account=self._client.account.name,
            )
        self._known = "honoured" if honoured else "not-honoured"
        await self._ledger.write_meta(self._key, self._known)

    async def _finds(self, external_task_id: str) -> bool:
        for delay in LOOKUP_DELAYS:
            await asyncio.sleep(delay)
            try:
                await self._client.get(external_task_id, external=True)
            except UpstreamNotFound:
                continue
            return True
        return False

    async def _read(self) -> str | None:
        if self._known is None:
            self._known = (await self._ledger.read_meta()).get(self._key)
        return self._known
