"""The first tables: data sets, jobs, model versions, deployments, experiments, leases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.TIMESTAMP(timezone=True)


def upgrade() -> None:
    """Create every table and index."""
    _create_datasets()
    _create_training()
    _create_models()
    _create_experiments()


def downgrade() -> None:
    """Drop every table, those that refer to others first; their indexes go with them."""
    for table in (
        "ab_test_results",
        "ab_test_logs",
        "ab_assignments",
        "ab_experiments",
        "deployments",
        "model_benchmarks",
        "model_evaluations",
        "model_stage_transitions",
        "model_registry",
        "gpu_leases",
        "training_checkpoints",
        "finetuning_jobs",
        "dataset_quality_logs",
        "training_datasets",
    ):
        op.drop_table(table)


def _create_datasets() -> None:
    """Data set versions and what the gates found in them."""
    op.create_table(
        "training_datasets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("version", sa.String(length=50), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("format", sa.String(length=50), server_default="parquet", nullable=False),
        sa.Column("file_path", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.String(length=64), nullable=False),
        sa.Column("total_samples", sa.Integer(), nullable=False),
        sa.Column("train_samples", sa.Integer(), nullable=False),
        sa.Column("val_samples", sa.Integer(), nullable=False),
        sa.Column("test_samples", sa.Integer(), nullable=False),
        sa.Column("metadata", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("quality_score", sa.Double()),
        sa.Column("created_by", sa.String(length=255)),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("status", sa.String(length=50), server_default="active", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_training_datasets"),
        sa.UniqueConstraint("name", "version", name="uq_training_datasets_name_version"),
    )
    op.create_table(
        "dataset_quality_logs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("check_type", sa.String(length=100), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("issues", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["training_datasets.id"],
            name="fk_dataset_quality_logs_dataset_id_training_datasets",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_dataset_quality_logs"),
        sa.UniqueConstraint("dataset_id", "check_type", name="uq_dataset_quality_logs_dataset_check"),
    )


def _create_training() -> None:
    """Jobs, their checkpoints and the devices they hold."""
    op.create_table(
        "finetuning_jobs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_name", sa.String(length=255), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("dataset_id", sa.Integer()),
        sa.Column("method", sa.String(length=50), nullable=False),
        sa.Column("hyperparameters", JSONB(), nullable=False),
        sa.Column("mlflow_run_id", sa.String(length=255)),
        sa.Column("status", sa.String(length=50), server_default="pending", nullable=False),
        sa.Column("start_time", TIME),
        sa.Column("end_time", TIME),
        sa.Column("output_dir", sa.Text(), nullable=False),
        sa.Column("checkpoint_dir", sa.Text()),
        sa.Column("logs_path", sa.Text()),
        sa.Column("gpu_ids", sa.String(length=50)),
        sa.Column("created_by", sa.String(length=255)),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["training_datasets.id"], name="fk_finetuning_jobs_dataset_id_training_datasets"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_finetuning_jobs"),
        sa.UniqueConstraint("job_name", name="uq_finetuning_jobs_job_name"),
    )
    op.create_table(
        "training_checkpoints",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("checkpoint_name", sa.String(length=255), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Double()),
        sa.Column("metrics", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("file_path", sa.Text(), nullable=False),
        sa.Column("file_size_gb", sa.Double()),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["finetuning_jobs.id"],
            name="fk_training_checkpoints_job_id_finetuning_jobs",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_training_checkpoints"),
        sa.UniqueConstraint("job_id", "checkpoint_name", name="uq_training_checkpoints_job_name"),
    )
    op.create_table(
        "gpu_leases",
        sa.Column("device", sa.Integer(), nullable=False),
        sa.Column("holder", sa.String(length=500), nullable=False),
        sa.Column("leased_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("renewed_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("device", name="pk_gpu_leases"),
    )


def _create_models() -> None:
    """Model versions, their stages, scores and deployments."""
    op.create_table(
        "model_registry",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_name", sa.String(length=255), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("finetuning_job_id", sa.Integer()),
        sa.Column("model_path", sa.Text(), nullable=False),
        sa.Column("model_format", sa.String(length=50), server_default="peft", nullable=False),
        sa.Column("model_size_gb", sa.Double()),
        sa.Column("status", sa.String(length=50), server_default="candidate", nullable=False),
        sa.Column("verdict", sa.String(length=50)),
        sa.Column("verdict_reasons", JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("deployment_config", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("mlflow_model_uri", sa.Text()),
        sa.Column("description", sa.Text()),
        sa.Column("tags", ARRAY(sa.String()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("created_by", sa.String(length=255)),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["finetuning_job_id"], ["finetuning_jobs.id"], name="fk_model_registry_finetuning_job_id_finetuning_jobs"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_model_registry"),
        sa.UniqueConstraint("finetuning_job_id", name="uq_model_registry_finetuning_job_id"),
        sa.UniqueConstraint("model_name", "version", name="uq_model_registry_name_version"),
    )
    op.create_index(
        "uq_model_registry_production",
        "model_registry",
        ["model_name"],
        unique=True,
        postgresql_where=sa.text("status = 'production'"),
    )
    op.create_table(
        "model_stage_transitions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("from_stage", sa.String(length=50)),
        sa.Column("to_stage", sa.String(length=50), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("changed_by", sa.String(length=255), nullable=False),
        sa.Column("changed_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["model_registry.id"],
            name="fk_model_stage_transitions_model_id_model_registry",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_model_stage_transitions"),
    )
    op.create_index("ix_model_stage_transitions_model_id", "model_stage_transitions", ["model_id"])
    op.create_table(
        "model_evaluations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer()),
        sa.Column("checkpoint_id", sa.Integer()),
        sa.Column("eval_dataset_id", sa.Integer()),
        sa.Column("metrics", JSONB(), nullable=False),
        sa.Column("test_cases", JSONB()),
        sa.Column("evaluated_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("evaluator", sa.String(length=255)),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"],
            ["training_checkpoints.id"],
            name="fk_model_evaluations_checkpoint_id_training_checkpoints",
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["eval_dataset_id"], ["training_datasets.id"], name="fk_model_evaluations_eval_dataset_id_training_datasets"
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["finetuning_jobs.id"], name="fk_model_evaluations_job_id_finetuning_jobs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_model_evaluations"),
        sa.UniqueConstraint("job_id", "eval_dataset_id", name="uq_model_evaluations_job_dataset"),
    )
    op.create_table(
        "model_benchmarks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("benchmark_name", sa.String(length=255), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("details", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("benchmark_date", TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["model_registry.id"], name="fk_model_benchmarks_model_id_model_registry", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_model_benchmarks"),
    )
    op.create_table(
        "deployments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("route", sa.String(length=255), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("deployed_by", sa.String(length=255), nullable=False),
        sa.Column("started_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", TIME),
        sa.ForeignKeyConstraint(["model_id"], ["model_registry.id"], name="fk_deployments_model_id_model_registry"),
        sa.PrimaryKeyConstraint("id", name="pk_deployments"),
    )
    op.create_index("ix_deployments_route", "deployments", ["route"])
    op.create_index(
        "uq_deployments_serving",
        "deployments",
        ["route", "model_id"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )


def _create_experiments() -> None:
    """A/B tests, who was given which arm, requests and results."""
    op.create_table(
        "ab_experiments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("experiment_name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("route", sa.String(length=255), nullable=False),
        sa.Column("model_a_id", sa.Integer(), nullable=False),
        sa.Column("model_b_id", sa.Integer(), nullable=False),
        sa.Column("traffic_split", JSONB(), server_default=sa.text('\'{"a": 0.5, "b": 0.5}\''), nullable=False),
        sa.Column("salt", sa.String(length=64), nullable=False),
        sa.Column("plan", JSONB(), nullable=False),
        sa.Column("status", sa.String(length=50), server_default="running", nullable=False),
        sa.Column("decision", sa.String(length=50)),
        sa.Column("decision_reasons", JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("start_date", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("end_date", TIME),
        sa.Column("target_samples", sa.Integer(), server_default="200", nullable=False),
        sa.Column("success_metric", sa.String(length=100), server_default="user_rating", nullable=False),
        sa.Column("created_by", sa.String(length=255)),
        sa.ForeignKeyConstraint(
            ["model_a_id"], ["model_registry.id"], name="fk_ab_experiments_model_a_id_model_registry"
        ),
        sa.ForeignKeyConstraint(
            ["model_b_id"], ["model_registry.id"], name="fk_ab_experiments_model_b_id_model_registry"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_ab_experiments"),
        sa.UniqueConstraint("experiment_name", name="uq_ab_experiments_experiment_name"),
    )
    op.create_index(
        "uq_ab_experiments_running",
        "ab_experiments",
        ["route"],
        unique=True,
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_table(
        "ab_assignments",
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("user_hash", sa.String(length=64), nullable=False),
        sa.Column("variant", sa.String(length=10), nullable=False),
        sa.Column("assigned_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["ab_experiments.id"],
            name="fk_ab_assignments_experiment_id_ab_experiments",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("experiment_id", "user_hash", name="pk_ab_assignments"),
    )
    op.create_table(
        "ab_test_logs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("experiment_id", sa.Integer()),
        sa.Column("route", sa.String(length=255), nullable=False),
        sa.Column("user_hash", sa.String(length=64)),
        sa.Column("session_id", sa.String(length=255)),
        sa.Column("variant", sa.String(length=10)),
        sa.Column("model_id", sa.Integer()),
        sa.Column("query", sa.Text()),
        sa.Column("response", sa.Text()),
        sa.Column("status_code", sa.Integer(), nullable=False),
        sa.Column("response_time_ms", sa.Double(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer()),
        sa.Column("completion_tokens", sa.Integer()),
        sa.Column("user_rating", sa.Integer()),
        sa.Column("user_feedback", sa.Text()),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["ab_experiments.id"],
            name="fk_ab_test_logs_experiment_id_ab_experiments",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["model_id"], ["model_registry.id"], name="fk_ab_test_logs_model_id_model_registry"),
        sa.PrimaryKeyConstraint("id", name="pk_ab_test_logs"),
        sa.UniqueConstraint("request_id", name="uq_ab_test_logs_request_id"),
    )
    op.create_index("ix_ab_test_logs_experiment_user", "ab_test_logs", ["experiment_id", "user_hash"])
    op.create_table(
        "ab_test_results",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("experiment_id", sa.Integer(), nullable=False),
        sa.Column("look", sa.String(length=255), nullable=False),
        sa.Column("variant", sa.String(length=10), nullable=False),
        sa.Column("total_samples", sa.Integer(), nullable=False),
        sa.Column("users", sa.Integer(), nullable=False),
        sa.Column("avg_rating", sa.Double()),
        sa.Column("avg_response_time_ms", sa.Double()),
        sa.Column("confidence_interval", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("statistical_significance", sa.Boolean(), nullable=False),
        sa.Column("winner", sa.Boolean(), nullable=False),
        sa.Column("details", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("calculated_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"],
            ["ab_experiments.id"],
            name="fk_ab_test_results_experiment_id_ab_experiments",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_ab_test_results"),
        sa.UniqueConstraint("experiment_id", "look", "variant", name="uq_ab_test_results_look"),
    )
