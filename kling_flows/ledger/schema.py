"""The ledger's tables. A record is one JSON document; the columns beside it are what is searched or guarded."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text

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
    # Seconds since the epoch; null until it is final.
    Column("end_time", Float),
    # Whether a runner has something to do for it.
    Column("active", Boolean, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("model_name", String(64), nullable=False),
    # `<account>/<model>` while it holds one of the account's places for tasks that run at the provider.
    Column("slot", String(192)),
    # Seconds since the epoch from which that place counts as free, because nobody will see the task's end.
    Column("slot_until", Float),
    # Seconds since the epoch; null once it is final.
    Column("deadline", Float),
    # SHA-256, in hex, of the token in the address that the provider calls about it.
    Column("callback_token", String(64)),
    Index(None, "tenant", "request_id", unique=True),
    Index(None, "runner_id", "active", "state", "priority", "seq"),
    Index(None, "state", "priority", "tenant", "model_name", "seq"),
    Index(None, "callback_token", unique=True),
    Index(None, "slot", "tenant", "slot_until"),
    Index(None, "deadline"),
    # What lists are read from; with the last two, those that do not match are passed by without a look at the row.
    Index(None, "tenant", "create_time", "seq", "state", "model_name"),
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
    # About the shortest; forgets slowly, so that one outlier does not stay for ever.
    Column("low_seconds", Float),
)

# What is reserved and what is spent, by the day on which the tasks were created (UTC, `2026-11-21`). Milli-units and
# micro-dollars, so that sums are exact.
spending = Table(
    "spending",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("account", String(128), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("reserved_milliunits", BigInteger, nullable=False),
    Column("reserved_microusd", BigInteger, nullable=False),
    Column("settled_milliunits", BigInteger, nullable=False),
    Column("settled_microusd", BigInteger, nullable=False),
    Index(None, "day"),
)

# What the provider's refusals have taught about an account's places for a model.
slot_limits = Table(
    "slot_limits",
    metadata,
    Column("slot", String(192), primary_key=True),
    Column("places", Integer, nullable=False),
    # Seconds since the epoch.
    Column("change_time", Float, nullable=False),
)

# Callbacks of the provider, each kept long enough to know it again.
hints = Table(
    "hints",
    metadata,
    Column("position", _Serial, primary_key=True, autoincrement=True),
    Column("task_id", String(64), nullable=False),
    # What a repeated callback is known by.
    Column("webhook_id", String(128), nullable=False, unique=True),
    # Whether it says that the task has ended; it is not believed, but looked into sooner.
    Column("urgent", Boolean, nullable=False),
    # Seconds since the epoch.
    Column("receive_time", Float, nullable=False),
    Index(None, "task_id"),
    Index(None, "receive_time"),
    sqlite_autoincrement=True,
)

# Calls to the callers' own addresses, one per state change of a task that names one.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("task_seq", BigInteger, ForeignKey("video_tasks.seq"), nullable=False),
    Column("event_position", BigInteger, ForeignKey("events.position"), nullable=False),
    # PENDING, DELIVERED or DEAD.
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    # Seconds since the epoch.
    Column("next_time", Float, nullable=False),
    Column("last_error", Text, nullable=False),
    Index(None, "state", "next_time"),
    Index(None, "task_seq", "state"),
    sqlite_autoincrement=True,
)

meta = Table(
    "meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
