"""Where things are and which ports they use, from ``TOLLGATE_*`` variables and ``.env``."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from tollgate.errors import BadInputError, Problem
from tollgate.training.backends import DEFAULT as DEFAULT_BACKEND

PROJECT = Path(__file__).resolve().parents[2]
"""The checkout: the folder that holds ``dags``, ``plugins``, ``include`` and ``containers``."""


class Settings(BaseSettings):
    """Every setting of Tollgate, one field each; ``.env.example`` lists them with these texts."""

    model_config = SettingsConfigDict(
        env_prefix="TOLLGATE_", env_file=str(PROJECT / ".env"), env_ignore_empty=True, extra="ignore"
    )

    home: Path = Field(PROJECT / ".tollgate", description="Folder of the stack's state: databases, data, models, logs.")
    host: str = Field("127.0.0.1", description="Address that the local services listen on.")
    airflow_port: int = Field(8080, ge=1, le=65535, description="Port of Airflow's web UI and REST.")
    mlflow_port: int = Field(5000, ge=1, le=65535, description="Port of the MLflow tracking server.")
    vllm_port: int = Field(8000, ge=1, le=65535, description="Port of the local vLLM server.")
    gateway_port: int = Field(8100, ge=1, le=65535, description="Port of the gateway.")

    database_url: str | None = Field(
        None, description="SQLAlchemy URL of Tollgate's own database; empty: the embedded PostgreSQL under home."
    )
    mlflow_url: str | None = Field(None, description="MLflow's address; empty: the local server.")
    airflow_url: str | None = Field(None, description="Airflow's address; empty: the local server.")
    gateway_url: str | None = Field(None, description="The gateway's address; empty: the local one.")
    vllm_urls: list[str] = Field([], description="Addresses of all vLLM replicas; empty: the local server.")
    provider_keys: Path | None = Field(
        None, description="Folder of other providers' API keys, a file each; empty: provider-keys under home."
    )

    runtime: Literal["auto", "docker", "process"] = Field(
        "auto",
        description="How jobs run. auto: Docker where an engine and the trainer image are there, else a process.",
    )
    docker_url: str = Field("unix:///var/run/docker.sock", description="The Docker engine that runs jobs.")
    trainer_image: str = Field("tollgate/trainer:0.1.0", description="Image of the training container.")
    vllm_image: str = Field(
        "tollgate/vllm:0.1.0", description="Image of vLLM, in which full weights are examined before a release."
    )
    backend_images: dict[str, str] = Field(
        {},
        description="Images of the other training backends by their name; else trainer-axolotl and so on.",
    )
    job_memory: str = Field("16g", description="Memory limit of a job's container.")
    gpu_memory_gb: float | None = Field(
        None, gt=0, description="Memory of one GPU in GB (10^9 bytes); empty: not compared with what a job needs."
    )
    memory_check: Literal["refuse", "warn"] = Field(
        "refuse",
        description="What happens to a job whose estimated memory is above the device's or TOLLGATE_JOB_MEMORY.",
    )
    gpu_hour_price: float | None = Field(None, ge=0, description="Price of an hour of one GPU; empty: costs nothing.")
    kwh_price: float | None = Field(None, ge=0, description="Price of a kWh; empty: costs nothing.")
    device_watts: float | None = Field(None, gt=0, description="Power of one device while it trains, for the kWh.")
    currency: str = Field("KRW", description="Currency of the prices.")
    gpu_ids: list[int] = Field([], description="Devices that jobs may use; empty: no GPU, no device requests.")
    ml_python: Path = Field(
        PROJECT / ".venv-ml" / "bin" / "python", description="Interpreter with torch, TRL and vLLM, for process jobs."
    )
    harness_python: Path = Field(
        PROJECT / ".venv-harness" / "bin" / "python",
        description="Interpreter with EleutherAI's lm-evaluation-harness, for KoBEST.",
    )
    backend_pythons: dict[str, Path] = Field(
        {},
        description="Interpreters of the other training backends by their name; else of .venv-axolotl and so on.",
    )
    base_model: Path | None = Field(None, description="Base model that vLLM serves; empty: the demo's own.")
    base_model_name: str = Field("base", description="Name under which vLLM serves the base model.")
    max_lora_rank: int = Field(32, ge=1, le=512, description="Largest adapter rank that vLLM accepts.")
    max_model_len: int = Field(512, ge=16, description="Longest prompt and answer, in tokens, that vLLM serves.")

    signatures: Literal["required", "off"] = Field(
        "required",
        description="Whether models are signed when registered, and refused by rollout when their signature is wrong.",
    )
    signing_key: Path | None = Field(
        None, description="EC private key (PEM, mode 0600) that signs models; empty: one made under home/keys."
    )
    trusted_keys: list[Path] = Field(
        [], description="Public keys (PEM) whose signatures are accepted; empty: that of this installation's own key."
    )

    canary_steps: list[float] = Field(
        [0.05, 0.25, 1.0], description="Shares of the route that a version gets one after the other in a rollout."
    )
    canary_dwell_seconds: float = Field(600, ge=0, description="Least seconds that it stays at each share below 1.")
    canary_minimum_users: int = Field(
        20, ge=1, description="Least users of each version at each share; with fewer a rollout holds."
    )
    reconcile_seconds: float = Field(
        5,
        ge=0.5,
        description="Seconds between two rounds of the stack's reconciler; MLflow's turn comes once a minute.",
    )

    server_start_seconds: float = Field(
        1800,
        gt=0,
        description="Longest time that a server of full weights may take until it is healthy.",
    )
    server_hang_seconds: float = Field(
        120,
        gt=0,
        description="How long a vLLM server that was ready may not answer /health before it is started again.",
    )
    server_retention_seconds: float = Field(
        3600, ge=0, description="How long the former server of full weights stays for a rollback after its route moved."
    )
    server_quiet_seconds: float = Field(
        5, ge=1, description="How long a server that nothing leads to must be without a request before it is stopped."
    )
    server_drain_seconds: float = Field(
        600, ge=0, description="After so long it is stopped even with requests under way; above the gateway's time-out."
    )
    server_network: str = Field(
        "host", description="Docker network of such servers: host, or a network that the gateway is in."
    )

    @field_validator("home", "ml_python", "harness_python", "base_model", "provider_keys", "signing_key")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.absolute()  # the stack's processes must all mean the same place

    def trainer_image_of(self, backend: str) -> str:
        """The image of a training backend; where none is named, the trainer's with the backend's name appended."""
        if backend == DEFAULT_BACKEND:
            return self.trainer_image
        folder, slash, image = self.trainer_image.rpartition("/")
        name, colon, version = image.partition(":")
        return self.backend_images.get(backend, f"{folder}{slash}{name}-{backend}{colon}{version}")

    def python_of(self, backend: str) -> Path:
        """The interpreter of a training backend for process jobs; where none is named, that of ``.venv-<backend>``."""
        if backend == DEFAULT_BACKEND:
            return self.ml_python
        return self.backend_pythons.get(backend, PROJECT / f".venv-{backend}" / "bin" / "python").absolute()

    @property
    def datasets(self) -> Path:
        """Folder of dataset versions: ``<name>/v<number>/``."""
        return self.home / "datasets"

    @property
    def jobs(self) -> Path:
        """Folder of job folders: ``<job name>/`` with ``spec.json``, ``progress.jsonl``, ``result.json``."""
        return self.home / "jobs"

    @property
    def servers(self) -> Path:
        """Folder of the servers of full weights: ``<version>/`` with logs and records."""
        return self.home / "servers"

    @property
    def models(self) -> Path:
        """Folder of base models and of registered adapters."""
        return self.home / "models"

    @property
    def signing_key_file(self) -> Path:
        """Private key (0600) that signs registered models; its public half is beside it, with ``.pub`` at the end."""
        return self.signing_key or self.home / "keys" / "model-signing.pem"

    @property
    def secrets_file(self) -> Path:
        """File (0600) of the secrets generated on first start."""
        return self.home / "secrets.json"

    @property
    def postgres_data(self) -> Path:
        """Data folder of the embedded PostgreSQL, where its socket lives too."""
        return self.home / "postgres"

    def embedded_url(self, database: str) -> str:
        """SQLAlchemy URL of one database of the embedded PostgreSQL (psycopg2, through its socket)."""
        return f"postgresql+psycopg2://postgres:@/{database}?host={self.postgres_data}"

    @property
    def tollgate_database(self) -> str:
        """SQLAlchemy URL of Tollgate's own tables."""
        return self.database_url or self.embedded_url("tollgate")

    @property
    def mlflow_address(self) -> str:
        """Base address of MLflow, without a slash at the end."""
        return (self.mlflow_url or f"http://{self.host}:{self.mlflow_port}").rstrip("/")

    @property
    def airflow_address(self) -> str:
        """Base address of Airflow, without a slash at the end."""
        return (self.airflow_url or f"http://{self.host}:{self.airflow_port}").rstrip("/")

    @property
    def gateway_address(self) -> str:
        """Base address of the gateway, without a slash at the end."""
        return (self.gateway_url or f"http://{self.host}:{self.gateway_port}").rstrip("/")

    @property
    def vllm_addresses(self) -> list[str]:
        """Base addresses of all vLLM replicas, without slashes at the end."""
        return [url.rstrip("/") for url in self.vllm_urls] or [f"http://{self.host}:{self.vllm_port}"]

    @property
    def served_base_model(self) -> Path:
        """Folder of the base model that vLLM serves."""
        return self.base_model or self.models / "demo-base"


@lru_cache
def settings() -> Settings:
    """The process's settings, read once.

    Raises:
        BadInputError: A setting has a value that it cannot have.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = [
            Problem(f"TOLLGATE_{'.'.join(map(str, fault['loc'])).upper()}", repr(fault["input"]), fault["msg"])
            for fault in error.errors()
        ]
        raise BadInputError("The settings are wrong (environment or .env).", problems) from error
    except SettingsError as error:
        raise BadInputError(f"The settings are wrong (environment or .env): {error}") from error
