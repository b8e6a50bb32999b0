"""Prepare Airflow's database once before its processes start: tables, the administrator, the GPU pool.

One process instead of three ``airflow`` commands, because each of those imports Airflow anew. Running it again changes
nothing, except that the administrator's password and the pool's size follow the settings.

Environment:
    TOLLGATE_AIRFLOW_ADMIN_PASSWORD: Password of the user ``admin``.
    TOLLGATE_GPU_IDS: JSON list of the devices that jobs may use. The pool ``gpu`` gets two slots for each: one for the
        job that has it, and one for a job that waits in the queue, where its place is shown; one slot without GPUs.
"""

from __future__ import annotations

import json
import os
import sys

ADMINISTRATOR = "admin"
GPU_POOL = "gpu"


def migrate_database() -> None:
    """Create Airflow's tables, or bring them up to this version."""
    from airflow.utils.db import initdb

    initdb()


def ensure_administrator(password: str) -> None:
    """Create the administrator, or give the existing one this password."""
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
    from werkzeug.security import check_password_hash

    with get_application_builder() as application:
        manager = application.sm
        user = manager.find_user(ADMINISTRATOR)
        if user is None:
            role = manager.find_role("Admin")
            if not manager.add_user(ADMINISTRATOR, "Tollgate", "Administrator", "admin@localhost", role, password):
                raise SystemExit("The administrator could not be created; the lines above say why.")
        elif not check_password_hash(user.password, password):
            manager.reset_password(user.id, password)


def ensure_gpu_pool(slots: int) -> None:
    """Create the pool that limits how many jobs run at once, or change its size."""
    from airflow.models.pool import Pool

    Pool.create_or_update_pool(
        GPU_POOL,
        slots=slots,
        description="Training jobs; for each GPU one that has it and one that waits.",
        include_deferred=False,
    )


def main() -> int:
    """Run the three steps."""
    password = os.environ.get("TOLLGATE_AIRFLOW_ADMIN_PASSWORD")
    if not password:
        sys.stderr.write("TOLLGATE_AIRFLOW_ADMIN_PASSWORD is not set: it becomes the password of Airflow's admin.\n")
        return 2
    devices = json.loads(os.environ.get("TOLLGATE_GPU_IDS") or "[]")
    migrate_database()
    ensure_administrator(password)
    ensure_gpu_pool(max(1, 2 * len(devices)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
