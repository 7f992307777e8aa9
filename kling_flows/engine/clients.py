"""The accounts that one process calls: the one for new tasks, and those that earlier tasks are pinned to.

Provider, dialect, base URL and account of a task are fixed by its first request: only there is it known, and only there
is it asked for. So a change of the settings takes effect for new tasks, and earlier ones end where they began.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Self

from kling_flows.engine.lookup import LookupTrust
from kling_flows.engine.polling import PollPlanner
from kling_flows.errors import ConfigurationError
from kling_flows.ledger import Ledger, UpstreamRecord, VideoTask
from kling_flows.settings import Settings
from kling_flows.telemetry.trace_context import no_context
from kling_flows.upstream import Account, UpstreamClient

#: Provider, dialect, base URL and account.
_Pin = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Upstream:
    """One account: who calls it, who looks at its tasks, and what is known of its look-up by external id."""

    client: UpstreamClient
    planner: PollPlanner
    trust: LookupTrust


class Upstreams:
    """Open with :meth:`open`; accounts beside the default one are opened when the first task needs them."""

    def __init__(
        self, settings: Settings, stack: AsyncExitStack, start: Callable[[Account], Upstream], default: Upstream
    ) -> None:
        self.default = default
        self._settings = settings
        self._stack = stack
        self._start = start
        self._opening = asyncio.Lock()
        self._open = {_pin_of(default.client.account): default}

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, ledger: Ledger, new_client: Callable[[Account], UpstreamClient]
    ) -> AsyncGenerator[Self]:
        """Open the account for new tasks, and close it and all others afterwards.

        Raises:
            ConfigurationError: the settings name no account that can be used.
        """

        def start(account: Account) -> Upstream:
            client = new_client(account)
            return Upstream(client, PollPlanner(client, settings.poll_interval), LookupTrust(ledger, client))

        async with AsyncExitStack() as stack:
            yield cls(settings, stack, start, await _enter(stack, start(settings.account())))

    async def of(self, task: VideoTask) -> Upstream:
        """The account that the task is pinned to; the one for new tasks if it is to none yet.

        Raises:
            ConfigurationError: the settings no longer have its credentials; the task stays where it is.
        """
        if task.upstream is None:
            return self.default
        record = task.upstream
        pin = (record.provider, record.dialect, record.base_url, record.account)
        async with self._opening:
            if pin not in self._open:
                upstream = self._start(self._account(task.id, record))
                # It will serve others too: nothing that it does belongs to the trace, or the log, of this task.
                entering = asyncio.create_task(_enter(self._stack, upstream), name="open-account", context=no_context())
                self._open[pin] = await entering
            return self._open[pin]

    def stop(self) -> None:
        """End the looks at all tasks."""
        for upstream in self._open.values():
            upstream.planner.stop()

    def look_now(self, task_id: str) -> None:
        """Look at an upstream task at the next opportunity, whichever account it is of."""
        for upstream in self._open.values():
            upstream.planner.look_now(task_id)

    def _account(self, task_id: str, record: UpstreamRecord) -> Account:
        account = self._settings.account_of(
            provider=record.provider, account=record.account, base_url=record.base_url, dialect=record.dialect
        )
        if account is not None:
            return account
        default = self.default.client.account
        raise ConfigurationError(
            "KLING_FLOWS_PROVIDER",
            f"videoTasks/{task_id} was submitted to {record.base_url} with the account {record.account}, but a runner "
            f"is set to {default.base_url} and {default.name}; it goes on when a runner has the former key as well",
        )


async def _enter(stack: AsyncExitStack, upstream: Upstream) -> Upstream:
    await stack.enter_async_context(upstream.client)
    await stack.enter_async_context(upstream.planner.running())
    return upstream


def _pin_of(account: Account) -> _Pin:
    return account.provider.value, account.dialect.value, account.base_url, account.name
