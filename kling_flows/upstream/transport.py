"""One call over the wire, and what its outcome means.

A call is made once and its outcome reported: repeating it is up to whoever holds the journal. The one exception is a
token that the provider calls expired or not yet valid, which is signed anew by the provider's own clock, once (fact
sheet 1.4).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

import httpx

from kling_flows.outbound.bodies import read_body
from kling_flows.telemetry.spans import Kind, Span, span
from kling_flows.upstream.account import Account
from kling_flows.upstream.body import UnreadableAnswer, decode
from kling_flows.upstream.codec import Ask
from kling_flows.upstream.constants import KlingCode
from kling_flows.upstream.errors import UpstreamAmbiguous, UpstreamAuth, UpstreamError, UpstreamUnavailable
from kling_flows.upstream.refusals import classify, is_refusal
from kling_flows.upstream.text import excerpt

#: Told after each call: the operation (``create``, ``get``, ``list``, ...) and ``ok``, the class of its error, or
#: ``cancelled``.
OnCall = Callable[[str, str], None]

#: Bytes of an answer after decompression; a full page of 500 tasks is below 1 MiB.
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
#: Seconds to get a connection: a create that has none yet is better given up while nothing was sent.
_CONNECT_TIMEOUT: Final = 10.0

_RESIGN: Final = frozenset({KlingCode.AUTH_NOT_YET_VALID, KlingCode.AUTH_EXPIRED})
#: What stands for bytes that are not UTF-8.
_REPLACED: Final = "\ufffd"
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


@dataclass(slots=True)
class Flight:
    """One call on its way.

    Args:
        operation: Its name for metrics.
        ask: What is sent.
        deadline: Seconds that it may take altogether.
        creating: Whether it can make a task that is paid for. Lists are asked for by POST as well, and make nothing.
        secrets: What of the request must not be shown if the answer repeats it.
        connecting: Whether the request waits for its connection and cannot have left. Of any other it has to be taken
            that it has: then its outcome is no longer ours to know.
    """

    operation: str
    ask: Ask
    deadline: float
    creating: bool = False
    secrets: tuple[str, ...] = ()
    connecting: bool = False

    async def trace(self, event: str, _: dict[str, Any]) -> None:
        """Follow httpcore's trace; names that it may use one day read as sent, which is the safe side."""
        self.connecting = event.startswith("connection.")


