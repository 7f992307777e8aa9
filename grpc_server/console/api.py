"""What the console's pages ask for: the service's RPCs as JSON."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from google.protobuf.struct_pb2 import Struct
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from grpc_server.auth.identity import caller
from grpc_server.console.documents import document, read_document, task_name
from grpc_server.console.gate import Gate
from grpc_server.console.search import search
from grpc_server.console.sessions import SESSION_SECONDS
from grpc_server.console.streams import NO_CONTEXT
from grpc_server.convert import message_of
from grpc_server.service import VideoTaskService
from grpc_server.tokens import Tokens
from kling_flows import __version__
from kling_flows.engine.identity import ledger_task_id
from kling_flows.errors import CredentialsRejected, InvalidRequest, Violation
from kling_flows.ledger import Ledger
from kling_flows.v1 import video_task_service_pb2 as rpc

#: Tasks in one page of the gallery.
PAGE_SIZE: Final = 60

MOST_PAGE_SIZE: Final = 200


@dataclass(frozen=True, slots=True)
class Payer:
    """Whose places at the provider the console shows.

    Args:
        account: `Account.name`; empty if this front has no key.
        slots: The setting of that name.
    """

    account: str
    slots: int | None


class Api:
    """The console's requests.

    Args:
        service: What gRPC is served by.
        gate: Knows the callers.
        ledger: For what no RPC tells: a task's history, and places at the provider.
        tokens: The ledger's.
        payer: Who pays.
    """

    def __init__(self, service: VideoTaskService, gate: Gate, ledger: Ledger, tokens: Tokens, payer: Payer) -> None:
        self._service = service
        self._gate = gate
        self._ledger = ledger
        self._tokens = tokens
        self._payer = payer

    async def session(self, request: Request) -> Response:
        """``GET /session``: who the browser is here, and whether it had to say so."""
        identity = self._gate.identify(request)
        return _json(
            {
                "name": identity.name,
                "tenant": identity.tenant,
                "scopes": sorted(identity.scopes),
                "signed_in": self._gate.listed is not None,
                "version": __version__,
            }
        )

    async def sign_in(self, request: Request) -> Response:
        """``POST /session`` with ``{"token": …}``: take the token, give a cookie."""
        listed = self._gate.listed
        if listed is None:
            raise InvalidRequest([Violation("token", "NOT_NEEDED", "everybody may call this server; just go on")])
        fields = dict(await read_document(request, Struct()))
        token = fields.get("token")
        if not isinstance(token, str) or not token:
            raise CredentialsRejected("enter the token that the server's access file knows")
        response = Response(status_code=204)
        response.set_cookie(
            self._gate.sessions.cookie,
            self._gate.sessions.begin(listed.access, token.strip()),
            max_age=SESSION_SECONDS,
            path="/console",
            # Said by the browser: TLS ends before this server, if there is any.
            secure=urlsplit(request.headers.get("origin", "")).scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return response

    async def sign_out(self, _request: Request) -> Response:
        """``DELETE /session``: take the cookie away."""
        response = Response(status_code=204)
        response.delete_cookie(self._gate.sessions.cookie, path="/console", httponly=True, samesite="strict")
        return response

    async def list(self, request: Request) -> Response:
        """``GET /tasks``: a page, the newest first. Query: ``filter``, ``text``, ``page_size``, ``page_token``."""
        query = request.query_params
        listing = rpc.ListVideoTasksRequest(
            page_size=_page_size(query.get("page_size", "")),
            page_token=query.get("page_token", ""),
            filter=query.get("filter", ""),
        )
        text = query.get("text", "").strip()
        page = await (search(listing, text, self._list_page) if text else self._list_page(listing))
        return _json(document(page))

    async def _list_page(self, request: rpc.ListVideoTasksRequest) -> rpc.ListVideoTasksResponse:
        return await self._service.list(request, NO_CONTEXT)

    async def create(self, request: Request) -> Response:
        """``POST /tasks``: a CreateVideoTaskRequest."""
        create = await read_document(request, rpc.CreateVideoTaskRequest())
        return _json(document(await self._service.create(create, NO_CONTEXT)), 201)

    async def get(self, request: Request) -> Response:
        """``GET /tasks/{id}``: the task, all its events, and where to watch on from."""
        # Taken first: what happens meanwhile is then seen twice rather than not at all.
        resume_token = self._tokens.resume(await self._ledger.head())
        task = await self._service.get(rpc.GetVideoTaskRequest(name=task_name(request)), NO_CONTEXT)
        history = await self._ledger.read_history(ledger_task_id(caller().tenant, request.path_params["id"]))
        return _json(
            {
                "video_task": document(task),
                "events": [document(message_of(event.task, full=False)) for event in history],
                "resume_token": resume_token,
            }
        )

    async def cancel(self, request: Request) -> Response:
        """``POST /tasks/{id}/cancel``: a CancelVideoTaskRequest; its name is that of the path."""
        cancel = await read_document(request, rpc.CancelVideoTaskRequest())
        cancel.name = task_name(request)
        return _json(document(await self._service.cancel(cancel, NO_CONTEXT)))

    async def models(self, request: Request) -> Response:
        """``GET /models``: the capability map. Query: ``show_retired`` (any)."""
        listing = rpc.ListModelsRequest(show_retired="show_retired" in request.query_params)
        return _json(document(await self._service.list_models(listing, NO_CONTEXT)))

    async def quote(self, request: Request) -> Response:
        """``POST /quote``: a QuoteVideoTaskRequest."""
        quote = await read_document(request, rpc.QuoteVideoTaskRequest())
        return _json(document(await self._service.quote(quote, NO_CONTEXT)))

    async def account(self, _request: Request) -> Response:
        """``GET /account``: the caller's budgets, and the places at the provider where they are limited."""
        budgets = await self._service.list_budgets(rpc.ListBudgetsRequest(), NO_CONTEXT)
        return _json({**document(budgets), "slots": await self._slots()})

    async def _slots(self) -> Sequence[dict[str, Any]]:
        account = self._payer.account
        if not account:
            return []
        places = await self._ledger.read_places(account, self._payer.slots)
        tenant, result = caller().tenant, list[dict[str, Any]]()
        for slot in sorted({*places.held, *places.learned}):
            if not slot.startswith(f"{account}/"):
                continue
            model_name = slot.removeprefix(f"{account}/")
            free = places.room(model_name, time.time())
            result.append(
                {
                    "model_name": model_name,
                    "yours": places.held.get(slot, {}).get(tenant, 0),
                    "free": int(free) if math.isfinite(free) else None,
                }
            )
        return result


def _page_size(text: str) -> int:
    if not text:
        return PAGE_SIZE
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MOST_PAGE_SIZE:
        raise InvalidRequest([Violation("page_size", "OUT_OF_RANGE", f"goes from 1 to {MOST_PAGE_SIZE}")])
    return int(text)


def _json(content: Any, status: int = 200) -> Response:
    return JSONResponse(content, status)
