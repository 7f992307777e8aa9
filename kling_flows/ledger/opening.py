"""Opens the database that an address of a ledger means."""

from __future__ import annotations

from kling_flows.errors import ConfigurationError
from kling_flows.ledger.address import ADDRESS_SETTING, postgresql_dsn, shown, sqlite_file
from kling_flows.ledger.backend import Backend
from kling_flows.ledger.sqlite import SqliteBackend


async def open_backend(url: str) -> Backend:
    """Open the database at ``url``, with the newest schema.

    Raises:
        ConfigurationError: the address is not one of ours, cannot be used, or holds a ledger of a newer release.
        LedgerUnavailable: the database cannot be used at the moment.
    """
    dsn = postgresql_dsn(url)
    if dsn is None:
        return await SqliteBackend.open(sqlite_file(url), shown_url=url)
    try:
        # Not everybody has installed the driver, and it takes its time to import.
        from kling_flows.ledger.postgres import PostgresBackend
    except ImportError as error:
        raise ConfigurationError(
            ADDRESS_SETTING, f"a ledger on PostgreSQL needs {error.name}; install kling-flows[postgres]"
        ) from None
    return await PostgresBackend.open(dsn, shown_url=shown(url))
