"""A front: the gRPC server with all that belongs to it, from start to drain."""

from __future__ import annotations

from typing import Final, Self

import grpc
import structlog
from grpc_reflection.v1alpha import reflection

from grpc_server.admission import Admission
from grpc_server.health import HEALTH_SERVICE_NAME, Health
from grpc_server.hub import Hub
from grpc_server.interceptors import ErrorInterceptor
from grpc_server.listen import bind, listen_address
from grpc_server.service import SERVICE_NAME, VideoTaskService, method_handlers
from grpc_server.tokens import Tokens
from kling_flows.ledger import Ledger
from kling_flows.settings import Settings

#: Seconds that RPCs have to finish once the server drains; all of ours do so in milliseconds.
DRAIN_SECONDS: Final = 2.0

_MOST_PENDING: Final = 20_000

OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # By default bursts above about 1,000 calls are shed as CANCELLED, which clients never retry.
    ("grpc.server.max_pending_requests", _MOST_PENDING),
    ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
    # Otherwise a second server on the same port would start without an error and take half of the calls.
    ("grpc.so_reuseport", 0),
    # By default clients that ping more often than every five minutes are cut off.
    # Half of the 10 s that most libraries allow as the least: such a client must never be early.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Finds peers that have vanished without a word.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Clients spread over new replicas; a watch goes on with its token.
    ("grpc.max_connection_age_ms", 30 * 60_000),
    ("grpc.max_connection_age_grace_ms", 30_000),
    # The largest create is some 50 kB.
    ("grpc.max_receive_message_length", 256 * 1024),
)

log = structlog.get_logger(__name__)


class Front:
    """One gRPC server over one ledger. Make one with :meth:`start`, end it with :meth:`drain`."""

    def __init__(self, server: grpc.aio.Server, hub: Hub, health: Health, address: str) -> None:
        self._server = server
        self._hub = hub
        self._health = health
        #: Where it listens: ``host:port`` with the real port, or ``unix:path``.
        self.address = address

    @classmethod
    async def start(cls, settings: Settings, ledger: Ledger) -> Self:
        """Listen on ``settings.listen`` and serve ``settings.tenant``'s tasks of the ledger.

        Raises:
            ConfigurationError: the address cannot be listened on, or no provider is configured.
            LedgerUnavailable: the ledger cannot be read.
        """
        # Only whose rules apply is of interest here: a front needs no key if the provider is named.
        provider = settings.provider or settings.account().provider
        server = grpc.aio.server(interceptors=[ErrorInterceptor(SERVICE_NAME)], options=OPTIONS)
        address = bind(server, listen_address(settings.listen))
        hub = Hub(ledger, settings.tenant)
        health = Health(ledger, hub)
        service = VideoTaskService(
            ledger,
            hub,
            Tokens(ledger.token_key, ledger.ledger_id),
            Admission(ledger, settings.max_queued),
            tenant=settings.tenant,
            provider=provider,
        )
        server.add_generic_rpc_handlers([method_handlers(service)])
        health.add_to(server)
        names = (SERVICE_NAME, HEALTH_SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        await hub.start()
        await health.start()
        await server.start()
        return cls(server, hub, health, address)

    async def begin_drain(self) -> None:
        """Say NOT_SERVING, refuse new tasks and end every watch with its resume token; all else is still served."""
        await self._health.close()
        self._hub.drain()

    async def drain(self) -> None:
        """End without losing anything, within ``DRAIN_SECONDS`` and a little; the ledger may be closed afterwards."""
        await self.begin_drain()
        await self._server.stop(DRAIN_SECONDS)
        await self._hub.close()
        log.info("drained", address=self.address)
