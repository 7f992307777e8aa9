"""A front: the gRPC server with all that belongs to it, from start to drain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Self

import grpc
import structlog
from grpc_reflection.v1alpha import reflection

from grpc_server.admission import Admission
from grpc_server.auth.access import Access, access_of
from grpc_server.channelz import CHANNELZ_SERVICE_NAME, add_channelz
from grpc_server.download import Downloads
from grpc_server.health import HEALTH_SERVICE_NAME, Health
from grpc_server.hub import Hub
from grpc_server.intake import Terms
from grpc_server.interceptors import Guard
from grpc_server.limits import TenantLimits
from grpc_server.listen import bind, listen_address, tls_files
from grpc_server.observation import Observation
from grpc_server.service import SERVICE_NAME, VideoTaskService, method_handlers
from grpc_server.tokens import Tokens
from kling_flows.ledger import Ledger
from kling_flows.settings import Settings

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from grpc_server.http.metrics import MetricsEndpoint
    from grpc_server.http.server import HttpSide

#: Seconds that RPCs have to finish once the server drains; all of ours do so in milliseconds.
DRAIN_SECONDS: Final = 2.0

_MOST_PENDING: Final = 20_000

OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # By default bursts above about 1,000 calls are shed as CANCELLED, which clients never retry.
    ("grpc.server.max_pending_requests", _MOST_PENDING),
    ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
    # By default calls that nobody has had time for in half a minute are shed in the same way. How long they may wait is
    # their callers' to say, by deadlines.
    ("grpc.server_max_unrequested_time_in_server", 3_600),
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
    # 1,000 creates in one batch, each with a prompt of 2,500 characters of three bytes. This is for callers who are
    # known: what strangers send stays in the connection's flow control, see `Guard`.
    ("grpc.max_receive_message_length", 8 * 1024 * 1024),
)

log = structlog.get_logger(__name__)


class Front:
    """One gRPC server over one ledger. Make one with :meth:`start`, end it with :meth:`drain`."""

    def __init__(
        self, server: grpc.aio.Server, hub: Hub, health: Health, access: Access, http: HttpSide | None, address: str
    ) -> None:
        self._server = server
        self._hub = hub
        self._health = health
        self._access = access
        self._http = http
        #: Where it listens: ``host:port`` with the real port, or ``unix:path``.
        self.address = address

    @classmethod
    async def start(cls, settings: Settings, ledger: Ledger) -> Self:
        """Listen on ``settings.listen`` and serve the ledger's tasks to their tenants.

        Without an access file every caller is ``settings.tenant``.

        Raises:
            ConfigurationError: the address cannot be listened on, no provider is configured, or channelz is wanted and
                not installed.
            LedgerUnavailable: the ledger cannot be read.
        """
        terms = Terms.of(settings)
        access = access_of(settings)
        limits = TenantLimits(
            create_rate=settings.create_rate, max_calls=settings.max_calls, max_watches=settings.max_watches
        )
        metrics = _metrics(settings, ledger, access)
        observation = Observation(None if metrics is None else metrics.metrics)
        guard = Guard(
            SERVICE_NAME,
            access.authenticator,
            limits,
            observation,
            open_services=[HEALTH_SERVICE_NAME],
            admin_services=[CHANNELZ_SERVICE_NAME],
        )
        shared = settings.fronts > 1
        # Else a second server on the same port would start without an error and take half of the calls.
        options = (*OPTIONS, ("grpc.so_reuseport", int(shared)))
        server = grpc.aio.server(interceptors=[guard], options=options)
        address = bind(server, listen_address(settings), tls_files(settings), shared=shared)
        hub = Hub(ledger)
        health = Health(ledger, hub)
        tokens = Tokens(ledger.token_key, ledger.ledger_id)
        service = VideoTaskService(
            ledger,
            hub,
            tokens,
            Admission(ledger, settings.max_queued),
            limits,
            terms=terms,
            downloads=Downloads(ledger, hub, settings.archive_address, settings.archive_config),
            result_retention=settings.result_retention,
        )
        server.add_generic_rpc_handlers([method_handlers(service)])
        health.add_to(server)
        names = [SERVICE_NAME, HEALTH_SERVICE_NAME, reflection.SERVICE_NAME]
        if settings.channelz:
            add_channelz(server)
            names.append(CHANNELZ_SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        pages = _console(settings, ledger, service, access, limits, tokens, terms)
        http = await _start_http(settings, ledger, metrics, pages)
        if http is not None and pages:
            log.info("console is served", url=f"http://{http.address}/")
        await hub.start()
        if metrics is not None:
            # From here on: what the log held before is not news.
            hub.on_end = metrics.metrics.video_task_ended
        await health.start()
        access.start()
        await server.start()
        return cls(server, hub, health, access, http, address)

    @property
    def http_address(self) -> str | None:
        """Where HTTP is served, as ``host:port`` with the real port; None if it is not."""
        return None if self._http is None else self._http.address

    async def begin_drain(self) -> None:
        """Say NOT_SERVING, refuse new tasks and end every watch with its resume token; all else is still served."""
        await self._health.close()
        self._hub.drain()

    async def drain(self) -> None:
        """End without losing anything, within ``DRAIN_SECONDS`` and a little; the ledger may be closed afterwards."""
        await self.begin_drain()
        if self._http is not None:
            await self._http.stop()
        await self._server.stop(DRAIN_SECONDS)
        await self._hub.close()
        await self._access.close()
        log.info("drained", address=self.address)


def _metrics(settings: Settings, ledger: Ledger, access: Access) -> MetricsEndpoint | None:
    if settings.http_listen is None:
        return None
    # On demand, as the HTTP side itself.
    from grpc_server.http.metrics import MetricsEndpoint

    return MetricsEndpoint(ledger, settings.budgets, access.authenticator)


def _console(
    settings: Settings,
    ledger: Ledger,
    service: VideoTaskService,
    access: Access,
    limits: TenantLimits,
    tokens: Tokens,
    terms: Terms,
) -> Sequence[BaseRoute]:
    if settings.http_listen is None:
        return ()
    # On demand, as the HTTP side itself.
    from grpc_server.console.app import console_routes, is_served

    if not is_served(settings):
        return ()
    return console_routes(settings, ledger, service, access, limits, tokens, terms)


async def _start_http(
    settings: Settings, ledger: Ledger, metrics: MetricsEndpoint | None, pages: Sequence[BaseRoute]
) -> HttpSide | None:
    if settings.http_listen is None:
        return None
    # On demand: a front without it starts sooner.
    from grpc_server.http.server import HttpSide

    return await HttpSide.start(settings.http_listen, settings.callback_secrets, ledger, metrics, pages)
