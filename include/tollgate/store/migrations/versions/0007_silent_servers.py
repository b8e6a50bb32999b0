"""Since when a server of full weights that was ready has not answered its health check."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("model_servers", sa.Column("silent_since", sa.TIMESTAMP(timezone=True)))


def downgrade() -> None:
    """Take it away; a server about to be started again is stopped as another one is."""
    op.execute("UPDATE model_servers SET state = 'stopping' WHERE state = 'restarting'")
    op.drop_column("model_servers", "silent_since")
