"""How the stack configures Airflow: everything as environment variables, nothing in ``airflow.cfg``."""

from __future__ import annotations

import json
import os

from sqlalchemy import make_url

from tollgate.settings import PROJECT, Settings
from tollgate.stack.secrets import Secrets

FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"

HEARTBEAT_TIMEOUT = 60
"""Seconds after which a killed worker's task counts as failed; Airflow's own 300 delay every retry."""


def parallel_tasks(devices: int = 0) -> int:
    """How many tasks may run at once: 4 to 8, as the machine's cores allow, besides those that train or wait for a GPU.

    Args:
        devices: How many GPUs jobs may use; the pool ``gpu`` has two slots for each.
    """
    return min(8, max(4, 2 * (os.cpu_count() or 1))) + 2 * devices


def airflow_environment(configuration: Settings, secrets: Secrets) -> dict[str, str]:
    """Variables that all Airflow processes of the local stack share.

    Args:
        configuration: Ports and folders.
        secrets: Keys for tokens, sessions and stored connections.
    """
    home = configuration.home / "airflow"
    options: dict[str, dict[str, object]] = {
        "core": {
            "auth_manager": FAB,
            "executor": "LocalExecutor",
            "parallelism": parallel_tasks(len(configuration.gpu_ids)),
            "max_active_tasks_per_dag": parallel_tasks(len(configuration.gpu_ids)),
            "dags_folder": PROJECT / "dags",
            "plugins_folder": PROJECT / "plugins",
            "load_examples": False,
            "dags_are_paused_at_creation": False,
            "fernet_key": secrets.airflow_fernet_key,
            "execution_api_server_url": f"{configuration.airflow_address}/execution/",
            "min_serialized_dag_update_interval": 5,
        },
        "database": {"sql_alchemy_conn": configuration.embedded_url("airflow")},
        "api": {
            "workers": 1,
            "host": configuration.host,
            "port": configuration.airflow_port,
            "base_url": configuration.airflow_address,
            "secret_key": secrets.airflow_secret_key,
            "expose_config": False,
        },
        "api_auth": {"jwt_secret": secrets.airflow_jwt_secret},
        "scheduler": {"task_instance_heartbeat_timeout": HEARTBEAT_TIMEOUT},
        # New and changed DAG files are seen within seconds; unchanged ones are seldom parsed again.
        "dag_processor": {"refresh_interval": 5, "min_file_process_interval": 120},
        # A cleared task that had succeeded must run again, not find the state of its former job.
        "state_store": {"clear_on_success": True},
        "logging": {"base_log_folder": home / "logs"},
        "fab": {"enable_proxy_fix": False},
    }
    variables = {
        f"AIRFLOW__{section.upper()}__{name.upper()}": str(value)
        for section, entries in options.items()
        for name, value in entries.items()
    }
    return variables | {"AIRFLOW_HOME": str(home), "AIRFLOW_CONN_TOLLGATE": _connection(configuration)}


def _connection(configuration: Settings) -> str:
    """Tollgate's own database as Airflow's connection ``tollgate``, for tasks that are one SQL statement."""
    url = make_url(configuration.tollgate_database)
    return json.dumps(
        {
            "conn_type": "postgres",
            "host": url.host or url.query.get("host"),
            "port": url.port,
            "login": url.username,
            "password": url.password,
            "schema": url.database,
        }
    )
