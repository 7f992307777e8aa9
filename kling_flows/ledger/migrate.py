"""Brings a ledger's schema up to date, and refuses one that a newer release has written."""

from __future__ import annotations

import secrets
from pathlib import Path

from sqlalchemy import Connection, Engine, insert, inspect, select, text

from kling_flows.errors import ConfigurationError
from kling_flows.ledger.schema import meta

#: The newest revision; revisions are numbered so that they compare as text.
HEAD = "0002"

_SCRIPTS = Path(__file__).with_name("migrations")


def migrate(engine: Engine, *, shown_url: str) -> None:
    """Upgrade to the newest schema and give a new ledger its identity, in one transaction.

    Args:
        engine: a writing engine; concurrent callers wait for each other.
        shown_url: the ledger's address for error messages.

    Raises:
        ConfigurationError: the ledger was written by a newer release.
    """
    with engine.begin() as connection:
        if not is_current(connection, shown_url=shown_url, setting="KLING_FLOWS_STATE_DIR"):
            bring_up_to_date(connection)


def is_current(connection: Connection, *, shown_url: str, setting: str) -> bool:
    """Whether nothing is to be done.

    Raises:
        ConfigurationError: the ledger was written by a newer release; ``setting`` is the one that names the ledger.
    """
    current = read_schema(connection)
    if current is not None and current > HEAD:
        raise ConfigurationError(
            setting,
            f"the ledger {shown_url} has schema {current}, which is newer than this release knows ({HEAD}); "
            "install the release that wrote it, or name another ledger",
        )
    return current == HEAD


def bring_up_to_date(connection: Connection) -> None:
    """Upgrade to the newest schema and give a new ledger its identity; the caller keeps others from doing the same."""
    _upgrade(connection)
    _give_identity(connection)


def read_schema(connection: Connection) -> str | None:
    """The revision of the ledger's schema; None while it has none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def _upgrade(connection: Connection) -> None:
    # A third of a second to import, and needed only on the day of an upgrade.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _give_identity(connection: Connection) -> None:
    if connection.execute(select(meta.c.key).where(meta.c.key == "ledger_id")).first() is None:
        connection.execute(
            insert(meta),
            [
                {"key": "ledger_id", "value": secrets.token_hex(4)},
                {"key": "token_key", "value": secrets.token_hex(32)},
            ],
        )
