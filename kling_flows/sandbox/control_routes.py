"""The sandbox's own endpoints: charges, counts, tasks, callbacks, faults. They need no key: serve them to friends."""

from __future__ import annotations

import json

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from kling_flows.sandbox.answers import json_response
from kling_flows.sandbox.faults import parse_rules
from kling_flows.sandbox.service import SandboxService


def control_routes(service: SandboxService) -> list[BaseRoute]:
    """The routes under ``/sandbox``."""

    async def charges(request: Request) -> Response:
        records = service.charges.records()
        return json_response({"charges": records, "count": len(records)})

    async def stats(request: Request) -> Response:
        return json_response(service.stats())

    async def tasks(request: Request) -> Response:
        records = service.task_records()
        return json_response({"tasks": records, "count": len(records)})

    async def faults(request: Request) -> Response:
        if request.method == "PUT":
            try:
                service.faults.replace(parse_rules(json.loads(await request.body())))
            except ValidationError as error:
                details = error.errors(include_url=False, include_context=False, include_input=False)
                return json_response({"error": "a rule is not well formed", "details": details}, 400)
            except ValueError:
                return json_response({"error": "the body is not JSON"}, 400)
        elif request.method == "DELETE":
            service.faults.replace([])
        return json_response({"faults": service.faults.describe()})

    async def callbacks(request: Request) -> Response:
        records = service.callbacks.records()
        return json_response({"callbacks": records, "count": len(records)})

    return [
        Route("/sandbox/callbacks", callbacks, methods=["GET"]),
        Route("/sandbox/charges", charges, methods=["GET"]),
        Route("/sandbox/stats", stats, methods=["GET"]),
        Route("/sandbox/tasks", tasks, methods=["GET"]),
        Route("/sandbox/faults", faults, methods=["GET", "PUT", "DELETE"]),
    ]
