"""ListVideoTasks: one page of the caller's tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from grpc_server.filtering import parse_filter
from grpc_server.masks import Reading, parse_reading
from grpc_server.tokens import Tokens
from kling_flows.errors import InvalidRequest, Violation
from kling_flows.ledger import Ledger, VideoTask, place_of
from kling_flows.v1.video_task_service_pb2 import ListVideoTasksRequest, ListVideoTasksResponse

DEFAULT_PAGE_SIZE: Final = 50
MOST_PAGE_SIZE: Final = 1_000

#: Bytes of tasks in one page; most clients refuse messages of more than 4 MiB.
PAGE_BYTES: Final = 3_000_000

#: The orders that can be asked for, and whether the oldest is first in them.
_ORDERS: Final = {"": False, "create_time desc": False, "create_time": True}


async def list_page(
    request: ListVideoTasksRequest, *, tenant: str, ledger: Ledger, tokens: Tokens
) -> ListVideoTasksResponse:
    """A page of tasks; it may be shorter than asked for, so that it fits in a message.

    Raises:
        InvalidRequest: with all violations.
        ResumeTokenInvalid: the page token is not of this list.
    """
    violations: list[Violation] = []
    reading = parse_reading(request.view, request.read_mask, violations)
    if request.page_size < 0:
        violations.append(Violation("page_size", "OUT_OF_RANGE", "cannot be negative; 0 means 50"))
    order = " ".join(request.order_by.split())
    if order not in _ORDERS:
        violations.append(Violation("order_by", "WRONG_WORD", "must be 'create_time desc', 'create_time' or empty"))
    selected = parse_filter(request.filter, tenant)
    if isinstance(selected, Violation):
        raise InvalidRequest([*violations, selected])
    if violations:
        raise InvalidRequest(violations)
    oldest_first = _ORDERS[order]
    listed = hashlib.sha256(repr((tenant, selected, oldest_first, reading)).encode()).digest()
    beyond = tokens.open_task_page(request.page_token, listed) if request.page_token else None
    size = min(request.page_size or DEFAULT_PAGE_SIZE, MOST_PAGE_SIZE)
    # Taken before the tasks are read: what happens meanwhile is then seen twice rather than not at all.
    response = ListVideoTasksResponse(resume_token=tokens.resume(await ledger.head()))
    if selected.nothing:
        return response
    rows = await ledger.list_tasks(
        tenant=tenant, oldest_first=oldest_first, beyond=beyond, limit=size + 1, **selected.query
    )
    shown = _fill(response, rows[:size], reading)
    if shown < len(rows):
        response.next_page_token = tokens.task_page(place_of(*rows[shown - 1]), listed)
    return response


def _fill(response: ListVideoTasksResponse, rows: Sequence[tuple[int, VideoTask]], reading: Reading) -> int:
    """Put as many tasks into the response as fit, at least one; answer how many."""
    size = 0
    for number, (_, task) in enumerate(rows):
        message = reading.show(task)
        size += message.ByteSize()
        if number and size > PAGE_BYTES:
            return number
        response.video_tasks.append(message)
    return len(rows)
