"""A whole ledger as a file, and back: from one database to another, or as a backup.

The file has one JSON document per line: what it is, each row, and at the end how many rows there were and the SHA-256
of all lines before. It holds the key of the resume and page tokens, so that they stay valid: keep it as secret as the
database.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping
from itertools import islice
from typing import IO, Any, Final

from sqlalchemy import Column, Connection, Table, delete, func, insert, select

from kling_flows.errors import ConfigurationError, InvalidRequest, Violation
from kling_flows.ledger.address import ADDRESS_SETTING
from kling_flows.ledger.dialects import in_byte_order, read_last_number, write_last_number
from kling_flows.ledger.migrate import HEAD
from kling_flows.ledger.schema import leases, meta, metadata

_FORMAT: Final = "kling-flows ledger"

#: Rows that are read or written at a time.
_CHUNK: Final = 500


def export_rows(conn: Connection, target: IO[str], *, live: bool) -> dict[str, int]:
    """Write everything to a file that is open for writing; the same ledger gives the same file on every database.

    Args:
        conn: A connection that reads one snapshot.
        target: Is emptied first.
        live: Whether the ledger may be in use: a backup then, from which nobody may go on beside the original.

    Returns:
        How many rows each table has.

    Raises:
        InvalidRequest: a runner uses the ledger, and that was not allowed.
    """
    if not live and conn.execute(select(leases.c.runner_id).limit(1)).first() is not None:
        raise _refused(
            "live",
            "a runner uses the ledger, and whatever it does from now on would be missing; stop what serves it, or say "
            "--live if it is only a backup",
        )
    target.seek(0)
    target.truncate()
    digest = hashlib.sha256()

    def write(document: Mapping[str, Any]) -> None:
        line = json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n"
        target.write(line)
        digest.update(line.encode())

    write({"format": _FORMAT, "schema": HEAD, "live": live})
    counts: dict[str, int] = {}
    for table in metadata.sorted_tables:
        order = [in_byte_order(conn.dialect.name, column) for column in table.primary_key.columns]
        rows = conn.execute(select(table).order_by(*order).execution_options(yield_per=_CHUNK))
        counts[table.name] = 0
        for row in rows.mappings():
            write({"table": table.name, "row": dict(row)})
            counts[table.name] += 1
    last_numbers = {table.name: read_last_number(conn, number) for table, number in _numbered()}
    write({"rows": counts, "last_numbers": last_numbers})
    target.write(json.dumps({"sha256": digest.hexdigest()}) + "\n")
    return counts


def import_rows(conn: Connection, source: IO[str]) -> dict[str, int]:
    """Fill an empty ledger from a file; it takes over the identity of the ledger that was exported.

    Args:
        conn: A writing connection.
        source: A file that is open for reading, from its beginning.

    Returns:
        How many rows each table has.

    Raises:
        InvalidRequest: the file is not whole, or is of another release.
        ConfigurationError: the ledger is not empty.
    """
    end = _check(source)
    for table in metadata.sorted_tables:
        if table is not meta and conn.execute(select(func.count()).select_from(table)).scalar_one():
            raise ConfigurationError(ADDRESS_SETTING, f"it has {table.name} already; import needs an empty ledger")
    conn.execute(delete(meta))
    rows = _rows(source)
    while some := list(islice(rows, _CHUNK)):
        by_table: dict[str, list[dict[str, Any]]] = {}
        for row in some:
            by_table.setdefault(row["table"], []).append(row["row"])
        for name, of_table in by_table.items():
            conn.execute(insert(metadata.tables[name]), of_table)
    for table, number in _numbered():
        write_last_number(conn, number, end["last_numbers"][table.name])
    return end["rows"]


def _numbered() -> list[tuple[Table, Column[int]]]:
    numbers = ((table, table.autoincrement_column) for table in metadata.sorted_tables)
    return [(table, number) for table, number in numbers if number is not None]


def _check(source: IO[str]) -> dict[str, Any]:
    """Read the file once to see whether all of it is there; returns what stands at its end."""
    digest = hashlib.sha256()
    first = before = last = ""
    source.seek(0)
    try:
        for line in source:
            digest.update(last.encode())
            first = first or line
            before, last = last, line
        begin, end, seal = json.loads(first), json.loads(before), json.loads(last)
        if begin["format"] != _FORMAT or "rows" not in end or seal != {"sha256": digest.hexdigest()}:
            raise ValueError("a line is missing or was changed")
    except (ValueError, KeyError, TypeError):
        raise _refused(
            "FILE", "is not a whole export of a ledger; export it again with 'kling-flows ledger export'"
        ) from None
    if begin["schema"] != HEAD:
        raise _refused(
            "FILE",
            f"was written by a release with schema {begin['schema']}, and this one has {HEAD}; export it again with "
            "this release, which brings the original up to date first",
        )
    return end


def _rows(source: IO[str]) -> Generator[dict[str, Any]]:
    source.seek(0)
    for line in source:
        document = json.loads(line)
        if "row" in document:
            yield document


def _refused(field: str, message: str) -> InvalidRequest:
    return InvalidRequest([Violation(field, "MALFORMED", message)])
