"""What the local stack consists of: each service's command, environment, address and what it waits for."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tollgate.settings import PROJECT, Settings
from tollgate.stack.airflow_settings import airflow_environment
from tollgate.stack.processes import marker
from tollgate.stack.secrets import Secrets

POSTGRES = "postgres"
AIRFLOW_DATABASE = "airflow-database"
TOLLGATE_DATABASE = "tollgate-database"
VLLM = "vllm"


@dataclass(frozen=True)
class Service:
    """One supervised process.

    Args:
        name: Name in ``tollgate status`` and of the log file.
        command: Program and arguments; no secret stands here, since everybody can list command lines.
        environment: Variables on top of :func:`common_environment`.
        health_url: Answers with status 200 once the service works; empty where ``heartbeat`` tells.
        port: Port that it listens on, if it has one.
        address: What a person opens, if anything.
        after: Names of services and preparations that must be there first.
        component: Name in Airflow's health report, for processes that have no port of their own.
        stop_seconds: How long it may take to end before it is killed.
        heartbeat: A file that the service touches while it works, where it answers nobody.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    health_url: str
    port: int | None = None
    address: str | None = None
    after: frozenset[str] = field(default_factory=frozenset)
    component: str | None = None
    stop_seconds: int = 15
    heartbeat: Path | None = None


@dataclass(frozen=True)
class Preparation:
    """A command that runs once at every start, before the services that wait for it.

    Args:
        name: Name in the display and of the log file.
        command: Program and arguments.
        environment: Variables on top of :func:`common_environment`.
        after: Names of what must be there first.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    after: frozenset[str] = field(default_factory=frozenset)


def services(configuration: Settings, secrets: Secrets) -> tuple[Service, ...]:
    """All services of the local stack.

    Args:
        configuration: Ports and folders.
        secrets: The stack's secrets.
    """
    return (
        _vllm(configuration),
        _mlflow(configuration),
        *_airflow(configuration, secrets),
        _gateway(configuration, secrets),
        _reconciler(configuration),
    )


def postgres_guardian(configuration: Settings) -> Service:
    """What starts PostgreSQL again where it was killed. It answers nobody; PostgreSQL's own health stands for it.

    Args:
        configuration: The data folder.
    """
    command = (sys.executable, "-m", "tollgate.stack.postgres", str(configuration.postgres_data))
    return Service(name="postgres-guardian", command=command, environment={}, health_url="")


def preparations(configuration: Settings, secrets: Secrets) -> tuple[Preparation, ...]:
    """What must be done between PostgreSQL's start and that of the services: tables, the administrator, the pool.

    Args:
        configuration: Ports and folders.
        secrets: The stack's secrets.
    """
    airflow = airflow_environment(configuration, secrets) | {
        "TOLLGATE_AIRFLOW_ADMIN_PASSWORD": secrets.airflow_admin_password,
        "TOLLGATE_GPU_IDS": json.dumps(configuration.gpu_ids),
    }
    initialize = str(PROJECT / "containers" / "airflow" / "initialize.py")
    migrate = "from tollgate.store.migrate import upgrade; upgrade()"
    return (
        Preparation(AIRFLOW_DATABASE, (sys.executable, initialize), airflow, frozenset({POSTGRES})),
        Preparation(TOLLGATE_DATABASE, (sys.executable, "-c", migrate), {}, frozenset({POSTGRES})),
    )


def common_environment(configuration: Settings) -> dict[str, str]:
    """Environment of every process of the stack: the caller's, our settings, offline switches, no usage statistics.

    Args:
        configuration: The settings; those that were set explicitly are passed on, so that all processes agree.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    return (
        inherited
        | _settings_as_environment(configuration)
        | _direct_access(configuration.host)
        | _quiet()
        | {
            "PYTHONPATH": os.pathsep.join(str(PROJECT / folder) for folder in ("include", "plugins", "containers")),
            "PYTHONUNBUFFERED": "1",
            "MLFLOW_TRACKING_URI": configuration.mlflow_address,
            **marker(configuration.home),
        }
    )


def _settings_as_environment(configuration: Settings) -> dict[str, str]:
    values = configuration.model_dump(mode="json", include=configuration.model_fields_set | {"home"})
    return {
        f"TOLLGATE_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
        if value is not None
    }


def _direct_access(host: str) -> dict[str, str]:
    """Keep calls between the services away from a proxy that the caller's environment names."""
    known = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    hosts = ",".join(dict.fromkeys([*filter(None, known.split(",")), host, "localhost", "127.0.0.1"]))
    return {"NO_PROXY": hosts, "no_proxy": hosts}


