"""The standard health service: SERVING while the ledger can be used and the server does not drain."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
import structlog
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

from grpc_server.hub import Hub
from grpc_server.service import SERVICE_NAME
from kling_flows.ledger import Ledger

HEALTH_SERVICE_NAME: Final = grpc_health.SERVICE_NAME

#: Seconds between two looks, and how long one may take.
LOOK_SECONDS: Final = 1.0
_LOOK_TIMEOUT: Final = 5.0

_NAMES: Final = (grpc_health.OVERALL_HEALTH, SERVICE_NAME)

log = structlog.get_logger(__name__)

# The package has no types.
_library: Final[Any] = grpc_health
_registration: Final[Any] = health_pb2_grpc


class Health:
    """Keeps the health service true."""

    def __init__(self, ledger: Ledger, hub: Hub) -> None:
        self._ledger = ledger
        self._hub = hub
        self._serving = False
        self._looker: asyncio.Task[None] | None = None
        self._servicer: Any = _library.aio.HealthServicer()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve it on ``server``."""
        _registration.add_HealthServicer_to_server(self._servicer, server)

    async def start(self) -> None:
        """Say SERVING, and look from now on whether that is so."""
        await self._say(serving=True)
        self._looker = asyncio.create_task(self._look_forever(), name="health")

    async def close(self) -> None:
        """Say NOT_SERVING for good."""
        if self._looker is not None:
            self._looker.cancel()
            await asyncio.wait([self._looker])
        await self._servicer.enter_graceful_shutdown()

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            serving = self._hub.following and await self._ledger_answers()
            if serving is not self._serving:
                log.warning("health changed", serving=serving)
                await self._say(serving=serving)

    async def _ledger_answers(self) -> bool:
        try:
            async with asyncio.timeout(_LOOK_TIMEOUT):
                await self._ledger.check()
        except Exception:
            return False
        return True

    async def _say(self, *, serving: bool) -> None:
        self._serving = serving
        status = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        for name in _NAMES:
            await self._servicer.set(name, status)
