"""The tables of requirement 004, section 7, and those that leases, deployments and sticky assignment need.

Two things differ from the requirement. ``created_by`` holds the name of the Airflow user, since users live in Airflow's
database, not in ours. ``training_datasets.name`` alone is not unique: a data set has many versions.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, ClassVar

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, Integer, MetaData, String, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TIMESTAMP, Text

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Table(DeclarativeBase):
    """Base of all tables: JSON columns are JSONB, times carry a zone, constraints have predictable names."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
        dt.datetime: TIMESTAMP(timezone=True),
        list[str]: ARRAY(String),
        list[int]: ARRAY(Integer),
    }


def _now() -> Mapped[dt.datetime]:
    return mapped_column(server_default=func.now())


class TrainingDataset(Table):
    """A version of a data set, as written under ``<home>/datasets/<name>/<version>``."""

    __tablename__ = "training_datasets"
    __table_args__ = (UniqueConstraint("name", "version", name="uq_training_datasets_name_version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    version: Mapped[str] = mapped_column(String(50))
    description: Mapped[str | None] = mapped_column(Text)
    format: Mapped[str] = mapped_column(String(50), server_default="parquet")
    file_path: Mapped[str] = mapped_column(Text)
    content_hash: Mapped[str] = mapped_column(String(64))
    total_samples: Mapped[int]
    train_samples: Mapped[int]
    val_samples: Mapped[int]
    test_samples: Mapped[int]
    details: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=text("'{}'"))
    quality_score: Mapped[float | None]
    created_by: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[dt.datetime] = _now()
    status: Mapped[str] = mapped_column(String(50), server_default="active")


class DatasetQualityLog(Table):
    """What one gate found in one version; one row a gate and version."""

    __tablename__ = "dataset_quality_logs"
    __table_args__ = (UniqueConstraint("dataset_id", "check_type", name="uq_dataset_quality_logs_dataset_check"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("training_datasets.id", ondelete="CASCADE"))
    check_type: Mapped[str] = mapped_column(String(100))
    passed: Mapped[bool]
    issues: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    created_at: Mapped[dt.datetime] = _now()


class FinetuningJob(Table):
    """A training job: one DAG run of ``finetune``."""

    __tablename__ = "finetuning_jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_name: Mapped[str] = mapped_column(String(255), unique=True)
    base_model: Mapped[str] = mapped_column(Text)
    dataset_id: Mapped[int | None] = mapped_column(ForeignKey("training_datasets.id"))
    method: Mapped[str] = mapped_column(String(50))
    hyperparameters: Mapped[dict[str, Any]]
    mlflow_run_id: Mapped[str | None] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(50), server_default="pending")
    start_time: Mapped[dt.datetime | None]
    end_time: Mapped[dt.datetime | None]
    output_dir: Mapped[str] = mapped_column(Text)
    checkpoint_dir: Mapped[str | None] = mapped_column(Text)
    logs_path: Mapped[str | None] = mapped_column(Text)
    gpu_ids: Mapped[str | None] = mapped_column(String(50))
    created_by: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[dt.datetime] = _now()


class TrainingCheckpoint(Table):
    """A saved state of a job."""

    __tablename__ = "training_checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "checkpoint_name", name="uq_training_checkpoints_job_name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("finetuning_jobs.id", ondelete="CASCADE"))
    checkpoint_name: Mapped[str] = mapped_column(String(255))
    step: Mapped[int]
    epoch: Mapped[float | None]
    metrics: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    file_path: Mapped[str] = mapped_column(Text)
    file_size_gb: Mapped[float | None]
    created_at: Mapped[dt.datetime] = _now()


