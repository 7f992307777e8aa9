"""All checks, in the order in which one rests on another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from typing import Final

from kling_flows.cli.doctor.access import check_access, check_callbacks, check_tls
from kling_flows.cli.doctor.configuration import check_configuration, check_variables
from kling_flows.cli.doctor.finding import Finding, problem, warning
from kling_flows.cli.doctor.ledger import check_ledger
from kling_flows.cli.doctor.network import check_http, check_runner_metrics, check_server
from kling_flows.cli.doctor.prefect_server import check_prefect
from kling_flows.cli.doctor.provider import check_account, check_key, check_way
from kling_flows.cli.doctor.storage import check_archive, check_state_folder
from kling_flows.cli.options import Shared
from kling_flows.cli.output import Output
from kling_flows.settings import Settings
from kling_flows.upstream import Account

#: Seconds after which a check is given up; each has closer limits of its own.
_SECONDS: Final = 40.0


async def examine(shared: Shared, output: Output) -> AsyncGenerator[Finding]:
    """Everything that is found, as it is found; where the options name a server, what a client of it needs only."""
    finding, settings = check_configuration(shared)
    yield finding
    yield check_variables()
    if settings is None:
        return
    if "server" in shared.values:
        yield (await check_server(shared, settings, output)).finding
        yield await _checked("tls", asyncio.to_thread(check_tls, settings))
        return
    finding, account = check_account(settings)
    yield finding
    if account is not None:
        async for finding in _examine_provider(account):
            yield finding
    yield await _checked("state folder", asyncio.to_thread(check_state_folder, settings))
    yield await _checked("ledger", check_ledger(settings))
    yield await _checked("archive", check_archive(settings))
    async for finding in _examine_servers(shared, settings, output):
        yield finding
    yield await _checked("access", asyncio.to_thread(check_access, settings))
    yield await _checked("tls", asyncio.to_thread(check_tls, settings))
    yield await _checked("callbacks", check_callbacks(settings, account))


async def _examine_provider(account: Account) -> AsyncGenerator[Finding]:
    way = await check_way(account)
    yield way.reach
    if way.clock is not None:
        yield way.clock
        yield await _checked("key", check_key(account))


async def _examine_servers(shared: Shared, settings: Settings, output: Output) -> AsyncGenerator[Finding]:
    server = await check_server(shared, settings, output)
    yield server.finding
    yield await _checked("http", check_http(settings))
    yield await _checked("runner metrics", check_runner_metrics(settings))
    yield await _checked("prefect", check_prefect(settings, server_runs=server.runs))


async def _checked(check: str, finding: Awaitable[Finding]) -> Finding:
    """A check that fails itself must not keep the others from being made."""
    try:
        async with asyncio.timeout(_SECONDS):
            return await finding
    except TimeoutError:
        return warning(check, f"gave no result within {_SECONDS:.0f} s", "run doctor again")
    except Exception as error:
        # Its words may hold what nobody foresaw, a key for one.
        return problem(check, f"the check itself failed ({type(error).__name__})", "report this as a bug")
