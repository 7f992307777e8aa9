"""What money, slots, deadlines and callbacks need: columns of video_tasks, and tables of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    # Column by column: on SQLite a new table in the old one's place would break the keys that point to it.
    for column in (
        sa.Column("active", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
        sa.Column("model_name", sa.String(64), nullable=False, server_default=""),
        sa.Column("slot", sa.String(192)),
        sa.Column("deadline", sa.Float),
        sa.Column("callback_token", sa.String(64)),
    ):
        op.add_column("video_tasks", column)
    op.drop_index("ix_video_tasks_runner_id_state", "video_tasks")
    op.drop_index("ix_video_tasks_state_seq", "video_tasks")
    op.create_index("ix_video_tasks_callback_token", "video_tasks", ["callback_token"], unique=True)
    op.create_index("ix_video_tasks_runner_id_active", "video_tasks", ["runner_id", "active"])
    op.create_index(
        "ix_video_tasks_state_priority_tenant_model_name_seq",
        "video_tasks",
        ["state", "priority", "tenant", "model_name", "seq"],
    )
    op.create_index("ix_video_tasks_slot", "video_tasks", ["slot"])
    op.create_index("ix_video_tasks_deadline", "video_tasks", ["deadline"])
    op.execute(
        "UPDATE video_tasks SET active = (state IN ('QUEUED', 'SUBMITTING', 'SUBMITTED', 'PROCESSING', 'ARCHIVING'))"
    )
    op.create_table(
        "spending",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("account", sa.String(128), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("reserved_milliunits", sa.BigInteger, nullable=False),
        sa.Column("reserved_microusd", sa.BigInteger, nullable=False),
        sa.Column("settled_milliunits", sa.BigInteger, nullable=False),
        sa.Column("settled_microusd", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "account", "day", name="pk_spending"),
    )
    op.create_table(
        "slot_limits",
        sa.Column("slot", sa.String(192), nullable=False),
        sa.Column("places", sa.Integer, nullable=False),
        sa.Column("change_time", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("slot", name="pk_slot_limits"),
    )
    op.create_table(
        "hints",
        sa.Column("position", _serial, autoincrement=True, nullable=False),
        sa.Column("task_id", sa.String(64), nullable=False),
        sa.Column("webhook_id", sa.String(128), nullable=False),
        sa.Column("receive_time", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_hints"),
        sa.UniqueConstraint("webhook_id", name="uq_hints_webhook_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "deliveries",
        sa.Column("id", _serial, autoincrement=True, nullable=False),
        sa.Column("task_seq", sa.BigInteger, nullable=False),
        sa.Column("event_position", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_time", sa.Float, nullable=False),
        sa.Column("last_error", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.ForeignKeyConstraint(["task_seq"], ["video_tasks.seq"], name="fk_deliveries_task_seq_video_tasks"),
        sa.ForeignKeyConstraint(["event_position"], ["events.position"], name="fk_deliveries_event_position_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_deliveries_state_next_time", "deliveries", ["state", "next_time"])
    op.create_index("ix_deliveries_task_seq", "deliveries", ["task_seq"])
