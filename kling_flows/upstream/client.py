"""The calls, over one connection pool.

A call is made once and its outcome reported: repeating it is up to whoever holds the journal. The one exception is a
token that the provider calls expired or not yet valid, which is signed anew, once (fact sheet 1.4).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import httpx

from kling_flows.upstream.account import Account, account_name
from kling_flows.upstream.body import decode
from kling_flows.upstream.constants import MAX_PAGE, MAX_PAGE_SIZE, TEXT_TO_VIDEO_PATH, KlingCode
from kling_flows.upstream.errors import UpstreamAmbiguous, UpstreamAuth, UpstreamError, UpstreamUnavailable
from kling_flows.upstream.legacy import (
    UnreadableAnswer,
    classify,
    encode_create,
    is_refusal,
    parse_list,
    parse_task,
)
from kling_flows.upstream.request import TextToVideoRequest
from kling_flows.upstream.task import UpstreamTask
from kling_flows.upstream.text import excerpt

__all__ = ["Account", "OnCall", "UpstreamClient", "account_name"]

#: Told after each call: the operation (``create``, ``get``, ``list``) and ``ok``, the class of its error, or
#: ``cancelled``.
OnCall = Callable[[str, str], None]

#: Seconds that a create may take, from waiting for a connection to the last byte of the answer.
CREATE_DEADLINE: Final = 60.0
#: Seconds that a query or a list may take.
READ_DEADLINE: Final = 20.0
#: Bytes of an answer after decompression; a full page of 500 tasks is below 1 MiB.
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
#: Seconds to get a connection: a create that has none yet is better given up while nothing was sent.
_CONNECT_TIMEOUT: Final = 10.0

_RESIGN: Final = frozenset({KlingCode.AUTH_NOT_YET_VALID, KlingCode.AUTH_EXPIRED})
#: Failures before the first byte of the request.
_NEVER_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)

_T = TypeVar("_T")
_logger: Final = logging.getLogger(__name__)


class _AnswerTooLarge(Exception):
    pass


@dataclass(slots=True)
class _Flight:
    """One call.

    ``connecting`` is known of a request that waits for its connection and cannot have left. Of any other it has to be
    taken that it has: then its outcome is no longer ours to know.
    """

    operation: str
    method: str
    path: str
    deadline: float
    params: Mapping[str, int] = field(default_factory=dict[str, int])
    content: bytes | None = None
    secrets: tuple[str, ...] = ()
    connecting: bool = False

    @property
    def creating(self) -> bool:
        return self.method == "POST"

    async def trace(self, event: str, _: dict[str, Any]) -> None:
        """Follow httpcore's trace; names that it may use one day read as sent, which is the safe side."""
        self.connecting = event.startswith("connection.")


