"""The text-to-video endpoints, for either surface."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from kling_flows.sandbox.answers import queried_task, success
from kling_flows.sandbox.errors import Refusal, invalid
from kling_flows.sandbox.faults import Acceptance, Fault, Operation, Rule
from kling_flows.sandbox.misbehaviour import Answer, misbehave
from kling_flows.sandbox.service import SandboxService
from kling_flows.sandbox.surfaces import Surface, Unauthorized, refusal_response
from kling_flows.sandbox.tasks import Task
from kling_flows.sandbox.text2video import Text2Video, parse_order
from kling_flows.sandbox.videos import WATERMARK_SUFFIX
from kling_flows.upstream.constants import MAX_PAGE, MAX_PAGE_SIZE, TEXT_TO_VIDEO_PATH, KlingCode, StatusWord

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
    endpoints = _Endpoints(service, surface)
    path = prefix + TEXT_TO_VIDEO_PATH
    routes: list[BaseRoute] = [
        # Queries are most of the traffic, and routes are tried in turn. An external id may contain any character.
        Route(path + "/{key:path}", endpoints.query, methods=["GET"]),
        Route(path, endpoints.create, methods=["POST"]),
    ]
    if lists:
        routes.append(Route(path, endpoints.list_page, methods=["GET"]))
    return routes


class _Endpoints:
    def __init__(self, service: SandboxService, surface: Surface) -> None:
        self._service = service
        self._surface = surface

    async def create(self, request: Request) -> Response:
        self._service.count_call(Operation.CREATE)
        try:
            account = self._account(request)
            order = parse_order(_decode(await request.body()), discontinued=self._service.settings.discontinued_models)
        except Unauthorized as refused:
            return refused.response
        except Refusal as refusal:
            return refusal_response(refusal)
        rule = self._service.faults.for_call(Operation.CREATE, order.searchable)
        if rule is None:
            return self._accept(account, order)
        return await misbehave(rule, self._accept_under(rule, account, order), self._surface.gateway_error)

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
        rule = self._service.faults.for_call(Operation.GET, self._searchable(account, key))
        return await answer() if rule is None else await misbehave(rule, answer, self._surface.gateway_error)

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

        rule = self._service.faults.for_call(Operation.LIST, "")
        return await answer() if rule is None else await misbehave(rule, answer, self._surface.gateway_error)

    def _account(self, request: Request) -> str:
        return self._surface.account(request.headers.get("authorization"))

    def _accept(self, account: str, order: Text2Video) -> Response:
        try:
            task = self._service.accept(account, order)
        except Refusal as refusal:
            return refusal_response(refusal)
        return success(self._surface.created(task))

    def _accept_under(self, rule: Rule, account: str, order: Text2Video) -> Answer:
        """Accept the order now, later or never, as the rule says, and give what makes the true answer."""
        if rule.accept is Acceptance.LATE:
            late = self._service.later(rule.delay, lambda: self._accept(account, order))

            async def await_late() -> Response:
                # The order goes on if the call is cancelled meanwhile.
                return await asyncio.shield(late)

            return await_late
        if rule.accept is Acceptance.YES:
            accepted = self._accept(account, order)

            async def give() -> Response:
                return accepted

            return give

        async def refuse() -> Response:
            return self._surface.gateway_error(500, None)

        return refuse

    def _describe(self, task: Task, request: Request, operation: Operation) -> dict[str, object]:
        now = time.monotonic()
        url = watermark_url = ""
        if task.status(now) is StatusWord.SUCCEED:
            rule = self._service.faults.for_result(operation, task.order.searchable)
            if rule is None or rule.fault is not Fault.SUCCEED_WITHOUT_URL:
                base = f"{request.scope['scheme']}://{request.headers['host']}"
                signer = self._service.signer
                url = base + signer.path(task.video_id, expired=rule is not None)
                if task.order.watermark:
                    watermark_url = base + signer.path(task.video_id + WATERMARK_SUFFIX, expired=rule is not None)
        return self._surface.queried(queried_task(task, now, url, watermark_url))

    def _searchable(self, account: str, key: str) -> str:
        try:
            return self._service.tasks.find(account, key).order.searchable
        except Refusal:
            return key


def _decode(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(KlingCode.PARAMETERS_INVALID) from error


def _query_number(request: Request, name: str, default: int, largest: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 4) or not 1 <= int(text) <= largest:
        raise invalid(f"{name} value '{text[:100]}' is invalid")
    return int(text)