def _quiet() -> dict[str, str]:
    return {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GX_ANALYTICS_ENABLED": "False",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "SCARF_ANALYTICS": "false",
    }


def _airflow(configuration: Settings, secrets: Secrets) -> tuple[Service, ...]:
    environment = airflow_environment(configuration, secrets) | {"TOLLGATE_GATEWAY_KEY": secrets.gateway_key}
    health = f"{configuration.airflow_address}/api/v2/monitor/health"
    after = frozenset({AIRFLOW_DATABASE, TOLLGATE_DATABASE})

    def part(name: str, component: str | None = None, port: int | None = None) -> Service:
        return Service(
            name=f"airflow-{name}",
            command=_successor(port, sys.executable, "-m", "airflow", name),
            environment=environment,
            health_url=health,
            port=port,
            address=configuration.airflow_address if port else None,
            after=after,
            component=component,
            # Answers are finished within a second; afterwards the api-server's process hangs until it is killed.
            stop_seconds=5 if port else 15,
        )

    return (
        part("api-server", port=configuration.airflow_port),
        part("scheduler", "scheduler"),
        part("dag-processor", "dag_processor"),
        part("triggerer", "triggerer"),
    )


def _successor(port: int | None, *command: str) -> tuple[str, ...]:
    """The command, run after what a killed server with workers left on its port."""
    return command if port is None else (sys.executable, "-m", "tollgate.stack.successor", str(port), *command)


def _mlflow(configuration: Settings) -> Service:
    artifacts = configuration.home / "mlflow-artifacts"
    return Service(
        name="mlflow",
        command=_successor(
            configuration.mlflow_port,
            *(sys.executable, "-m", "mlflow", "server"),
            *("--host", configuration.host, "--port", str(configuration.mlflow_port)),
            *("--serve-artifacts", "--artifacts-destination", str(artifacts)),
            *("--workers", "1"),
        ),
        environment={
            "MLFLOW_BACKEND_STORE_URI": configuration.embedded_url("mlflow"),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # workers for generative-AI features that nothing here uses
        },
        health_url=f"{configuration.mlflow_address}/health",
        port=configuration.mlflow_port,
        address=configuration.mlflow_address,
        after=frozenset({POSTGRES}),
    )


def _vllm(configuration: Settings) -> Service:
    address = f"http://{configuration.host}:{configuration.vllm_port}"
    health, grace = f"{address}/health", 40  # it finishes running answers first
    watchdog = (sys.executable, "-m", "tollgate.stack.watchdog", health, str(configuration.server_hang_seconds))
    server = (str(configuration.ml_python), str(PROJECT / "containers" / "vllm" / "serve.py"))
    return Service(
        name=VLLM,
        command=(*watchdog, str(grace), *server),
        environment={},
        health_url=health,
        port=configuration.vllm_port,
        address=address,
        stop_seconds=grace,
    )


def _gateway(configuration: Settings, secrets: Secrets) -> Service:
    address = f"http://{configuration.host}:{configuration.gateway_port}"
    return Service(
        name="gateway",
        command=(
            *(sys.executable, "-m", "gateway"),
            *("--host", configuration.host, "--port", str(configuration.gateway_port)),
        ),
        environment={
            "TOLLGATE_GATEWAY_KEY": secrets.gateway_key,
            "TOLLGATE_GATEWAY_USER_SECRET": secrets.gateway_user_secret,
        },
        health_url=f"{address}/healthz",
        port=configuration.gateway_port,
        address=address,
        after=frozenset({TOLLGATE_DATABASE}),
        stop_seconds=25,
    )


def _reconciler(configuration: Settings) -> Service:
    heartbeat = configuration.home / "run" / "reconciler.heartbeat"
    watch = ("reconcile", "--watch", str(configuration.reconcile_seconds), "--heartbeat", str(heartbeat))
    return Service(
        name="reconciler",
        command=(sys.executable, "-m", "tollgate", *watch),
        environment={},
        health_url="",
        heartbeat=heartbeat,
        after=frozenset({TOLLGATE_DATABASE}),
        stop_seconds=5,  # every change is a transaction: nothing has to be finished
    )


def log_file(configuration: Settings, name: str) -> Path:
    """Where a service or preparation writes its output."""
    return configuration.home / "logs" / f"{name}.log"
