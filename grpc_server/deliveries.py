"""The RPCs about calls to the callers' own addresses: what was delivered, what is tried again, what was given up."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import grpc

from grpc_server.auth.identity import caller
from grpc_server.names import name_of, parse_name
from grpc_server.tokens import Tokens
from kling_flows.errors import InvalidRequest, Violation
from kling_flows.ledger import Delivery, DeliveryState, Ledger
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1 import video_task_service_pb2 as rpc

DEFAULT_PAGE_SIZE: Final = 50
MOST_PAGE_SIZE: Final = 1_000

_PREFIX: Final = "callbackDeliveries/"
#: A number that the ledger may have given.
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,17}")
_SHOWN: Final = 80

_STATES: Final[Mapping[DeliveryState, rpc.CallbackDelivery.State.ValueType]] = {
    state: rpc.CallbackDelivery.State.Value(state.value) for state in DeliveryState
}
_ASKED: Final = {value: state for state, value in _STATES.items()}

_Context = grpc.aio.ServicerContext[Any, Any]


class CallbackDeliveries:
    """Lists the caller's deliveries, and begins dead ones anew."""

    def __init__(self, ledger: Ledger, tokens: Tokens) -> None:
        self._ledger = ledger
        self._tokens = tokens

    async def list(
        self, request: rpc.ListCallbackDeliveriesRequest, _context: _Context
    ) -> rpc.ListCallbackDeliveriesResponse:
        """Answer a page of deliveries, the newest first.

        Raises:
            InvalidRequest: with all violations.
            ResumeTokenInvalid: the page token is not of this list.
        """
        violations: list[Violation] = []
        if request.page_size < 0:
            violations.append(Violation("page_size", "OUT_OF_RANGE", "cannot be negative; 0 means 50"))
        if request.state and request.state not in _ASKED:
            violations.append(
                Violation("state", "WRONG_WORD", f"{request.state} is not a state; use PENDING, DELIVERED or DEAD")
            )
        tenant = caller().tenant
        task_id: str | Violation | None = None
        if request.video_task:
            task_id = parse_name(request.video_task, "video_task", tenant)
            if isinstance(task_id, Violation):
                violations.append(task_id)
        if violations or isinstance(task_id, Violation):
            raise InvalidRequest(violations)
        listed = hashlib.sha256(
            repr(("callbackDeliveries", tenant, request.state, request.video_task)).encode()
        ).digest()
        before_id = self._tokens.open_page(request.page_token, listed) if request.page_token else None
        size = min(request.page_size or DEFAULT_PAGE_SIZE, MOST_PAGE_SIZE)
        found = await self._ledger.list_deliveries(
            tenant, state=_ASKED.get(request.state), task_id=task_id, before_id=before_id, limit=size + 1
        )
        page = found[:size]
        return rpc.ListCallbackDeliveriesResponse(
            callback_deliveries=[_message(delivery) for delivery in page],
            next_page_token=self._tokens.page(page[-1].id, listed) if len(found) > size else "",
        )

    async def retry(self, request: rpc.RetryCallbackDeliveryRequest, _context: _Context) -> rpc.CallbackDelivery:
        """Begin a DEAD delivery anew, or answer any other one as it is.

        Raises:
            InvalidRequest: the name is none.
            CallbackDeliveryNotFound: there is no such delivery.
        """
        return _message(await self._ledger.retry_delivery(caller().tenant, _parse_number(request.name)))


def _parse_number(name: str) -> int:
    if not name:
        raise InvalidRequest([Violation("name", "REQUIRED", "name the delivery: callbackDeliveries/{number}")])
    number = name.removeprefix(_PREFIX)
    if number == name or not _NUMBER.fullmatch(number):
        raise InvalidRequest(
            [Violation("name", "MALFORMED", f"must be callbackDeliveries/{{number}}, not {name[:_SHOWN]!r}")]
        )
    return int(number)


def _message(delivery: Delivery) -> rpc.CallbackDelivery:
    message = rpc.CallbackDelivery(
        name=f"{_PREFIX}{delivery.id}",
        video_task=name_of(delivery.task.id),
        video_task_state=pb.VideoTask.State.Value(delivery.task.state.value),
        revision=delivery.task.revision,
        state=_STATES[delivery.state],
        attempts=delivery.attempts,
        last_error=delivery.last_error,
    )
    if delivery.state is DeliveryState.PENDING:
        message.next_attempt_time.FromNanoseconds(round(delivery.next_time * 1e9))
    return message
