"""Reasons of stage changes in Korean; those from before have English ones only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("model_stage_transitions", sa.Column("reason_ko", sa.Text()))


def downgrade() -> None:
    """Take it away."""
    op.drop_column("model_stage_transitions", "reason_ko")
