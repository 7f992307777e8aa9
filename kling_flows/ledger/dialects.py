"""The one place where the databases' dialects differ: what standard SQL has no words for.

All else is said once, in SQLAlchemy's terms. The statements are cached where they are made: making one costs more than
running it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Connection, Select, Table, collate, func, insert, select, text
from sqlalchemy.dialects import postgresql, sqlite

_INSERTS: Final[Mapping[str, Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}

#: Collations that order text by its code points.
_BINARY: Final[Mapping[str, str]] = {"sqlite": "BINARY", "postgresql": "C"}


def insert_into(dialect: str, table: Table) -> Any:
    """An insert that knows ``ON CONFLICT``."""
    return _INSERTS[dialect](table)


def insert_without_gaps(dialect: str, number: Column[int]) -> Any:
    """An insert that gives ``number`` the value that follows the greatest one.

    SQLite numbers so by itself. A sequence of PostgreSQL is not taken back with its transaction: a write that failed
    would leave a hole, and who reads the log could not tell it from what was pruned. It needs the writers' lock.
    """
    if dialect == "sqlite":
        return insert(number.table)
    following = select(func.coalesce(func.max(number), 0) + 1).scalar_subquery()
    return insert(number.table).values({number: following})


def insert_many_or_nothing(conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert those rows whose keys are free, in their order; all rows have the same columns.

    SQLite's driver lets go of the interpreter for every row of a usual insert of many, and for every row that it
    answers: beside a busy event loop it then waits to get it back. With few texts of statements each stays prepared.
    """
    if conn.dialect.name != "sqlite":
        conn.execute(insert_into(conn.dialect.name, table).on_conflict_do_nothing(), rows)
        return
    begin = 0
    while begin < len(rows):
        size = min(1 << (len(rows) - begin).bit_length() - 1, _MOST_ROWS)
        values = [value for row in rows[begin : begin + size] for value in row.values()]
        conn.exec_driver_sql(_insert_rows_or_nothing(table.name, tuple(rows[begin]), size), tuple(values))
        begin += size


#: Rows of a statement; SQLite takes 32,766 values.
_MOST_ROWS: Final = 256


@cache
def _insert_rows_or_nothing(table: str, columns: tuple[str, ...], size: int) -> str:
    row = f"({', '.join('?' * len(columns))})"
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * size)} ON CONFLICT DO NOTHING"  # noqa: S608 - names of the schema


def copy_without_gaps(
    dialect: str, number: Column[int], names: Sequence[str], rows: Select[*tuple[Any, ...]], order: Any
) -> Any:
    """An insert of what a query answers, in an order, numbered as :func:`insert_without_gaps` does it."""
    if dialect == "sqlite":
        return insert(number.table).from_select(names, rows.order_by(order))
    last = select(func.coalesce(func.max(number), 0)).scalar_subquery()
    position = last + func.row_number().over(order_by=order)
    return insert(number.table).from_select([*names, number.name], rows.add_columns(position))


def in_byte_order(dialect: str, column: Column[Any]) -> ColumnElement[Any]:
    """A column to order by, whatever collation the database has."""
    return collate(column, _BINARY[dialect]) if column.type.python_type is str else column


def read_last_number(conn: Connection, number: Column[int]) -> int:
    """The greatest number that was ever given to a row of an autoincrement column; 0 if there was none."""
    if conn.dialect.name == "sqlite":
        query = text("SELECT seq FROM sqlite_sequence WHERE name = :name")
        last = conn.execute(query, {"name": number.table.name}).scalar_one_or_none()
    else:
        sequence = conn.execute(_SEQUENCE, _names(number)).scalar_one()
        last = conn.execute(text(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}")).scalar_one()  # noqa: S608 - PostgreSQL's own quoted name
    greatest = conn.execute(select(func.coalesce(func.max(number), 0))).scalar_one()
    return max(last or 0, greatest)


def write_last_number(conn: Connection, number: Column[int], last: int) -> None:
    """Give the next row of an autoincrement column a greater number than ``last``."""
    if conn.dialect.name == "sqlite":
        values = {"name": number.table.name, "last": last}
        conn.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": number.table.name})
        conn.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)"), values)
    elif last:
        sequence = conn.execute(_SEQUENCE, _names(number)).scalar_one()
        conn.execute(select(func.setval(sequence, last)))


_SEQUENCE: Final = text("SELECT pg_get_serial_sequence(:table, :column)")


def _names(number: Column[int]) -> dict[str, str]:
    return {"table": number.table.name, "column": number.name}