class UpstreamClient:
    """Calls one account of one provider.

    Used as an async context manager, in one event loop, by any number of tasks at once.

    Args:
        account: Whose account is used.
        create_deadline: Seconds that a create may take altogether.
        read_deadline: Seconds that a query or a list may take altogether.
        max_answer_bytes: Longest answer that is read, in bytes after decompression.
        on_call: Told the outcome of each call; for metrics.
        clock: Unix time in seconds, for signing.
    """

    def __init__(
        self,
        account: Account,
        *,
        create_deadline: float = CREATE_DEADLINE,
        read_deadline: float = READ_DEADLINE,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        on_call: OnCall | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.account = account
        self._url = account.base_url.rstrip("/") + TEXT_TO_VIDEO_PATH
        self._create_deadline = create_deadline
        self._read_deadline = read_deadline
        self._max_answer_bytes = max_answer_bytes
        self._on_call = on_call
        self._clock = clock
        self._http: httpx.AsyncClient | None = None

    def __repr__(self) -> str:
        return f"UpstreamClient(account={self.account.name!r})"

    async def __aenter__(self) -> Self:
        self._http = httpx.AsyncClient(follow_redirects=False, headers={"User-Agent": "kling-flows"})
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def create(self, request: TextToVideoRequest, external_task_id: str) -> UpstreamTask:
        """Create an upstream task, which is paid for.

        A caller that is cancelled meanwhile knows as little about the outcome as after `UpstreamAmbiguous`.

        Args:
            request: Assumed to be valid.
            external_task_id: Unique in the account; what a lost answer is looked up by.

        Raises:
            UpstreamAmbiguous: It is not known whether a task was created.
            UpstreamAlreadyExists: An earlier create with this id did arrive.
            UpstreamError: No task was created.
        """
        body = encode_create(request, external_task_id)
        flight = _Flight(
            operation="create",
            method="POST",
            path="",
            deadline=self._create_deadline,
            content=json.dumps(body, ensure_ascii=False, allow_nan=False).encode(),
            secrets=(request.callback_url,) if request.callback_url else (),
        )
        return await self._call(flight, parse_task)

    async def get(self, task_id_or_external_id: str) -> UpstreamTask:
        """Query one task by the provider's id or by ours.

        Raises:
            UpstreamNotFound: The provider says that it has none of that id.
            UpstreamError: The task could not be read; that says nothing about the task.
        """
        if not task_id_or_external_id:
            raise ValueError("a query without an id would be a list")
        path = f"/{quote(task_id_or_external_id, safe='')}"

        def parse(payload: Mapping[str, Any]) -> UpstreamTask:
            task = parse_task(payload)
            if task_id_or_external_id not in (task.task_id, task.external_task_id or task_id_or_external_id):
                raise UnreadableAnswer("the answer is about another task")
            return task

        return await self._call(_Flight("get", "GET", path, self._read_deadline), parse)

    async def list_page(self, page: int, page_size: int) -> tuple[UpstreamTask, ...]:
        """List tasks in the provider's order, which is not documented; a short page is the last one.

        Args:
            page: 1 to 1000.
            page_size: 1 to 500.

        Raises:
            UpstreamError: The page could not be read.
        """
        if not 1 <= page <= MAX_PAGE:
            raise ValueError(f"page goes from 1 to {MAX_PAGE}")
        if not 1 <= page_size <= MAX_PAGE_SIZE:
            raise ValueError(f"page_size goes from 1 to {MAX_PAGE_SIZE}")
        params = {"pageNum": page, "pageSize": page_size}
        return await self._call(_Flight("list", "GET", "", self._read_deadline, params), parse_list)

    async def _call(self, flight: _Flight, parse: Callable[[Mapping[str, Any]], _T]) -> _T:
        try:
            result = await self._within_deadline(flight, parse)
        except UpstreamError as error:
            self._report(flight, error.error_class.value)
            raise
        except asyncio.CancelledError:
            self._report(flight, "cancelled")
            raise
        self._report(flight, "ok")
        return result

    def _report(self, flight: _Flight, outcome: str) -> None:
        if self._on_call is None:
            return
        try:
            self._on_call(flight.operation, outcome)
        except Exception:
            # A broken metric must not cost the answer, which may be the id of a paid task.
            _logger.exception("on_call failed")

    async def _within_deadline(self, flight: _Flight, parse: Callable[[Mapping[str, Any]], _T]) -> _T:
        try:
            async with asyncio.timeout(flight.deadline):
                try:
                    return await self._exchange(flight, parse)
                except UpstreamAuth as error:
                    if error.provider_code not in _RESIGN or not self.account.credentials.invalidate():
                        raise
                return await self._exchange(flight, parse)
        except TimeoutError as error:
            raise self._lost(
                flight, f"no full answer within {flight.deadline:g} s", sent=not flight.connecting
            ) from error

    async def _exchange(self, flight: _Flight, parse: Callable[[Mapping[str, Any]], _T]) -> _T:
        authorization = self.account.credentials.authorization(self._clock())
        status, headers, raw = await self._send(flight, authorization)
        secrets = (*flight.secrets, *self.account.credentials.secrets, authorization.removeprefix("Bearer "))
        body = decode(raw.decode("utf-8-sig", errors="replace"))
        if 200 <= status < 300 and isinstance(body, Mapping) and not is_refusal(body):
            # An answer that cannot be read as a task is classed like any other below.
            with contextlib.suppress(UnreadableAnswer):
                return parse(body)
        raise classify(status, body, creating=flight.creating, headers=headers, secrets=secrets)

    async def _send(self, flight: _Flight, authorization: str) -> tuple[int, httpx.Headers, bytes]:
        if self._http is None:
            raise RuntimeError("UpstreamClient is used outside of 'async with'")
        flight.connecting = False
        content_type = {} if flight.content is None else {"Content-Type": "application/json"}
        try:
            async with self._http.stream(
                flight.method,
                self._url + flight.path,
                params=flight.params or None,
                content=flight.content,
                headers={"Authorization": authorization, "Accept": "application/json", **content_type},
                timeout=httpx.Timeout(flight.deadline, connect=_CONNECT_TIMEOUT, pool=_CONNECT_TIMEOUT),
                extensions={"trace": flight.trace},
            ) as response:
                return response.status_code, response.headers, await self._read(response)
        except _AnswerTooLarge as error:
            raise self._lost(flight, f"an answer of more than {self._max_answer_bytes} bytes", sent=True) from error
        except _NEVER_SENT as error:
            raise self._lost(flight, _named(error), sent=False) from error
        except (httpx.HTTPError, OSError) as error:
            raise self._lost(flight, _named(error), sent=True) from error

    async def _read(self, response: httpx.Response) -> bytes:
        raw = bytearray()
        async for chunk in response.aiter_bytes():
            raw += chunk
            if len(raw) > self._max_answer_bytes:
                raise _AnswerTooLarge
        return bytes(raw)

    def _lost(self, flight: _Flight, what: str, *, sent: bool) -> UpstreamError:
        if flight.creating and sent:
            return UpstreamAmbiguous(
                f"The create was sent and its outcome is unknown ({what}). "
                "Look it up by its external_task_id before sending anything again."
            )
        state = "gave no usable answer" if sent else "could not be reached; nothing was sent"
        return UpstreamUnavailable(f"{self.account.name} {state} ({what}). Try again later.")


def _named(error: Exception) -> str:
    text = excerpt(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
