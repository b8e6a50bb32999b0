"""Bring everything that is projected from PostgreSQL in line with it: replicas, rollouts under way, MLflow.

Each part is done as far as its services answer; what stands in the way is told, and made good by the next time.
``tollgate.workflow.reconciler`` does it for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from tollgate.errors import TollgateError
from tollgate.registry import mlflow_repair
from tollgate.serving import canary_rollout, rollout
from tollgate.serving.client import VllmClient
from tollgate.store.session import transaction
from tollgate.workflow import rollouts, servers

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Reconciliation(BaseModel):
    """What was done, one line each.

    Attributes:
        loaded: Adapters that replicas lacked, with the replica's address.
        unloaded: Adapters that nothing refers to.
        servers: What became of servers of full weights.
        rollouts: What became of rollouts under way.
        mlflow: What was repaired in MLflow.
        problems: What stands in the way.
    """

    loaded: list[str] = Field(default_factory=list)
    unloaded: list[str] = Field(default_factory=list)
    servers: list[str] = Field(default_factory=list)
    rollouts: list[str] = Field(default_factory=list)
    mlflow: list[str] = Field(default_factory=list)
    problems: list[str] = Field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything was done or stands in the way."""
        return any((self.loaded, self.unloaded, self.servers, self.rollouts, self.mlflow, self.problems))


def reconcile(
    by: str,
    client: VllmClient | None = None,
    mlflow: Callable[[], MlflowClient] | None = None,
    *,
    with_mlflow: bool = True,
) -> Reconciliation:
    """Reconcile once.

    Args:
        by: Who stands in the history where a rollout goes on.
        client: The replicas; default: those of the settings.
        mlflow: Connects to the tracking server; default: that of the settings.
        with_mlflow: Whether MLflow is looked at, too; it takes longer than the rest.
    """
    done = Reconciliation()
    _as_far_as_possible(done, lambda: _replicas(done, client))
    _registry(done, by, mlflow, with_mlflow)
    return done


def reconcile_mlflow(mlflow: Callable[[], MlflowClient] | None = None) -> Reconciliation:
    """MLflow alone: aliases, tags, descriptions and lost versions."""
    done = Reconciliation()
    _mlflow(done, mlflow)
    return done


def reconcile_registry(by: str, mlflow: Callable[[], MlflowClient] | None = None) -> Reconciliation:
    """The same without the replicas: servers of full weights, rollouts under way, and MLflow."""
    done = Reconciliation()
    _registry(done, by, mlflow, True)
    return done


def _registry(done: Reconciliation, by: str, mlflow: Callable[[], MlflowClient] | None, with_mlflow: bool) -> None:
    _as_far_as_possible(done, lambda: done.servers.extend(servers.keep_if_due()))
    _as_far_as_possible(done, lambda: _rollouts(done, by))
    if with_mlflow:
        _mlflow(done, mlflow)


def _mlflow(done: Reconciliation, mlflow: Callable[[], MlflowClient] | None) -> None:
    _as_far_as_possible(done, lambda: done.mlflow.extend(mlflow_repair.repair(mlflow() if mlflow else None)))


def _as_far_as_possible(done: Reconciliation, part: Callable[[], None]) -> None:
    try:
        part()
    except TollgateError as error:
        done.problems.append(str(error))


def _replicas(done: Reconciliation, client: VllmClient | None) -> None:
    with client or VllmClient() as replicas, transaction() as session:
        found = rollout.reconcile(session, replicas)
    done.loaded += found.loaded
    done.unloaded += found.unloaded
    done.problems += found.problems


def _rollouts(done: Reconciliation, by: str) -> None:
    with transaction() as session:
        ids = canary_rollout.all_running(session)
    for rollout_id in ids:
        state = rollouts.look(rollout_id, by)
        if state.action not in {"wait", "hold", "none"}:
            done.rollouts.append(f"{state.served_name} on {state.route}: {state.action}. {' '.join(state.reasons)}")
