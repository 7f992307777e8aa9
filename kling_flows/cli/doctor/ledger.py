"""The ledger, looked at without making it and without bringing it up to date."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any, Final, cast

from sqlalchemy.exc import DBAPIError

from kling_flows.cli.doctor.finding import Finding, misconfigured, ok, problem
from kling_flows.errors import ConfigurationError, LedgerUnavailable
from kling_flows.ledger.address import ADDRESS_SETTING, postgresql_dsn, shown, sqlite_file
from kling_flows.ledger.migrate import HEAD, is_current, read_schema
from kling_flows.ledger.sqlite import BUSY_SECONDS, create_sqlite_engine, is_passing
from kling_flows.settings import Settings

_CHECK: Final = "ledger"
_OLD: Final = "it is brought up to date when a server starts"


async def check_ledger(settings: Settings) -> Finding:
    """Whether it can be written, by this release, now."""
    address = settings.ledger_address
    try:
        dsn = postgresql_dsn(address)
        if dsn is not None:
            return await _look_at_postgresql(dsn, shown(address))
        return await asyncio.to_thread(_look_at_file, Path(sqlite_file(address)))
    except ConfigurationError as error:
        return misconfigured(_CHECK, error)
    except ValueError:
        return problem(
            _CHECK, "its address is malformed", f"correct {ADDRESS_SETTING}: sqlite:///FILE or postgresql://…"
        )


def _look_at_file(path: Path) -> Finding:
    if not path.exists():
        return ok(_CHECK, f"{path} will be made")
    if not path.is_file():
        return problem(_CHECK, f"{path} is not a file", "name a file in KLING_FLOWS_LEDGER_URL")
    engine = create_sqlite_engine(str(path), writer=True)
    try:
        # A writing transaction, which waits for its turn and is rolled back.
        with engine.connect() as connection:
            current = is_current(connection, shown_url=str(path), setting=ADDRESS_SETTING)
            found = read_schema(connection)
            connection.rollback()
    except DBAPIError as error:
        return _refused(path, error)
    finally:
        engine.dispose()
    return ok(_CHECK, f"{path}, schema {HEAD}" if current else f"{path}, schema {found or 'none'}; {_OLD}")


def _refused(path: Path, error: DBAPIError) -> Finding:
    # The upper bits only say more of the same.
    if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
        return problem(
            _CHECK,
            f"{path} is locked by another process for more than {BUSY_SECONDS:.0f} s",
            f"end whatever holds it: fuser {path} shows the processes",
        )
    if is_passing(error):
        return problem(
            _CHECK, f"{path} cannot be written now ({error.orig})", "see whether its disk is full or failing"
        )
    return problem(
        _CHECK,
        f"{path} cannot be used ({error.orig})",
        "give this user the right to write it; if it is damaged, restore a backup, then run kling-flows audit",
    )


async def _look_at_postgresql(dsn: str, place: str) -> Finding:
    try:
        # Not everybody has installed the driver, and it takes its time to import.
        from kling_flows.ledger.postgres_connection import FAILURES, connect, not_opened
    except ImportError as error:
        return problem(_CHECK, f"a ledger on PostgreSQL needs {error.name}", "pip install 'kling-flows[postgres]'")
    try:
        connection = await connect(dsn, read_only=True)
        try:
            schema = await _schema(connection)
        finally:
            await connection.close()
    except (*FAILURES, ValueError) as error:
        told = not_opened(error, place)
        if isinstance(told, LedgerUnavailable):
            return problem(_CHECK, f"{place}: {told.message}", "see whether the database runs and can be reached")
        raise told from None
    if schema is not None and schema > HEAD:
        return problem(_CHECK, f"{place} has schema {schema}, newer than {HEAD}", "install the release that wrote it")
    return ok(_CHECK, f"{place}, schema {schema or 'none'}" + ("" if schema == HEAD else f"; {_OLD}"))


async def _schema(connection: Any) -> str | None:
    if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
        return None
    return cast("str | None", await connection.fetchval("SELECT version_num FROM alembic_version"))
