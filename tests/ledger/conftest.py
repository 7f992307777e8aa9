"""A ledger per test: on a SQLite file of its own, and again on a PostgreSQL database of its own."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from kling_flows.ledger import Ledger

from .make import url_of
from .postgres_server import PostgresServer, postgres_server

OpenLedger = Callable[[], Awaitable[Ledger]]

#: A database with an empty ledger, and one with nothing.
_TEMPLATE, _EMPTY = "ledger", "template1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests of a worker; none if none asks for it."""

    async def prepare() -> None:
        await _execute(server, f"CREATE DATABASE {_TEMPLATE}")
        async with await Ledger.open(server.url(_TEMPLATE)):
            pass

    with postgres_server() as server:
        asyncio.run(prepare())
        yield server


async def _execute(server: PostgresServer, statement: str) -> None:
    connection = await asyncpg.connect(server.url("postgres"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def database_of(server: PostgresServer, template: str = _TEMPLATE) -> AsyncIterator[str]:
    """The name of a fresh database."""
    name = f"test_{secrets.token_hex(6)}"
    await _execute(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield name
    await _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def empty_database(postgres: PostgresServer) -> AsyncIterator[str]:
    """The name of a database without a ledger."""
    async with database_of(postgres, _EMPTY) as name:
        yield name


@pytest.fixture
async def database(postgres: PostgresServer) -> AsyncIterator[str]:
    """The name of a database with an empty ledger."""
    async with database_of(postgres) as name:
        yield name


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, path: Path) -> str:
    """The address of the test's ledger."""
    if request.param == "sqlite":
        return url_of(path)
    return request.getfixturevalue("postgres").url(request.getfixturevalue("database"))


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh_url(request: pytest.FixtureRequest, path: Path) -> str:
    """An address at which there is no ledger yet."""
    if request.param == "sqlite":
        return url_of(path)
    return request.getfixturevalue("postgres").url(request.getfixturevalue("empty_database"))


@pytest.fixture
async def open_ledger(url: str) -> AsyncIterator[OpenLedger]:
    """Open the test's ledger once more, as another process would."""
    async with AsyncExitStack() as stack:

        async def open_one() -> Ledger:
            return await stack.enter_async_context(await Ledger.open(url))

        yield open_one


@pytest.fixture
async def ledger(open_ledger: OpenLedger) -> Ledger:
    return await open_ledger()
