"""Logging in to the stack's own Airflow with the credentials that its secrets hold."""

from __future__ import annotations

import os

from tollgate.errors import BadInputError, Problem
from tollgate.settings import settings
from tollgate.stack.airflow_api import AirflowApi
from tollgate.stack.secrets import load_or_create

ADMIN = "admin"


def local_airflow() -> AirflowApi:
    """A client of the stack's Airflow, as its administrator.

    The password comes from ``TOLLGATE_AIRFLOW_ADMIN_PASSWORD`` where that is set (production), else from the secrets
    file of the local stack.

    Raises:
        BadInputError: There is neither.
    """
    configuration = settings()
    password = os.environ.get("TOLLGATE_AIRFLOW_ADMIN_PASSWORD")
    if not password:
        if not configuration.secrets_file.exists():
            problem = Problem(
                "TOLLGATE_AIRFLOW_ADMIN_PASSWORD", "not set", f"the password, or {configuration.secrets_file}"
            )
            raise BadInputError("There is no password for Airflow; 'tollgate up' makes one.", [problem])
        password = load_or_create(configuration.secrets_file).airflow_admin_password
    return AirflowApi(configuration.airflow_address, ADMIN, password)