class RegisteredModel(Table):
    """A model version and its stage; the truth that MLflow's aliases and the gateway's routes are projected from."""

    __tablename__ = "model_registry"
    __table_args__ = (
        UniqueConstraint("model_name", "version", name="uq_model_registry_name_version"),
        UniqueConstraint("finetuning_job_id", name="uq_model_registry_finetuning_job_id"),
        Index(
            "uq_model_registry_production",
            "model_name",
            unique=True,
            postgresql_where=text("status = 'production'"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model_name: Mapped[str] = mapped_column(String(255))
    version: Mapped[int]
    base_model: Mapped[str] = mapped_column(Text)
    finetuning_job_id: Mapped[int | None] = mapped_column(ForeignKey("finetuning_jobs.id"))
    model_path: Mapped[str] = mapped_column(Text)
    model_format: Mapped[str] = mapped_column(String(50), server_default="peft")
    model_size_gb: Mapped[float | None]
    status: Mapped[str] = mapped_column(String(50), server_default="candidate")
    verdict: Mapped[str | None] = mapped_column(String(50))
    verdict_reasons: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))
    deployment_config: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    manifest_digest: Mapped[str | None] = mapped_column(String(64))
    mlflow_model_uri: Mapped[str | None] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(Text)
    tags: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    created_by: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[dt.datetime] = _now()
    updated_at: Mapped[dt.datetime] = mapped_column(server_default=func.now(), onupdate=func.now())

    @property
    def served_name(self) -> str:
        """The immutable name under which vLLM serves this version, for example ``highway-router@v3``."""
        return f"{self.model_name}@v{self.version}"


class StageTransition(Table):
    """One change of a model version's stage: who, when, why."""

    __tablename__ = "model_stage_transitions"

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("model_registry.id", ondelete="CASCADE"), index=True)
    from_stage: Mapped[str | None] = mapped_column(String(50))
    to_stage: Mapped[str] = mapped_column(String(50))
    reason: Mapped[str] = mapped_column(Text)
    reason_ko: Mapped[str | None] = mapped_column(Text)
    changed_by: Mapped[str] = mapped_column(String(255))
    changed_at: Mapped[dt.datetime] = _now()


class ModelEvaluation(Table):
    """Scores and cases of one evaluation of a job's model on a data set."""

    __tablename__ = "model_evaluations"
    __table_args__ = (UniqueConstraint("job_id", "eval_dataset_id", name="uq_model_evaluations_job_dataset"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int | None] = mapped_column(ForeignKey("finetuning_jobs.id", ondelete="CASCADE"))
    checkpoint_id: Mapped[int | None] = mapped_column(ForeignKey("training_checkpoints.id", ondelete="SET NULL"))
    eval_dataset_id: Mapped[int | None] = mapped_column(ForeignKey("training_datasets.id"))
    metrics: Mapped[dict[str, Any]]
    test_cases: Mapped[list[Any] | None]
    evaluated_at: Mapped[dt.datetime] = _now()
    evaluator: Mapped[str | None] = mapped_column(String(255))


class ModelBenchmark(Table):
    """A model version's score on a named benchmark."""

    __tablename__ = "model_benchmarks"

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("model_registry.id", ondelete="CASCADE"))
    benchmark_name: Mapped[str] = mapped_column(String(255))
    score: Mapped[float]
    details: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    benchmark_date: Mapped[dt.datetime] = _now()


