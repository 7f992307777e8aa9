"""The calls of one account, in its dialect.

A call is made once and its outcome reported; see `transport`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Final, Self

from kling_flows.errors import ConfigurationError
from kling_flows.upstream import account_usage, legacy, standard
from kling_flows.upstream.account import Account
from kling_flows.upstream.account_usage import Deduction, DeductionKind, ResourcePack
from kling_flows.upstream.codec import Codec, CursorPage, DialectFeatures
from kling_flows.upstream.constants import MAX_CURSOR_LIMIT, MAX_PAGE_SIZE, MAX_TASK_IDS, Dialect, Provider
from kling_flows.upstream.request import TextToVideoRequest
from kling_flows.upstream.task import UpstreamTask
from kling_flows.upstream.transport import MAX_ANSWER_BYTES, Flight, OnCall, Transport

#: Seconds that a create may take, from waiting for a connection to the last byte of the answer.
CREATE_DEADLINE: Final = 60.0
#: Seconds that any other call may take.
READ_DEADLINE: Final = 20.0

_CODECS: Final[Mapping[Dialect, Codec]] = {
    Dialect.LEGACY: legacy.LegacyCodec(),
    Dialect.STANDARD: standard.StandardCodec(),
}
_NOTHING: Final = DialectFeatures(batch_ids=0, list_page_size=0)
_FEATURES: Final[Mapping[Dialect, DialectFeatures]] = {
    Dialect.LEGACY: DialectFeatures(batch_ids=0, list_page_size=MAX_PAGE_SIZE),
    Dialect.STANDARD: DialectFeatures(batch_ids=MAX_TASK_IDS, list_page_size=0),
}


class UpstreamClient:
    """Calls one account of one provider.

    Used as an async context manager, in one event loop, by any number of tasks at once.

    Args:
        account: Whose account is used, and in which dialect.
        create_deadline: Seconds that a create may take altogether.
        read_deadline: Seconds that any other call may take altogether; of a list by cursor, each of its pages.
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
        self._codec = _CODECS[account.dialect]
        self._create_deadline = create_deadline
        self._read_deadline = read_deadline
        self._transport = Transport(account, max_answer_bytes=max_answer_bytes, on_call=on_call, clock=clock)

    def __repr__(self) -> str:
        return f"UpstreamClient(account={self.account.name!r})"

    async def __aenter__(self) -> Self:
        self._transport.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._transport.close()

    @property
    def features(self) -> DialectFeatures:
        """How many tasks one query can bring. CometAPI documents neither a list nor a batch (fact sheet 4.5)."""
        return _NOTHING if self.account.provider is Provider.COMETAPI else _FEATURES[self.account.dialect]

    async def create(self, request: TextToVideoRequest, external_task_id: str) -> UpstreamTask:
        """Create an upstream task, which is paid for.

        A caller that is cancelled meanwhile knows as little about the outcome as after `UpstreamAmbiguous`.

        Args:
            request: Assumed to be valid in the account's dialect.
            external_task_id: Unique in the account; what a lost answer is looked up by.

        Raises:
            UpstreamAmbiguous: It is not known whether a task was created.
            UpstreamAlreadyExists: An earlier create with this id did arrive.
            UpstreamError: No task was created.
        """
        flight = Flight(
            "create",
            self._codec.ask_create(request, external_task_id),
            self._create_deadline,
            creating=True,
            secrets=(request.callback_url,) if request.callback_url else (),
        )
        return await self._transport.call(flight, self._codec.read_created)

    async def get(self, task_id_or_external_id: str, *, external: bool = False) -> UpstreamTask:
        """Query one task by the provider's id or by ours.

        Args:
            task_id_or_external_id: The id.
            external: Whether it is ours. The legacy dialect takes both in one place and does not need to be told.

        Raises:
            UpstreamNotFound: The provider says that it has none of that id.
            UpstreamError: The task could not be read; that says nothing about the task.
        """
        wanted = task_id_or_external_id
        ask = self._codec.ask_one(wanted, external=external)
        return await self._transport.call(
            Flight("get", ask, self._read_deadline),
            lambda payload: self._codec.read_one(payload, wanted, external=external),
        )

    async def get_many(self, ids: Sequence[str], *, external: bool = False) -> tuple[UpstreamTask, ...]:
        """Query up to 20 tasks at once, all by the provider's ids or all by ours; standard dialect only.

        An id that is absent from the result is unknown to the provider, or its task could not be read: `get` tells.

        Raises:
            ValueError: The account speaks the legacy dialect, or ``ids`` are none, too many, or no ids.
            UpstreamError: The tasks could not be read.
        """
        self._only(Dialect.STANDARD, "a query for several tasks")
        ask = standard.ask_many(ids, external=external)
        return await self._transport.call(Flight("get_many", ask, self._read_deadline), standard.parse_tasks)

    async def list_page(self, page: int, page_size: int) -> tuple[UpstreamTask, ...]:
        """List tasks in the provider's order, which is not documented; legacy dialect only.

        A short page is the last one.

        Args:
            page: 1 to 1000.
            page_size: 1 to 500.

        Raises:
            ValueError: The account speaks the standard dialect, or a number is out of its range.
            UpstreamError: The page could not be read.
        """
        self._only(Dialect.LEGACY, "a list by page numbers")
        ask = legacy.ask_page(page, page_size)
        return await self._transport.call(Flight("list", ask, self._read_deadline), legacy.parse_list)

    async def list_tasks(
        self, *, start: datetime, end: datetime, cursor: str = "", limit: int = MAX_CURSOR_LIMIT
    ) -> CursorPage:
        """List tasks of all products that were created between two times; standard dialect only.

        Args:
            start: With a time zone.
            end: With a time zone.
            cursor: ``next_cursor`` of the page before; empty for the first one.
            limit: 1 to 500.

        Raises:
            ValueError: The account speaks the legacy dialect, or an argument is out of its range.
            UpstreamError: The page could not be read.
        """
        self._only(Dialect.STANDARD, "a list by cursor")
        ask = standard.ask_since(start, end, cursor, limit)
        return await self._transport.call(Flight("list", ask, self._read_deadline), standard.parse_page)

    async def account_costs(self, start: datetime, end: datetime) -> tuple[ResourcePack, ...]:
        """Return the account's resource packs; see `account_usage`.

        Kling asks for at most one such call a second (fact sheet 8.3), which is the caller's to keep.

        Raises:
            ConfigurationError: The provider has no such interface.
            ValueError: A time has no time zone, or there is no time between them.
            UpstreamError: The packs could not be read.
        """
        self._only_with_purse()
        ask = account_usage.ask_costs(start, end)
        return await self._transport.call(Flight("account_costs", ask, self._read_deadline), account_usage.parse_costs)

    async def deductions(
        self, kind: DeductionKind, start: datetime, end: datetime, *, limit: int = MAX_CURSOR_LIMIT
    ) -> AsyncGenerator[Deduction]:
        """Yield what each task was charged with, out of packs or out of the cash balance; see `account_usage`.

        Args:
            kind: Which purse.
            start: With a time zone.
            end: With a time zone.
            limit: Deductions asked for at once, 1 to 500.

        Raises:
            ConfigurationError: The provider has no such interface.
            ValueError: An argument is out of its range.
            UpstreamError: A page could not be read.
        """
        self._only_with_purse()
        cursor = ""
        while True:
            ask = account_usage.ask_deductions(kind, start, end, cursor, limit)
            flight = Flight("deductions", ask, self._read_deadline)
            page = await self._transport.call(flight, account_usage.parse_deductions)
            for deduction in page.deductions:
                yield deduction
            # A cursor that leads to itself would never end.
            if page.next_cursor in ("", cursor):
                return
            cursor = page.next_cursor

    def _only(self, dialect: Dialect, what: str) -> None:
        if self.account.dialect is not dialect:
            raise ValueError(f"the {self.account.dialect} dialect has no such query: {what}")

    def _only_with_purse(self) -> None:
        if self.account.provider is Provider.COMETAPI:
            raise ConfigurationError("provider", "cometapi does not pass the account on; look in its console")
