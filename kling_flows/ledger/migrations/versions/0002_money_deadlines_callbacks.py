"""What money, slots, deadlines and callbacks need: columns of video_tasks, and tables of their own."""

import json
from datetime import datetime

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
        sa.Column("slot_until", sa.Float),
        sa.Column("deadline", sa.Float),
        sa.Column("end_time", sa.Float),
        sa.Column("callback_token", sa.String(64)),
    ):
        op.add_column("video_tasks", column)
    op.drop_index("ix_video_tasks_runner_id_state", "video_tasks")
    op.drop_index("ix_video_tasks_state_seq", "video_tasks")
    op.create_index("ix_video_tasks_callback_token", "video_tasks", ["callback_token"], unique=True)
    op.create_index(
        "ix_video_tasks_runner_id_active_state_priority_seq",
        "video_tasks",
        ["runner_id", "active", "state", "priority", "seq"],
    )
    op.create_index(
        "ix_video_tasks_state_priority_tenant_model_name_seq",
        "video_tasks",
        ["state", "priority", "tenant", "model_name", "seq"],
    )
    op.create_index("ix_video_tasks_slot_tenant_slot_until", "video_tasks", ["slot", "tenant", "slot_until"])
    op.create_index("ix_video_tasks_deadline", "video_tasks", ["deadline"])
    op.create_index(
        "ix_video_tasks_tenant_create_time_seq_state_model_name",
        "video_tasks",
        ["tenant", "create_time", "seq", "state", "model_name"],
    )
    _fill_from_documents()
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
    op.create_index("ix_spending_day", "spending", ["day"])
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
        sa.Column("urgent", sa.Boolean, nullable=False),
        sa.Column("receive_time", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_hints"),
        sa.UniqueConstraint("webhook_id", name="uq_hints_webhook_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_hints_task_id", "hints", ["task_id"])
    op.create_index("ix_hints_receive_time", "hints", ["receive_time"])
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
    op.create_index("ix_deliveries_task_seq_state", "deliveries", ["task_seq", "state"])
    op.add_column("durations", sa.Column("low_seconds", sa.Float))


def _fill_from_documents() -> None:
    tasks = sa.table(
        "video_tasks", sa.column("seq"), sa.column("document"), sa.column("model_name"), sa.column("end_time")
    )
    rows = op.get_bind().execute(sa.select(tasks.c.seq, tasks.c.document)).all()
    for seq, text in rows:
        document = json.loads(text)
        ended = document.get("end_time")
        op.execute(
            tasks.update()
            .where(tasks.c.seq == seq)
            .values(
                # What was not said when 0001 was the newest.
                model_name=document["request"].get("model_name", "kling-v3"),
                end_time=datetime.fromisoformat(ended).timestamp() if ended else None,
            )
        )
