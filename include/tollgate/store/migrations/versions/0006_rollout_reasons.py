"""Reasons of rollouts in Korean; those from before have English ones only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("rollout_events", sa.Column("reason_ko", sa.Text()))


def downgrade() -> None:
    """Take it away."""
    op.drop_column("rollout_events", "reason_ko")
