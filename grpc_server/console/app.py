"""The console as routes of the front's HTTP side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grpc_server.auth.access import Access
from grpc_server.console.api import Api, Payer
from grpc_server.console.files import Files
from grpc_server.console.gate import Gate
from grpc_server.console.sessions import Sessions
from grpc_server.console.streams import Streams
from grpc_server.intake import Terms
from grpc_server.limits import TenantLimits
from grpc_server.service import VideoTaskService
from grpc_server.tokens import Tokens
from kling_flows.ledger import Ledger
from kling_flows.settings import Settings

CONSOLE_PATH: Final = "/console"

log = structlog.get_logger(__name__)

#: Nothing but our own files, and no way to make markup or code of text.
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "media-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


def is_served(settings: Settings) -> bool:
    """Whether these settings have a console.

    Where everybody may call, the console rests on being reachable from this machine only. A callback address says that
    a proxy passes calls from outside on to the same port, so that one mistake in it would let strangers spend money.
    """
    if settings.http_listen is None or not settings.console:
        return False
    if settings.access_file is None and settings.callback_base_url is not None:
        log.warning(
            "the console is not served: KLING_FLOWS_CALLBACK_BASE_URL says that HTTP is reached from outside, and "
            "everybody may call; set KLING_FLOWS_ACCESS_FILE to have both"
        )
        return False
    return True


def console_routes(
    settings: Settings,
    ledger: Ledger,
    service: VideoTaskService,
    access: Access,
    limits: TenantLimits,
    tokens: Tokens,
    terms: Terms,
) -> Sequence[BaseRoute]:
    """The console's routes: pages under `CONSOLE_PATH`, data under its ``/api``, and the way there from ``/``."""
    gate = Gate(access.authenticator, Sessions(ledger.token_key, ledger.ledger_id), limits)
    api = Api(service, gate, ledger, tokens, Payer(terms.account, settings.slots))
    streams, files = Streams(service), Files.read()
    page, rpc = gate.page(files.page), gate.rpc
    routes = [
        Route("/", page),
        Route("/new", page),
        Route("/tasks/{id}", page),
        Route("/static/{name}", gate.page(files.file)),
        Route("/api/session", gate.open(api.session), methods=["GET"]),
        Route("/api/session", gate.open(api.sign_in), methods=["POST"]),
        Route("/api/session", gate.open(api.sign_out), methods=["DELETE"]),
        Route("/api/tasks", rpc("ListVideoTasks", api.list), methods=["GET"]),
        Route("/api/tasks", rpc("CreateVideoTask", api.create), methods=["POST"]),
        Route("/api/tasks/{id}", rpc("GetVideoTask", api.get), methods=["GET"]),
        Route("/api/tasks/{id}/cancel", rpc("CancelVideoTask", api.cancel), methods=["POST"]),
        Route("/api/tasks/{id}/video", gate.stream("DownloadVideo", streams.video), methods=["GET"]),
        Route("/api/events", gate.stream("WatchVideoTasks", streams.events), methods=["GET"]),
        Route("/api/models", rpc("ListModels", api.models), methods=["GET"]),
        Route("/api/quote", rpc("QuoteVideoTask", api.quote), methods=["POST"]),
        Route("/api/account", rpc("ListBudgets", api.account), methods=["GET"]),
    ]
    return [Route("/", _to_console), Mount(CONSOLE_PATH, routes=routes, middleware=[Middleware(_Headers)])]


async def _to_console(_request: Request) -> Response:
    return RedirectResponse(f"{CONSOLE_PATH}/")


class _Headers:
    """Adds to every response what tells browsers to be careful; what says nothing of caching is not kept."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._app(scope, receive, sending)
