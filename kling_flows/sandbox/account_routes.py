"""The account's endpoints: resource packs, and what was deducted from them or from the balance (fact sheet 8.3).

The sandbox's account pays with a pack of video units, so that its balance has no deductions. ``remaining_quantity`` is
that of now; Kling's lags 12 hours. Kling documents the API key for all three and was seen to take a JWT for the costs;
it says of its newer endpoints that they take the API key only, and so does the billing here.
"""

from __future__ import annotations

import hashlib
import time
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from kling_flows.sandbox.answers import VIDEO_PRODUCT, success
from kling_flows.sandbox.clips import delivered_duration
from kling_flows.sandbox.errors import Refusal, invalid
from kling_flows.sandbox.faults import Operation
from kling_flows.sandbox.fields import decode, milliseconds
from kling_flows.sandbox.misbehaviour import Answer, misbehave
from kling_flows.sandbox.packs import Deduction, Pack
from kling_flows.sandbox.paging import page, parse_question
from kling_flows.sandbox.service import SandboxService
from kling_flows.sandbox.standard_order import MODE_OF_RESOLUTION
from kling_flows.sandbox.surfaces import OfficialSurface, Unauthorized, refusal_response
from kling_flows.upstream.constants import (
    ACCOUNT_COSTS_PATH,
    BILLING_BALANCE_PATH,
    BILLING_PACKAGE_PATH,
    MAX_CURSOR_LIMIT,
    KlingCode,
)

#: Name of the sandbox's API key and of its pack.
API_KEY_NAME: Final = "sandbox"
PACK_NAME: Final = "Sandbox video units"

_PACK_LIFETIME_MS: Final = 180 * 86_400_000
_RESOLUTION_OF_MODE: Final = {mode: resolution for resolution, mode in MODE_OF_RESOLUTION.items()}
#: Seconds between two questions for the costs, where they are limited (fact sheet 8.3).
_COSTS_INTERVAL: Final = 1.0


def account_routes(service: SandboxService, surface: OfficialSurface) -> list[BaseRoute]:
    """The routes."""
    endpoints = _AccountEndpoints(service, surface)
    return [
        Route(ACCOUNT_COSTS_PATH, endpoints.costs, methods=["GET"]),
        Route(BILLING_PACKAGE_PATH, endpoints.package, methods=["POST"]),
        Route(BILLING_BALANCE_PATH, endpoints.balance, methods=["POST"]),
    ]


class _AccountEndpoints:
    def __init__(self, service: SandboxService, surface: OfficialSurface) -> None:
        self._service = service
        self._surface = surface
        self._costs_after = 0.0

    async def costs(self, request: Request) -> Response:
        try:
            account = self._surface.account(request.headers.get("authorization"))
        except Unauthorized as refused:
            return refused.response

        async def answer() -> Response:
            try:
                self._limit_costs()
                start_ms, end_ms = (_required_ms(request, name) for name in ("start_time", "end_time"))
                if start_ms > end_ms:
                    raise invalid("start_time must be earlier than end_time")
            except Refusal as refusal:
                return refusal_response(refusal)
            found: dict[str, object] = {"code": 0, "msg": "success"}
            pack = self._service.packs.of(account)
            # Without packs the key is absent (seen live, fact sheet 8.3).
            if pack.total and request.query_params.get("resource_pack_name") in (None, "", PACK_NAME):
                found["resource_pack_subscribe_infos"] = [_described_pack(pack, account)]
            return success(found)

        return await self._under_faults(answer)

    async def package(self, request: Request) -> Response:
        try:
            account = self._surface.account(request.headers.get("authorization"), key_only=True)
        except Unauthorized as refused:
            return refused.response
        body = await request.body()

        async def answer() -> Response:
            try:
                return success(_deductions(body, self._service.packs.of(account), account))
            except Refusal as refusal:
                return refusal_response(refusal)

        return await self._under_faults(answer)

    async def balance(self, request: Request) -> Response:
        try:
            self._surface.account(request.headers.get("authorization"), key_only=True)
        except Unauthorized as refused:
            return refused.response
        body = await request.body()

        async def answer() -> Response:
            try:
                question = parse_question(
                    decode(body), "balance", limit=MAX_CURSOR_LIMIT, keys=("api_key_name",), window_required=True
                )
            except Refusal as refusal:
                return refusal_response(refusal)
            return success(page(question, [], None, nested=True))

        return await self._under_faults(answer)

    async def _under_faults(self, answer: Answer) -> Response:
        rule = self._service.faults.for_call(Operation.ACCOUNT, "")
        return await answer() if rule is None else await misbehave(rule, answer, self._surface.gateway_error)

    def _limit_costs(self) -> None:
        if not self._service.settings.limit_costs:
            return
        now = self._service.now()
        if now < self._costs_after:
            raise Refusal(KlingCode.TOO_FAST)
        self._costs_after = now + _COSTS_INTERVAL