class Deployment(Table):
    """Which version serves which route with which weight. A row that has ended is history."""

    __tablename__ = "deployments"
    __table_args__ = (
        Index("uq_deployments_serving", "route", "model_id", unique=True, postgresql_where=text("ended_at IS NULL")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    route: Mapped[str] = mapped_column(String(255), index=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("model_registry.id"))
    weight: Mapped[float]
    deployed_by: Mapped[str] = mapped_column(String(255))
    started_at: Mapped[dt.datetime] = _now()
    ended_at: Mapped[dt.datetime | None]


class ModelServer(Table):
    """A vLLM server of one version's own, for full weights; see ``tollgate.serving.servers``.

    ``requested_until``: somebody waits for it, whether or not a route leads there. ``address`` is known while it is
    ready, draining or stopping. ``job_id`` is the runtime's, as ``<runtime>:<id>``. ``answered`` is the count of its
    answers when it was looked at last, ``idle_since`` when that count stood still and nothing was under way.
    ``silent_since``: since when one that was ready has been seen not to answer its health check.
    """

    __tablename__ = "model_servers"
    __table_args__ = (
        Index("uq_model_servers_open", "model_id", unique=True, postgresql_where=text("state <> 'stopped'")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("model_registry.id"))
    state: Mapped[str] = mapped_column(String(20), server_default="waiting")
    changed_at: Mapped[dt.datetime] = _now()
    requested_until: Mapped[dt.datetime]
    requested_by: Mapped[str] = mapped_column(String(255))
    job_id: Mapped[str | None] = mapped_column(Text)
    address: Mapped[str | None] = mapped_column(String(500))
    problem: Mapped[str | None] = mapped_column(Text)
    starts: Mapped[int] = mapped_column(server_default="0")
    failures: Mapped[int] = mapped_column(server_default="0")
    answered: Mapped[int] = mapped_column(BigInteger, server_default="0")
    idle_since: Mapped[dt.datetime | None]
    silent_since: Mapped[dt.datetime | None]
    looked_at: Mapped[dt.datetime | None]
    created_at: Mapped[dt.datetime] = _now()


class Rollout(Table):
    """A version that takes over its route step by step, watched at each; ``step`` counts the plan's shares from 0."""

    __tablename__ = "rollouts"
    __table_args__ = (Index("uq_rollouts_running", "route", unique=True, postgresql_where=text("status = 'running'")),)

    id: Mapped[int] = mapped_column(primary_key=True)
    route: Mapped[str] = mapped_column(String(255), index=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("model_registry.id"))
    former_id: Mapped[int] = mapped_column(ForeignKey("model_registry.id"))
    plan: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(String(50), server_default="running")
    step: Mapped[int] = mapped_column(server_default="0")
    looks: Mapped[int] = mapped_column(server_default="0")
    looked_requests: Mapped[int] = mapped_column(server_default="0")
    step_started_at: Mapped[dt.datetime] = _now()
    reason: Mapped[str] = mapped_column(Text)
    started_by: Mapped[str] = mapped_column(String(255))
    started_at: Mapped[dt.datetime] = _now()
    ended_at: Mapped[dt.datetime | None]


class RolloutEvent(Table):
    """What was decided about a rollout: who, when, why (in Korean, too), on which figures."""

    __tablename__ = "rollout_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    rollout_id: Mapped[int] = mapped_column(ForeignKey("rollouts.id", ondelete="CASCADE"), index=True)
    action: Mapped[str] = mapped_column(String(50))
    share: Mapped[float]
    reason: Mapped[str] = mapped_column(Text)
    reason_ko: Mapped[str | None] = mapped_column(Text)
    figures: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    changed_by: Mapped[str] = mapped_column(String(255))
    changed_at: Mapped[dt.datetime] = _now()


class Experiment(Table):
    """An A/B test: the champion (A) against the challenger (B) on one route, with the plan made before it started."""

    __tablename__ = "ab_experiments"
    __table_args__ = (
        Index("uq_ab_experiments_running", "route", unique=True, postgresql_where=text("status = 'running'")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    experiment_name: Mapped[str] = mapped_column(String(255), unique=True)
    description: Mapped[str | None] = mapped_column(Text)
    route: Mapped[str] = mapped_column(String(255))
    model_a_id: Mapped[int] = mapped_column(ForeignKey("model_registry.id"))
    model_b_id: Mapped[int] = mapped_column(ForeignKey("model_registry.id"))
    traffic_split: Mapped[dict[str, Any]] = mapped_column(server_default=text("""'{"a": 0.5, "b": 0.5}'"""))
    salt: Mapped[str] = mapped_column(String(64))
    plan: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(String(50), server_default="running")
    decision: Mapped[str | None] = mapped_column(String(50))
    decision_reasons: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))
    start_date: Mapped[dt.datetime] = _now()
    end_date: Mapped[dt.datetime | None]
    target_samples: Mapped[int] = mapped_column(server_default="200")
    success_metric: Mapped[str] = mapped_column(String(100), server_default="user_rating")
    created_by: Mapped[str | None] = mapped_column(String(255))


class Assignment(Table):
    """The arm a user was given in an experiment; kept, so that later changes of weights move nobody."""

    __tablename__ = "ab_assignments"
    # Gateways learn from each other by the time of writing.
    __table_args__ = (Index("ix_ab_assignments_experiment_time", "experiment_id", "assigned_at"),)

    experiment_id: Mapped[int] = mapped_column(ForeignKey("ab_experiments.id", ondelete="CASCADE"), primary_key=True)
    user_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    variant: Mapped[str] = mapped_column(String(10))
    assigned_at: Mapped[dt.datetime] = _now()


class RequestLog(Table):
    """One request at the gateway: ``variant`` was assigned, ``model_id`` answered; either may be null.

    ``fallback`` says that another provider than the route's first one answered; ``cost`` is in the prices' currency.
    """

    __tablename__ = "ab_test_logs"
    __table_args__ = (
        Index("ix_ab_test_logs_experiment_user", "experiment_id", "user_hash"),
        Index("ix_ab_test_logs_route_created", "route", "created_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    request_id: Mapped[str] = mapped_column(String(64), unique=True)
    experiment_id: Mapped[int | None] = mapped_column(ForeignKey("ab_experiments.id", ondelete="CASCADE"))
    route: Mapped[str] = mapped_column(String(255))
    user_hash: Mapped[str | None] = mapped_column(String(64))
    session_id: Mapped[str | None] = mapped_column(String(255))
    variant: Mapped[str | None] = mapped_column(String(10))
    model_id: Mapped[int | None] = mapped_column(ForeignKey("model_registry.id"))
    query: Mapped[str | None] = mapped_column(Text)
    response: Mapped[str | None] = mapped_column(Text)
    status_code: Mapped[int]
    response_time_ms: Mapped[float]
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    user_rating: Mapped[int | None]
    user_feedback: Mapped[str | None] = mapped_column(Text)
    endpoint: Mapped[str | None] = mapped_column(String(50))
    provider: Mapped[str | None] = mapped_column(String(100))
    assigned_version: Mapped[str | None] = mapped_column(String(300))
    served_version: Mapped[str | None] = mapped_column(String(300))
    fallback: Mapped[bool] = mapped_column(server_default=text("false"))
    first_token_ms: Mapped[float | None]
    finish_reason: Mapped[str | None] = mapped_column(String(50))
    cost: Mapped[float | None]
    created_at: Mapped[dt.datetime] = _now()


class Provider(Table):
    """A place that answers in OpenAI's form. Keys are not kept here: ``key_source`` says where the gateway finds one.

    The row ``vllm`` without addresses means the servers that the gateway's settings name. Prices are per million
    tokens. Without ``model`` the provider is sent the version's own name, and its answers count as the version's.
    """

    __tablename__ = "providers"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    addresses: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    model: Mapped[str | None] = mapped_column(String(255))
    key_source: Mapped[str | None] = mapped_column(String(500))
    prompt_price: Mapped[float | None]
    completion_price: Mapped[float | None]
    timeout_seconds: Mapped[float | None]
    stream_usage: Mapped[bool] = mapped_column(server_default=text("true"))
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    updated_by: Mapped[str | None] = mapped_column(String(255))
    updated_at: Mapped[dt.datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


class RouteProvider(Table):
    """Who answers a route: providers in the order in which they are tried. A route without rows has ``vllm`` alone."""

    __tablename__ = "route_providers"
    __table_args__ = (UniqueConstraint("route", "provider_id", name="uq_route_providers_route_provider"),)

    route: Mapped[str] = mapped_column(String(255), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    provider_id: Mapped[int] = mapped_column(ForeignKey("providers.id"))


class GatewayKey(Table):
    """A client's key, as its SHA-256 digest. Without ``requests_per_minute`` the gateway's own limit holds."""

    __tablename__ = "gateway_keys"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    requests_per_minute: Mapped[int | None]
    created_by: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[dt.datetime] = _now()
    revoked_at: Mapped[dt.datetime | None]


class ExperimentResult(Table):
    """One arm's figures at one look at an experiment."""

    __tablename__ = "ab_test_results"
    __table_args__ = (UniqueConstraint("experiment_id", "look", "variant", name="uq_ab_test_results_look"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    experiment_id: Mapped[int] = mapped_column(ForeignKey("ab_experiments.id", ondelete="CASCADE"))
    look: Mapped[str] = mapped_column(String(255))
    variant: Mapped[str] = mapped_column(String(10))
    total_samples: Mapped[int]
    users: Mapped[int]
    avg_rating: Mapped[float | None]
    avg_response_time_ms: Mapped[float | None]
    confidence_interval: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    statistical_significance: Mapped[bool]
    winner: Mapped[bool]
    details: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    calculated_at: Mapped[dt.datetime] = _now()


class GpuLease(Table):
    """Which job holds which device. The device is the key: two holders are impossible."""

    __tablename__ = "gpu_leases"

    device: Mapped[int] = mapped_column(primary_key=True)
    holder: Mapped[str] = mapped_column(String(500))
    runtime: Mapped[str | None] = mapped_column(String(20))
    leased_at: Mapped[dt.datetime] = _now()
    renewed_at: Mapped[dt.datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


class GpuWaiter(Table):
    """A place in the queue for devices; the smallest ticket is served first. ``seen_at`` is when it asked last."""

    __tablename__ = "gpu_waiters"
    __table_args__ = (UniqueConstraint("holder", name="uq_gpu_waiters_holder"),)

    ticket: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    holder: Mapped[str] = mapped_column(String(500))
    count: Mapped[int]
    devices: Mapped[list[int]] = mapped_column(server_default=text("'{}'"))
    asked_at: Mapped[dt.datetime] = _now()
    seen_at: Mapped[dt.datetime] = _now()
