"""A queue for GPUs, and where the job of a lease runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.TIMESTAMP(timezone=True)


def upgrade() -> None:
    """Create the queue; leases from before have no runtime."""
    op.add_column("gpu_leases", sa.Column("runtime", sa.String(length=20)))
    op.create_table(
        "gpu_waiters",
        sa.Column("ticket", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("holder", sa.String(length=500), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("devices", ARRAY(sa.Integer()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("asked_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("ticket", name="pk_gpu_waiters"),
        sa.UniqueConstraint("holder", name="uq_gpu_waiters_holder"),
    )


def downgrade() -> None:
    """Drop both."""
    op.drop_table("gpu_waiters")
    op.drop_column("gpu_leases", "runtime")
