"""Which database an address of a ledger means."""

from __future__ import annotations

from typing import Final

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from kling_flows.errors import ConfigurationError
from kling_flows.ledger.address import ADDRESS_SETTING, is_torn, not_understood, shown
from kling_flows.ledger.backend import Backend
from kling_flows.ledger.sqlite import SqliteBackend

_POSTGRESQL: Final = ("postgresql", "postgres", "postgresql+asyncpg")


async def open_backend(url: str) -> Backend:
    """Open the database at ``url``, with the newest schema.

    Raises:
        ConfigurationError: the address is not one of ours, cannot be used, or holds a ledger of a newer release.
        LedgerUnavailable: the database cannot be used at the moment.
    """
    scheme, _, rest = url.partition("://")
    if scheme in _POSTGRESQL and rest:
        if is_torn(url):
            raise not_understood(shown(url))
        try:
            # Not everybody has installed the driver, and it takes its time to import.
            from kling_flows.ledger.postgres import PostgresBackend
        except ImportError as error:
            raise ConfigurationError(
                ADDRESS_SETTING, f"a ledger on PostgreSQL needs {error.name}; install kling-flows[postgres]"
            ) from None
        return await PostgresBackend.open(f"postgresql://{rest}", shown_url=shown(url))
    return await SqliteBackend.open(_sqlite_path(url), shown_url=url)


def _sqlite_path(url: str) -> str:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        raise ConfigurationError(
            ADDRESS_SETTING,
            "only sqlite:///<file> and postgresql://<user>@<host>/<database> are ledgers; for example "
            "sqlite:///ledger.db",
        )
    return parsed.database
