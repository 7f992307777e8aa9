"""Video tasks, the log of events, labels, leases, learned durations, and the ledger's own facts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "video_tasks",
        sa.Column("seq", _serial, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("runner_id", sa.String(32)),
        sa.Column("not_before", sa.Float),
        sa.Column("external_task_id", sa.String(128)),
        sa.Column("request_id", sa.String(64)),
        sa.Column("request_digest", sa.String(64)),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_video_tasks"),
        sa.UniqueConstraint("id", name="uq_video_tasks_id"),
        sa.UniqueConstraint("external_task_id", name="uq_video_tasks_external_task_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_video_tasks_tenant_request_id", "video_tasks", ["tenant", "request_id"], unique=True)
    op.create_index("ix_video_tasks_runner_id_state", "video_tasks", ["runner_id", "state"])
    op.create_index("ix_video_tasks_state_seq", "video_tasks", ["state", "seq"])
    op.create_table(
        "events",
        sa.Column("position", _serial, autoincrement=True, nullable=False),
        sa.Column("task_seq", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_events"),
        sa.ForeignKeyConstraint(["task_seq"], ["video_tasks.seq"], name="fk_events_task_seq_video_tasks"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_task_seq_revision", "events", ["task_seq", "revision"], unique=True)
    op.create_table(
        "labels",
        sa.Column("task_seq", sa.BigInteger, nullable=False),
        sa.Column("key", sa.String(63), nullable=False),
        sa.Column("value", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("task_seq", "key", name="pk_labels"),
        sa.ForeignKeyConstraint(["task_seq"], ["video_tasks.seq"], name="fk_labels_task_seq_video_tasks"),
    )
    op.create_index("ix_labels_key_value", "labels", ["key", "value"])
    op.create_table(
        "leases",
        sa.Column("runner_id", sa.String(32), nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("lock_file", sa.String(1024), nullable=False),
        sa.PrimaryKeyConstraint("runner_id", name="pk_leases"),
    )
    op.create_table(
        "durations",
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("samples", sa.BigInteger, nullable=False),
        sa.Column("mean_seconds", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_durations"),
    )
    op.create_table(
        "meta",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )
