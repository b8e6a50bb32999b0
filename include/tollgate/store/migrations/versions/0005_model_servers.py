"""Servers of full weights: one for each version that needs its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TIME = sa.TIMESTAMP(timezone=True)
NOW = sa.text("now()")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "model_servers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=20), server_default="waiting", nullable=False),
        sa.Column("changed_at", TIME, server_default=NOW, nullable=False),
        sa.Column("requested_until", TIME, nullable=False),
        sa.Column("requested_by", sa.String(length=255), nullable=False),
        sa.Column("job_id", sa.Text()),
        sa.Column("address", sa.String(length=500)),
        sa.Column("problem", sa.Text()),
        sa.Column("starts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("answered", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("idle_since", TIME),
        sa.Column("looked_at", TIME),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_model_servers"),
        sa.ForeignKeyConstraint(["model_id"], ["model_registry.id"], name="fk_model_servers_model_id_model_registry"),
    )
    op.create_index(
        "uq_model_servers_open",
        "model_servers",
        ["model_id"],
        unique=True,
        postgresql_where=sa.text("state <> 'stopped'"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("model_servers")
