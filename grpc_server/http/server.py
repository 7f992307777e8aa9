"""Serves HTTP in the front's event loop, from start to stop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final, Self

import structlog
import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route

from grpc_server.http.address import SETTING, http_address
from grpc_server.http.callbacks import CallbackReceiver
from grpc_server.http.metrics import METRICS_PATH, MetricsEndpoint
from kling_flows.engine.signatures import CALLBACKS_PATH
from kling_flows.errors import ConfigurationError
from kling_flows.ledger import Ledger

log = structlog.get_logger(__name__)

#: Connections at a time; further ones are answered with 503.
_MOST_CONNECTIONS: Final = 1_000

#: Seconds that an unused connection stays open.
_KEEP_ALIVE_SECONDS: Final = 30

#: Seconds that requests have to finish once the server stops.
_GRACE_SECONDS: Final = 2


class HttpSide:
    """One HTTP server. Make one with :meth:`start`, end it with :meth:`stop`."""

    def __init__(self, server: _Server, serving: asyncio.Task[None], address: str) -> None:
        self._server = server
        self._serving = serving
        #: Where it listens: ``host:port`` with the real port.
        self.address = address

    @classmethod
    async def start(
        cls,
        listen: str,
        callback_secrets: Sequence[SecretStr],
        ledger: Ledger,
        metrics: MetricsEndpoint | None = None,
        more: Sequence[BaseRoute] = (),
    ) -> Self:
        """Listen on ``host:port``, take the callbacks of the ledger's tasks, and answer scrapes if there are metrics.

        ``more`` is served beside them.

        Raises:
            ConfigurationError: the address cannot be listened on, or a callback secret is none.
        """
        host, port = http_address(listen)
        receiver = CallbackReceiver(ledger, callback_secrets)
        routes: list[BaseRoute] = [Route(CALLBACKS_PATH + "/{provider}/{token}", receiver.receive, methods=["POST"])]
        if metrics is not None:
            routes.append(Route(METRICS_PATH, metrics.scrape, methods=["GET"]))
        app = Starlette(routes=[*routes, *more])
        listener = _listen(host, port)
        server = _Server(
            uvicorn.Config(
                app,
                ws="none",
                lifespan="off",
                # The log would hold the tokens.
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_MOST_CONNECTIONS,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )
        serving = asyncio.create_task(server.serve([listener]), name="http")
        address = _shown(listener)
        log.info("http is served", address=address)
        return cls(server, serving, address)

    async def stop(self) -> None:
        """Finish the requests under way, then stop."""
        self._server.should_exit = True
        await asyncio.wait({self._serving})


class _Server(uvicorn.Server):
    """Uvicorn without signal handlers: when to stop is decided by the process."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise ConfigurationError(
            SETTING,
            f"{host}:{port} cannot be opened ({error.strerror}); stop what listens there, or listen elsewhere",
        ) from None


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
