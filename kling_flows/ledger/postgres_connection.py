"""Connections to PostgreSQL, and what their failures mean."""

from __future__ import annotations

from typing import Any, Final, cast

import asyncpg  # pyright: ignore[reportMissingTypeStubs]
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from kling_flows.errors import ConfigurationError, LedgerUnavailable
from kling_flows.ledger.address import ADDRESS_SETTING, not_understood

#: Seconds within which a connection is made, and for which a write is tried again after one was lost.
WAIT_SECONDS: Final = 5.0

#: Seconds that a transaction waits for its turn to write.
_TURN_SECONDS: Final = 15

#: Seconds after which a statement is given up.
STATEMENT_SECONDS: Final = 30.0

#: Seconds after which the server ends a writer that was stopped, or whose machine is gone, in the middle of a
#: transaction: until then all others wait for it.
_IDLE_SECONDS: Final = 10

#: Prepared statements that a connection keeps; the ledger has fewer.
_STATEMENTS: Final = 256

#: What a connection sets, whatever the role and the database set: an answered commit is on disk, and those who write
#: see what was committed before it was their turn.
_SESSION: Final = {
    "application_name": "kling-flows",
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    "lock_timeout": f"{_TURN_SECONDS}s",
    "idle_in_transaction_session_timeout": f"{_IDLE_SECONDS}s",
    # Costs more than our statements do.
    "jit": "off",
}

#: The same snapshot for all statements of a read.
_READ_ONLY: Final = {"default_transaction_isolation": "repeatable read", "default_transaction_read_only": "on"}

#: Everything by which a database can fail.
FAILURES: Final = (DBAPIError, PoolTimeout, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)

#: Beginnings of the SQLSTATEs of what passes by itself or by somebody's making room: connection lost, server made a
#: stand-by, transaction ended by the server, resources short, turn not come, server busy or shutting down, its disk.
_PASSING: Final = ("08", "25006", "25P03", "40", "53", "55P03", "57", "58")

#: Those of what is wrong with the address, the role or its rights: 0A000 not supported, 28 login, 3D database, 42501.
_SETTINGS: Final = ("0A", "28", "3D", "42501")


async def connect(dsn: str, *, read_only: bool = False, statement_seconds: float = STATEMENT_SECONDS) -> Any:
    """A connection of the driver.

    Args:
        dsn: As libpq has it: what it does not say comes from ``PGPASSWORD``, ``PGPASSFILE`` and their like.
        read_only: Whether its transactions are read-only snapshots.
        statement_seconds: Longest time for one statement.
    """
    return await cast("Any", asyncpg).connect(
        dsn,
        timeout=WAIT_SECONDS,
        command_timeout=statement_seconds,
        server_settings={**_SESSION, **(_READ_ONLY if read_only else {})},
    )


def create_engine(
    dsn: str, *, size: int, read_only: bool = False, statement_seconds: float = STATEMENT_SECONDS
) -> AsyncEngine:
    """An engine of at most ``size`` connections; see :func:`connect`."""

    async def creator() -> Any:
        return await connect(dsn, read_only=read_only, statement_seconds=statement_seconds)

    return create_async_engine(
        "postgresql+asyncpg://",
        connect_args={"async_creator_fn": creator, "prepared_statement_cache_size": _STATEMENTS},
        pool_size=size,
        max_overflow=0,
        pool_timeout=STATEMENT_SECONDS,
    )


def is_passing(error: BaseException) -> bool:
    """Whether the database may be usable again later although nobody changes a setting."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    cause = _cause(error)
    state = getattr(cause, "sqlstate", None)
    if isinstance(state, str):
        return state.startswith(_PASSING)
    # Without an answer of the server: the network, a time limit, or a connection that was closed meanwhile.
    return isinstance(cause, (OSError, PoolTimeout, asyncpg.InterfaceError))


def unavailable(error: BaseException, *, unknown: bool = False) -> LedgerUnavailable:
    """What callers are told of a database that cannot be used.

    Args:
        error: What it has failed by.
        unknown: Whether nobody can say if the write has happened.
    """
    fate = "it is not known whether this was written, look before you repeat it" if unknown else "try again"
    cause = _cause(error)
    return LedgerUnavailable(
        f"the ledger cannot be used at the moment ({_text(cause)}); nothing was lost, {fate}",
        metadata={"cause": type(cause).__name__},
    )


def told(error: BaseException, *, unknown: bool = False) -> BaseException:
    """What the caller is told of an error in his operation, or of the database."""
    return unavailable(error, unknown=unknown) if isinstance(error, FAILURES) else error


def not_opened(error: BaseException, shown_url: str) -> LedgerUnavailable | ConfigurationError:
    """What is told when a ledger could not be opened."""
    cause = _cause(error)
    state = getattr(cause, "sqlstate", None) or ""
    if isinstance(cause, (ValueError, asyncpg.ClientConfigurationError)):
        # Its message may quote the address, and with it the password.
        return not_understood(shown_url)
    if state.startswith(_SETTINGS):
        return ConfigurationError(
            ADDRESS_SETTING,
            f"the ledger {shown_url} cannot be opened ({_text(cause)}); the role needs to be able to log in to an "
            "existing database and to create tables there",
        )
    return unavailable(error)


def _cause(error: BaseException) -> BaseException:
    """The driver's own error beneath SQLAlchemy's."""
    original = error.orig if isinstance(error, DBAPIError) else None
    if original is None:
        return error
    return original.__cause__ or original


def _text(cause: BaseException) -> str:
    # Further lines quote what is in the tables.
    return str(cause).partition("\n")[0] or type(cause).__name__
