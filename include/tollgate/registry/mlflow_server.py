"""The connection to the MLflow tracking server, and its failures in plain words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx

from tollgate.errors import ServiceUnavailableError
from tollgate.settings import settings

if TYPE_CHECKING:
    from mlflow import MlflowClient


def connect(address: str | None = None) -> MlflowClient:
    """Connect to the tracking server, after a look whether it answers.

    Args:
        address: Base address; default: that of the settings.

    Raises:
        ServiceUnavailableError: It did not answer within seconds.
    """
    address = address or settings().mlflow_address
    try:
        httpx.get(f"{address}/health", timeout=10.0).raise_for_status()
    except httpx.HTTPError as error:
        raise ServiceUnavailableError(f"MLflow at {address} did not answer: {error}") from error
    # MLflow's own default waits for minutes; a task's retry does that better, and is seen.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=address, registry_uri=address)


@contextmanager
def answering() -> Iterator[None]:
    """Tell a server that does not answer from one that says no, whose answer goes through unchanged.

    Raises:
        ServiceUnavailableError: MLflow did not answer, or broke while it did.
    """
    from mlflow import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code in {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"}:
            raise ServiceUnavailableError(f"MLflow did not answer: {error.message}") from error
        raise
    except OSError as error:  # what the HTTP library raises while files are uploaded
        raise ServiceUnavailableError(f"MLflow did not take the files: {error}") from error
