"""A ledger per test, on a file of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from kling_flows.ledger import Ledger

from .make import url_of

OpenLedger = Callable[[], Awaitable[Ledger]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
async def open_ledger(path: Path) -> AsyncIterator[OpenLedger]:
    """Open the test's ledger once more, as another process would."""
    async with AsyncExitStack() as stack:

        async def open_one() -> Ledger:
            return await stack.enter_async_context(await Ledger.open(url_of(path)))

        yield open_one


@pytest.fixture
async def ledger(open_ledger: OpenLedger) -> Ledger:
    return await open_ledger()
