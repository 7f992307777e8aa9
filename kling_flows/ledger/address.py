"""Addresses of ledgers: which database one means, and how it is shown, for it may hold a password."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from kling_flows.errors import ConfigurationError

#: What names the ledger.
ADDRESS_SETTING: Final = "KLING_FLOWS_LEDGER_URL"

_POSTGRESQL: Final = ("postgresql", "postgres", "postgresql+asyncpg")


def postgresql_dsn(url: str) -> str | None:
    """What PostgreSQL's driver takes; None if the address is not one of PostgreSQL.

    Raises:
        ConfigurationError: a character of the password tears it.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in _POSTGRESQL or not rest:
        return None
    if is_torn(url):
        raise not_understood(shown(url))
    return f"postgresql://{rest}"


def sqlite_file(url: str) -> str:
    """The file of a ledger in SQLite.

    Raises:
        ConfigurationError: the address names none.
    """
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


def not_understood(shown_url: str) -> ConfigurationError:
    """For an address that is none, of which nothing else may be repeated."""
    return ConfigurationError(
        ADDRESS_SETTING,
        f"{shown_url} is not an address that the driver understands; percent-encode special characters in the "
        "password, or leave it out and set PGPASSWORD",
    )


def shown(url: str) -> str:
    """An address as it may be printed: without a password and without options, which may hold one."""
    if url.startswith("sqlite:"):
        return url
    if is_torn(url):
        return "postgresql://…"
    parts = urlsplit(url)
    user, _, place = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    return f"postgresql://{name}{'@' if name else ''}{place}{parts.path}"


def is_torn(url: str) -> bool:
    """Whether a character of the password ends what it stands in: anything may be part of the password then."""
    parts = urlsplit(url)
    return "@" not in parts.netloc and "@" in f"{parts.path}{parts.query}{parts.fragment}"
