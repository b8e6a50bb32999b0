"""Where things are and which ports they use, from ``TOLLGATE_*`` variables and ``.env``."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from tollgate.errors import BadInputError, Problem

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

    runtime: Literal["auto", "docker", "process"] = Field(
        "auto",
        description="How jobs run. auto: Docker where an engine and the trainer image are there, else a process.",
    )
    docker_url: str = Field("unix:///var/run/docker.sock", description="The Docker engine that runs jobs.")
    trainer_image: str = Field("tollgate/trainer:0.1.0", description="Image of the training container.")
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
    base_model: Path | None = Field(None, description="Base model that vLLM serves; empty: the demo's own.")
    base_model_name: str = Field("base", description="Name under which vLLM serves the base model.")
    max_lora_rank: int = Field(32, ge=1, le=512, description="Largest adapter rank that vLLM accepts.")
    max_model_len: int = Field(512, ge=16, description="Longest prompt and answer, in tokens, that vLLM serves.")

    @field_validator("home", "ml_python", "base_model")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.absolute()  # the stack's processes must all mean the same place

    @property
    def datasets(self) -> Path:
        """Folder of dataset versions: ``<name>/v<number>/``."""
        return self.home / "datasets"

    @property
    def jobs(self) -> Path:
        """Folder of job folders: ``<job name>/`` with ``spec.json``, ``progress.jsonl``, ``result.json``."""
        return self.home / "jobs"

    @property
    def models(self) -> Path:
        """Folder of base models and of registered adapters."""
        return self.home / "models"

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
