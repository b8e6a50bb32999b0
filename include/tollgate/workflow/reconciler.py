"""Reconcile for ever: a service of the stack that brings back what a kill or a restart took, and is silent otherwise.

It changes what the DAGs change, under the same advisory locks, so that each waits for the other's transaction.
"""

from __future__ import annotations

import datetime as dt
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tollgate.errors import TollgateError
from tollgate.workflow.reconcile import Reconciliation, reconcile, reconcile_mlflow

BY = "reconciler"
"""Who stands in the history where the service takes a rollout further."""

MLFLOW_SECONDS = 60.0
"""Between two looks at MLflow: they take longer than the rest, and nothing that users notice depends on them."""

MLFLOW_RETRY_SECONDS = 10.0
"""The same while something stands in the way."""


class Reconciler:
    """Reconciles again and again and tells what it did; of what stands in the way, when it begins and when it is over.

    Args:
        seconds: Between the end of a round and the begin of the next, above 0.
        with_mlflow: Whether MLflow is looked at, too.
        heartbeat: A file whose time is that of the last round's end, for health checks.
        tell: Takes a line of the log.
    """

    def __init__(
        self,
        seconds: float,
        with_mlflow: bool = True,
        heartbeat: Path | None = None,
        tell: Callable[[str], None] = print,
    ) -> None:
        self._seconds = seconds
        self._heartbeat = heartbeat
        self._tell = tell
        self._next_mlflow = 0.0 if with_mlflow else float("inf")
        self._problems: dict[str, tuple[str, ...]] = {}

    def run(self) -> NoReturn:
        """Go on until the process is ended; every round is made of transactions, so it may be killed at any moment."""
        while True:
            self.round()
            time.sleep(self._seconds)

    def round(self) -> Reconciliation:
        """Reconcile once; MLflow only where its turn has come.

        Returns:
            What was done.
        """
        done = self._part("serving", lambda: reconcile(BY, with_mlflow=False))
        if time.monotonic() >= self._next_mlflow:
            found = self._part("MLflow", reconcile_mlflow)
            self._next_mlflow = time.monotonic() + (MLFLOW_RETRY_SECONDS if found.problems else MLFLOW_SECONDS)
            done = done.model_copy(update={"mlflow": found.mlflow, "problems": done.problems + found.problems})
        if self._heartbeat is not None:
            self._heartbeat.touch()
        return done

    def _part(self, name: str, work: Callable[[], Reconciliation]) -> Reconciliation:
        try:
            done = work()
        except TollgateError as error:
            done = Reconciliation(problems=[str(error)])
        except Exception:  # the service must outlive what nobody thought of; the next round may well succeed
            done = Reconciliation(problems=[traceback.format_exc()])
        self._tell_about(name, done)
        return done

    def _tell_about(self, name: str, done: Reconciliation) -> None:
        for kind, lines in done.model_dump(exclude={"problems"}).items():
            for line in lines:
                self._say(f"{kind}: {line}")
        known = {problem for problems in self._problems.values() for problem in problems}
        for problem in dict.fromkeys(done.problems):  # parts that need the same service have the same problem
            if problem not in known:
                self._say(f"problem: {problem}")
        if self._problems.get(name) and not done.problems:
            self._say(f"{name}: nothing stands in the way any more")
        self._problems[name] = tuple(done.problems)

    def _say(self, text: str) -> None:
        self._tell(f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S} UTC  {text}")
