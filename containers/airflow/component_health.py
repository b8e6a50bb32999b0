"""Health check of an Airflow component that has no port of its own: ``component_health.py scheduler``.

Asks the api-server, which knows every component's last sign of life; ``airflow jobs check`` would import Airflow.

Environment:
    TOLLGATE_AIRFLOW_URL: Base address of the api-server.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request


def main(component: str) -> int:
    """Return 0 if the component is healthy, else 1."""
    address = os.environ["TOLLGATE_AIRFLOW_URL"].rstrip("/")
    with urllib.request.urlopen(f"{address}/api/v2/monitor/health", timeout=8) as answer:  # noqa: S310
        report = json.load(answer)
    return 0 if (report.get(component) or {}).get("status") == "healthy" else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
