"""Rollouts step by step, the digest of a model's signed manifest, and the request log by route and time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003_gateway_providers"
branch_labels = None
depends_on = None

TIME = sa.TIMESTAMP(timezone=True)
NOW = sa.text("now()")


def upgrade() -> None:
    """Create the tables; versions from before have no digest."""
    op.add_column("model_registry", sa.Column("manifest_digest", sa.String(length=64)))
    op.create_index("ix_ab_test_logs_route_created", "ab_test_logs", ["route", "created_at"])
    op.create_table(
        "rollouts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("route", sa.String(length=255), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("former_id", sa.Integer(), nullable=False),
        sa.Column("plan", JSONB(), nullable=False),
        sa.Column("status", sa.String(length=50), server_default="running", nullable=False),
        sa.Column("step", sa.Integer(), server_default="0", nullable=False),
        sa.Column("looks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("looked_requests", sa.Integer(), server_default="0", nullable=False),
        sa.Column("step_started_at", TIME, server_default=NOW, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("started_by", sa.String(length=255), nullable=False),
        sa.Column("started_at", TIME, server_default=NOW, nullable=False),
        sa.Column("ended_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_rollouts"),
        sa.ForeignKeyConstraint(["model_id"], ["model_registry.id"], name="fk_rollouts_model_id_model_registry"),
        sa.ForeignKeyConstraint(["former_id"], ["model_registry.id"], name="fk_rollouts_former_id_model_registry"),
    )
    op.create_index("ix_rollouts_route", "rollouts", ["route"])
    op.create_index(
        "uq_rollouts_running", "rollouts", ["route"], unique=True, postgresql_where=sa.text("status = 'running'")
    )
    op.create_table(
        "rollout_events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("rollout_id", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(length=50), nullable=False),
        sa.Column("share", sa.Float(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("figures", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("changed_by", sa.String(length=255), nullable=False),
        sa.Column("changed_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rollout_events"),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["rollouts.id"], name="fk_rollout_events_rollout_id_rollouts", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_rollout_events_rollout_id", "rollout_events", ["rollout_id"])


def downgrade() -> None:
    """Drop them all."""
    op.drop_table("rollout_events")
    op.drop_table("rollouts")
    op.drop_index("ix_ab_test_logs_route_created", table_name="ab_test_logs")
    op.drop_column("model_registry", "manifest_digest")
