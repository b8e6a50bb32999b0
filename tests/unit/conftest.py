"""Keeps Airflow, which makes its home when it is imported, out of the user's own, and the tests out of its keys."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

if "AIRFLOW_HOME" not in os.environ:
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="tollgate-airflow-")
    atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)

# Most tests load adapters that nobody registered; those of the signatures ask for them.
os.environ.setdefault("TOLLGATE_SIGNATURES", "off")