class Transport:
    """Carries the calls of one account over one connection pool, which is open between `open` and `close`.

    Args:
        account: Whose credentials are sent.
        max_answer_bytes: Longest answer that is read, in bytes after decompression.
        on_call: Told the outcome of each call.
        clock: Unix time in seconds, for signing.
    """

    def __init__(
        self,
        account: Account,
        *,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        on_call: OnCall | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._account = account
        self._base_url = account.base_url.rstrip("/")
        self._max_answer_bytes = max_answer_bytes
        self._on_call = on_call
        #: What spans say of every call.
        self._facts = {"kling_flows.provider": account.provider.value, "kling_flows.account": account.name}
        self._clock = clock
        #: Seconds by which the provider's clock is ahead of ours, as far as it has mattered.
        self._ahead = 0.0
        self._http: httpx.AsyncClient | None = None

    def open(self) -> None:
        """Make the pool; connections are made when they are needed."""
        self._http = httpx.AsyncClient(follow_redirects=False, headers={"User-Agent": "kling-flows"})

    async def close(self) -> None:
        """Close every connection."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def call(self, flight: Flight, read: Callable[[Mapping[str, Any]], _T]) -> _T:
        """Make a call and return what ``read`` makes of its answer.

        Args:
            flight: The call; used once.
            read: Raises `UnreadableAnswer` where the answer does not hold what was asked for.

        Raises:
            UpstreamAmbiguous: It creates, and it is not known whether it did.
            UpstreamError: It did not do what was asked.
        """
        with span(f"upstream {flight.operation}", kind=Kind.CLIENT, attributes=self._facts) as timed:
            try:
                result = await self._within_deadline(flight, read)
            except UpstreamError as error:
                self._report(flight, error.error_class.value, timed)
                raise
            except asyncio.CancelledError:
                self._report(flight, "cancelled", timed)
                raise
            self._report(flight, "ok", timed)
            return result

    def _report(self, flight: Flight, outcome: str, timed: Span) -> None:
        timed.set("kling_flows.outcome", outcome)
        if self._on_call is None:
            return
        try:
            self._on_call(flight.operation, outcome)
        except Exception:
            # A broken metric must not cost the answer, which may be the id of a paid task.
            _logger.exception("on_call failed")

    async def _within_deadline(self, flight: Flight, read: Callable[[Mapping[str, Any]], _T]) -> _T:
        try:
            async with asyncio.timeout(flight.deadline):
                try:
                    return await self._exchange(flight, read)
                except UpstreamAuth as error:
                    if error.provider_code not in _RESIGN or not self._account.credentials.invalidate():
                        raise
                return await self._exchange(flight, read)
        except TimeoutError as error:
            raise self._lost(
                flight, f"no full answer within {flight.deadline:g} s", sent=not flight.connecting
            ) from error

    async def _exchange(self, flight: Flight, read: Callable[[Mapping[str, Any]], _T]) -> _T:
        authorization = self._account.credentials.authorization(self._clock() + self._ahead)
        status, headers, raw = await self._send(flight, authorization)
        secrets = (*flight.secrets, *self._account.credentials.secrets, authorization.removeprefix("Bearer "))
        text = raw.decode("utf-8-sig", errors="replace")
        body = decode(text)
        # An id with a character that was lost on the way would be another id.
        whole = _REPLACED not in text
        if 200 <= status < 300 and whole and isinstance(body, Mapping) and not is_refusal(body):
            try:
                return read(body)
            except UnreadableAnswer as error:
                # Such an answer is classed like any other below.
                body = error.refusal or body
        refusal = classify(status, body, creating=flight.creating, headers=headers, secrets=secrets)
        if refusal.provider_code in _RESIGN:
            # It may be our clock that is wrong: the next token is made for the provider's.
            self._ahead = _seconds_ahead(headers.get("Date"), self._clock)
        raise refusal

    async def _send(self, flight: Flight, authorization: str) -> tuple[int, httpx.Headers, bytes]:
        if self._http is None:
            raise RuntimeError("UpstreamClient is used outside of 'async with'")
        flight.connecting = False
        ask = flight.ask
        content = None if ask.body is None else json.dumps(ask.body, ensure_ascii=False, allow_nan=False).encode()
        content_type = {} if content is None else {"Content-Type": "application/json"}
        try:
            async with self._http.stream(
                ask.method,
                self._base_url + ask.path,
                params=ask.params or None,
                content=content,
                headers={
                    "Authorization": authorization,
                    "Accept": "application/json",
                    "Accept-Encoding": "gzip, deflate",
                    **content_type,
                },
                timeout=httpx.Timeout(flight.deadline, connect=_CONNECT_TIMEOUT, pool=_CONNECT_TIMEOUT),
                extensions={"trace": flight.trace},
            ) as response:
                return response.status_code, response.headers, await read_body(response, self._max_answer_bytes)
        except _NEVER_SENT as error:
            raise self._lost(flight, _named(error), sent=False) from error
        except (httpx.HTTPError, OSError) as error:
            raise self._lost(flight, _named(error), sent=True) from error

    def _lost(self, flight: Flight, what: str, *, sent: bool) -> UpstreamError:
        if flight.creating and sent:
            return UpstreamAmbiguous(
                f"The create was sent and its outcome is unknown ({what}). "
                "Look it up by its external_task_id before sending anything again."
            )
        state = "gave no usable answer" if sent else "could not be reached; nothing was sent"
        return UpstreamUnavailable(f"{self._account.name} {state} ({what}). Try again later.")


def _seconds_ahead(date: str | None, clock: Callable[[], float]) -> float:
    """How far the clock behind a ``Date`` header is ahead of ours; 0 if it cannot be read."""
    try:
        return parsedate_to_datetime(date or "").timestamp() - clock()
    except (ValueError, OverflowError):
        return 0.0


def _named(error: Exception) -> str:
    text = excerpt(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
