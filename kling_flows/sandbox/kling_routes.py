"""The legacy text-to-video endpoints, for either surface."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from kling_flows.sandbox.answers import legacy_task, success
from kling_flows.sandbox.endpoints import Endpoints
from kling_flows.sandbox.errors import Refusal, invalid
from kling_flows.sandbox.faults import Operation
from kling_flows.sandbox.fields import decode
from kling_flows.sandbox.service import SandboxService
from kling_flows.sandbox.surfaces import Surface, Unauthorized, refusal_response
from kling_flows.sandbox.tasks import Task
from kling_flows.sandbox.text2video import parse_order
from kling_flows.upstream.constants import MAX_PAGE, MAX_PAGE_SIZE, TEXT_TO_VIDEO_PATH

#: Page size of a list that names none (fact sheet 4.3).
_DEFAULT_PAGE_SIZE: Final = 30


def kling_routes(service: SandboxService, surface: Surface, *, prefix: str = "", lists: bool) -> list[BaseRoute]:
    """The routes of one surface.

    Args:
        service: The sandbox's state.
        surface: Whose words are used.
        prefix: What comes before Kling's paths.
        lists: Whether there is a list endpoint.
    """
    endpoints = _LegacyEndpoints(service, surface)
    path = prefix + TEXT_TO_VIDEO_PATH
    routes: list[BaseRoute] = [
        # Queries are most of the traffic, and routes are tried in turn. An external id may contain any character.
        Route(path + "/{key:path}", endpoints.query, methods=["GET"]),
        Route(path, endpoints.create, methods=["POST"]),
    ]
    if lists:
        routes.append(Route(path, endpoints.list_page, methods=["GET"]))
    return routes


class _LegacyEndpoints(Endpoints):
    def __init__(self, service: SandboxService, surface: Surface) -> None:
        super().__init__(service, surface.gateway_error)
        self._surface = surface

    async def create(self, request: Request) -> Response:
        self._service.count_call(Operation.CREATE)
        try:
            account = self._account(request)
            order = parse_order(decode(await request.body()), discontinued=self._service.settings.discontinued_models)
        except Unauthorized as refused:
            return refused.response
        except Refusal as refusal:
            return refusal_response(refusal)
        return await self._take(account, order, request)

    async def query(self, request: Request) -> Response:
        self._service.count_call(Operation.GET)
        try:
            account = self._account(request)
        except Unauthorized as refused:
            return refused.response
        key: str = request.path_params["key"]

        async def answer() -> Response:
            try:
                task = self._service.tasks.find(account, key)
            except Refusal as refusal:
                return refusal_response(refusal)
            return success(self._describe(task, request, Operation.GET))

        if not self._service.faults.armed:
            return await answer()
        return await self._under_faults(Operation.GET, self._searchable(account, key), answer)

    async def list_page(self, request: Request) -> Response:
        self._service.count_call(Operation.LIST)
        try:
            account = self._account(request)
        except Unauthorized as refused:
            return refused.response

        async def answer() -> Response:
            try:
                number = _query_number(request, "pageNum", 1, MAX_PAGE)
                size = _query_number(request, "pageSize", _DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
            except Refusal as refusal:
                return refusal_response(refusal)
            page = self._service.tasks.page(account, number, size)
            return success([self._describe(task, request, Operation.LIST) for task in page])

        return await self._under_faults(Operation.LIST, "", answer)

    def describe_created(self, task: Task) -> dict[str, object]:
        return self._surface.created(task)

    def _account(self, request: Request) -> str:
        return self._surface.account(request.headers.get("authorization"))

    def _describe(self, task: Task, request: Request, operation: Operation) -> dict[str, object]:
        return self._surface.queried(legacy_task(self._view(task, request, operation)))

    def _searchable(self, account: str, key: str) -> str:
        try:
            return self._service.tasks.find(account, key).order.searchable
        except Refusal:
            return key


def _query_number(request: Request, name: str, default: int, largest: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 4) or not 1 <= int(text) <= largest:
        raise invalid(f"{name} value '{text[:100]}' is invalid")
    return int(text)
