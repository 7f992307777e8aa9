"""Puts the sandbox's endpoints together as one ASGI application."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from kling_flows.sandbox.account_routes import account_routes
from kling_flows.sandbox.answers import json_response
from kling_flows.sandbox.cdn_routes import cdn_routes
from kling_flows.sandbox.control_routes import control_routes
from kling_flows.sandbox.kling_routes import kling_routes
from kling_flows.sandbox.service import SandboxService
from kling_flows.sandbox.standard_routes import standard_routes
from kling_flows.sandbox.surfaces import COMETAPI_PREFIX, CometApiSurface, OfficialSurface


def create_app(service: SandboxService) -> Starlette:
    """The application; it has to be served by :class:`~kling_flows.sandbox.connection.ConnectionProtocol`."""
    official, cometapi = OfficialSurface(), CometApiSurface()

    async def no_route(request: Request, error: Exception) -> Response:
        method, path = request.method, request.url.path
        wrong_method = isinstance(error, HTTPException) and error.status_code == 405
        if path.startswith(f"{COMETAPI_PREFIX}/"):
            return cometapi.no_route(method, path, wrong_method=wrong_method)
        if path.startswith("/sandbox/"):
            return json_response({"error": f"no such endpoint: {method} {path}"}, 405 if wrong_method else 404)
        return official.no_route(method, path, wrong_method=wrong_method)

    app = Starlette(
        routes=[
            *kling_routes(service, official, lists=True),
            *standard_routes(service, official),
            *account_routes(service, official),
            *kling_routes(service, cometapi, prefix=COMETAPI_PREFIX, lists=False),
            *cdn_routes(service),
            *control_routes(service),
        ],
        exception_handlers={404: no_route, 405: no_route},
    )
    # A redirect to a path without its last slash would be news to Kling's clients.
    app.router.redirect_slashes = False
    return app