def _required_ms(request: Request, name: str) -> int:
    value = milliseconds(dict(request.query_params), name)
    if value is None:
        raise invalid(f"{name} is required")
    return value


def _pack_id(account: str) -> str:
    return hashlib.sha256(f"sandbox pack of {account}".encode()).hexdigest()[:32]


def _described_pack(pack: Pack, account: str) -> dict[str, object]:
    invalid_ms = pack.bought_ms + _PACK_LIFETIME_MS
    remaining = pack.remaining
    expired = time.time_ns() // 1_000_000 >= invalid_ms
    return {
        "resource_pack_name": PACK_NAME,
        "resource_pack_id": _pack_id(account),
        "resource_pack_type": "decreasing_total",
        "total_quantity": float(pack.total),
        "remaining_quantity": float(remaining),
        "purchase_time": pack.bought_ms,
        "effective_time": pack.bought_ms,
        "invalid_time": invalid_ms,
        "status": "expired" if expired else "online" if remaining > 0 else "runOut",
    }


def _deductions(body: bytes, pack: Pack, account: str) -> dict[str, object]:
    keys = ("api_key_name", "product_type", "package_name", "package_id")
    question = parse_question(decode(body), "package", limit=MAX_CURSOR_LIMIT, keys=keys, window_required=True)
    if question.filters.get("package_name") and question.filters.get("package_id"):
        raise invalid("package_name and package_id cannot be used together")
    pack_id = _pack_id(account)
    known = {
        "api_key_name": API_KEY_NAME,
        "product_type": VIDEO_PRODUCT,
        "package_name": PACK_NAME,
        "package_id": pack_id,
    }
    shown: list[object] = []
    following: int | None = None
    if all(question.asks_for(key, value) for key, value in known.items()):
        place = len(pack.deductions) if question.place is None else question.place
        for number in range(min(place, len(pack.deductions)) - 1, -1, -1):
            deduction = pack.deductions[number]
            if not question.covers(deduction.task.created_ms):
                continue
            if len(shown) == question.limit:
                following = number + 1
                break
            shown.append(_described_deduction(deduction, pack_id))
    return page(question, shown, following, nested=True)


def _described_deduction(deduction: Deduction, pack_id: str) -> dict[str, object]:
    task, order = deduction.task, deduction.task.order
    return {
        "package_id": pack_id,
        "product_type": VIDEO_PRODUCT,
        "task_id": task.task_id,
        "api_key_name": API_KEY_NAME,
        "product_function": "Text to Video",
        "model_name": order.model_name,
        "resolution": _RESOLUTION_OF_MODE[order.mode],
        # Two decimals, cut as the task's own three are: "5.04" of "5.041".
        "duration": delivered_duration(order)[:-1],
        "refer_video_input": False,
        "video_sound": "native" if order.sound else "off",
        "voice_control": order.voice,
        "deduction_time": str(task.finished_ms),
        "unit_before_deduction": float(deduction.before),
        "deduction_amount": float(order.units),
        "unit_after_deduction": float(deduction.after),
    }
