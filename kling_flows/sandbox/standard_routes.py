"""The endpoints of the standard dialect: create by model, query by ids, list by cursor (fact sheet 2.3, 4.4).

It shares the account, the tasks and the charges with the legacy dialect. ``/tasks`` shows tasks of both dialects, as
seen live (fact sheet 0). What the legacy paths show of tasks ordered here is not documented: the sandbox shows them.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from kling_flows.sandbox.answers import VIDEO_PRODUCT, created_standard_task, standard_task, success
from kling_flows.sandbox.endpoints import Endpoints
from kling_flows.sandbox.errors import Refusal, invalid
from kling_flows.sandbox.faults import Operation
from kling_flows.sandbox.fields import decode
from kling_flows.sandbox.paging import page, parse_question
from kling_flows.sandbox.service import SandboxService
from kling_flows.sandbox.standard_order import parse_standard_order
from kling_flows.sandbox.surfaces import OfficialSurface, Unauthorized, refusal_response
from kling_flows.sandbox.tasks import Task
from kling_flows.upstream.constants import (
    MAX_TASK_IDS,
    STANDARD_SUCCEEDED,
    STANDARD_TEXT_TO_VIDEO_PATH,
    TASKS_PATH,
    StatusWord,
)

#: Tasks of a list's page that names no limit.
_DEFAULT_LIMIT: Final = 100
_STATUS: Final = "status"
_PRODUCT: Final = "product_type"
_IDS: Final = "task_ids"
_EXTERNAL_IDS: Final = "external_task_ids"


def standard_routes(service: SandboxService, surface: OfficialSurface) -> list[BaseRoute]:
    """The routes."""
    endpoints = _StandardEndpoints(service, surface)
    return [
        Route(TASKS_PATH, endpoints.query, methods=["GET"]),
        Route(TASKS_PATH, endpoints.list_page, methods=["POST"]),
        Route(STANDARD_TEXT_TO_VIDEO_PATH + "/{model}", endpoints.create, methods=["POST"]),
    ]


class _StandardEndpoints(Endpoints):
    def __init__(self, service: SandboxService, surface: OfficialSurface) -> None:
        super().__init__(service, surface.gateway_error)
        self._surface = surface

    async def create(self, request: Request) -> Response:
        self._service.count_call(Operation.CREATE)
        try:
            account = self._account(request)
            order = parse_standard_order(
                request.path_params["model"],
                decode(await request.body()),
                discontinued=self._service.settings.discontinued_models,
            )
        except Unauthorized as refused:
            return refused.response
        except Refusal as refusal:
            return refusal_response(refusal)
        return await self._take(account, order, request)

    async def query(self, request: Request) -> Response:
        self._service.count_call(Operation.GET)
        try:
            account = self._account(request)
            keys, external = _wanted(request)
        except Unauthorized as refused:
            return refused.response
        except Refusal as refusal:
            return refusal_response(refusal)

        async def answer() -> Response:
            tasks = self._service.tasks.find_all(account, keys, external=external)
            return success([standard_task(self._view(task, request, Operation.GET)) for task in tasks])

        if not self._service.faults.armed:
            return await answer()
        tasks = self._service.tasks.find_all(account, keys, external=external)
        text = "\n".join([*(task.order.searchable for task in tasks), *keys])
        return await self._under_faults(Operation.GET, text, answer)

    async def list_page(self, request: Request) -> Response:
        self._service.count_call(Operation.LIST)
        try:
            account = self._account(request)
        except Unauthorized as refused:
            return refused.response
        body = await request.body()

        async def answer() -> Response:
            try:
                return self._page(account, body, request)
            except Refusal as refusal:
                return refusal_response(refusal)

        return await self._under_faults(Operation.LIST, "", answer)

    def describe_created(self, task: Task) -> dict[str, object]:
        return created_standard_task(task)

    def _page(self, account: str, body: bytes, request: Request) -> Response:
        question = parse_question(
            decode(body or b"{}"), "tasks", limit=_DEFAULT_LIMIT, keys=(_STATUS, _PRODUCT), window_required=False
        )
        tasks = self._service.tasks
        place = tasks.place_after(account, question.end_ms) if question.place is None else question.place
        shown: list[object] = []
        following: int | None = None
        if question.asks_for(_PRODUCT, VIDEO_PRODUCT):
            now = self._service.now()
            for number, task in tasks.before(account, place):
                if task.created_ms < question.start_ms:
                    break
                status = task.status(now)
                word = STANDARD_SUCCEEDED if status is StatusWord.SUCCEED else status.value
                if not question.asks_for(_STATUS, word):
                    continue
                if len(shown) == question.limit:
                    following = number + 1
                    break
                shown.append(standard_task(self._view(task, request, Operation.LIST)))
        return success(page(question, shown, following, nested=False))

    def _account(self, request: Request) -> str:
        return self._surface.account(request.headers.get("authorization"), key_only=True)


def _wanted(request: Request) -> tuple[list[str], bool]:
    """The ids of a query, and whether they are external ones."""
    ids = request.query_params.get(_IDS, "")
    external_ids = request.query_params.get(_EXTERNAL_IDS, "")
    if ids and external_ids:
        raise invalid(f"{_IDS} and {_EXTERNAL_IDS} cannot be used together")
    name, listed = (_IDS, ids) if ids else (_EXTERNAL_IDS, external_ids)
    keys = [key for key in listed.split(",") if key]
    if not keys:
        raise invalid(f"{_IDS} or {_EXTERNAL_IDS} is required")
    if len(keys) > MAX_TASK_IDS:
        raise invalid(f"{name} has {len(keys)} ids, at most {MAX_TASK_IDS}")
    return keys, name == _EXTERNAL_IDS
