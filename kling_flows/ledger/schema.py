"""The ledger's tables. A record is one JSON document; the columns beside it are what is searched or guarded."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite only numbers a column by itself if its type is exactly INTEGER.
_Serial = BigInteger().with_variant(Integer(), "sqlite")

video_tasks = Table(
    "video_tasks",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("tenant", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
    Column("runner_id", String(32)),
    # Seconds since the epoch before which no runner starts it again; null means at once.
    Column("not_before", Float),
    Column("external_task_id", String(128), unique=True),
    Column("request_id", String(64)),
    Column("request_digest", String(64)),
    Column("create_time", Float, nullable=False),
    Index(None, "tenant", "request_id", unique=True),
    Index(None, "runner_id", "state"),
    Index(None, "state", "seq"),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("position", _Serial, primary_key=True, autoincrement=True),
    Column("task_seq", BigInteger, ForeignKey("video_tasks.seq"), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
    Index(None, "task_seq", "revision", unique=True),
    sqlite_autoincrement=True,
)

labels = Table(
    "labels",
    metadata,
    Column("task_seq", BigInteger, ForeignKey("video_tasks.seq"), primary_key=True),
    Column("key", String(63), primary_key=True),
    Column("value", String(255), nullable=False),
    Index(None, "key", "value"),
)

leases = Table(
    "leases",
    metadata,
    Column("runner_id", String(32), primary_key=True),
    Column("beat", BigInteger, nullable=False),
    Column("host", String(255), nullable=False),
    Column("lock_file", String(1024), nullable=False),
)

durations = Table(
    "durations",
    metadata,
    Column("key", String(255), primary_key=True),
    Column("samples", BigInteger, nullable=False),
    Column("mean_seconds", Float, nullable=False),
)

meta = Table(
    "meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
