"""Providers of routes, clients' keys, and what the request log says about who answered."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0003_gateway_providers"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.TIMESTAMP(timezone=True)
NOW = sa.text("now()")
LOG_COLUMNS: tuple[tuple[str, sa.types.TypeEngine[Any]], ...] = (
    ("endpoint", sa.String(length=50)),
    ("provider", sa.String(length=100)),
    ("assigned_version", sa.String(length=300)),
    ("served_version", sa.String(length=300)),
    ("first_token_ms", sa.Float()),
    ("finish_reason", sa.String(length=50)),
    ("cost", sa.Float()),
)


def upgrade() -> None:
    """Create the tables, with the servers of the settings as provider ``vllm``; older log rows stay without details."""
    _create_providers()
    op.create_table(
        "gateway_keys",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("requests_per_minute", sa.Integer()),
        sa.Column("created_by", sa.String(length=255)),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("revoked_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_gateway_keys"),
        sa.UniqueConstraint("name", name="uq_gateway_keys_name"),
        sa.UniqueConstraint("key_hash", name="uq_gateway_keys_key_hash"),
    )
    for name, kind in LOG_COLUMNS:
        op.add_column("ab_test_logs", sa.Column(name, kind))
    op.add_column("ab_test_logs", sa.Column("fallback", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_index("ix_ab_assignments_experiment_time", "ab_assignments", ["experiment_id", "assigned_at"])


def _create_providers() -> None:
    op.create_table(
        "providers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("addresses", ARRAY(sa.String()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("model", sa.String(length=255)),
        sa.Column("key_source", sa.String(length=500)),
        sa.Column("prompt_price", sa.Float()),
        sa.Column("completion_price", sa.Float()),
        sa.Column("timeout_seconds", sa.Float()),
        sa.Column("stream_usage", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("updated_by", sa.String(length=255)),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_providers"),
        sa.UniqueConstraint("name", name="uq_providers_name"),
    )
    op.create_table(
        "route_providers",
        sa.Column("route", sa.String(length=255), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("provider_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("route", "position", name="pk_route_providers"),
        sa.ForeignKeyConstraint(["provider_id"], ["providers.id"], name="fk_route_providers_provider_id_providers"),
        sa.UniqueConstraint("route", "provider_id", name="uq_route_providers_route_provider"),
    )
    op.execute("INSERT INTO providers (name) VALUES ('vllm')")


def downgrade() -> None:
    """Drop all of it."""
    op.drop_index("ix_ab_assignments_experiment_time", "ab_assignments")
    for name in ("fallback", *(name for name, _ in LOG_COLUMNS)):
        op.drop_column("ab_test_logs", name)
    op.drop_table("gateway_keys")
    op.drop_table("route_providers")
    op.drop_table("providers")
