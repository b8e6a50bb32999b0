"""Promoters that race for one model and die in between: how many versions are in production afterwards."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from tollgate.errors import ServiceUnavailableError, TollgateError
from tollgate.registry import lifecycle, mlflow_projection
from tollgate.registry.lifecycle import Stage
from tollgate.serving import rollout
from tollgate.store.session import engine, transaction
from tollgate.store.tables import FinetuningJob, RegisteredModel

MODEL, PROMOTERS = "raced", 4
CRASHES = 0.25


@dataclass
class Raced:
    """What 1,000 races left.

    Args:
        wrong: Races after which not exactly one version was in production, or the route was another's.
        died: Promoters whose connection broke before they had committed.
        history_wrong: Whether the history tells of a moment with two production versions, or of none at its end.
        mlflow_differs: Versions and aliases of MLflow that differ from PostgreSQL after it was reconciled.
    """

    wrong: int = 0
    died: int = 0
    history_wrong: bool = False
    mlflow_differs: int = 0


def race(races: int, folder: Path) -> Raced:
    """Let four promoters race, again and again.

    Args:
        races: How often.
        folder: Where MLflow's store is.
    """
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db", registry_uri=f"sqlite:///{folder}/mlflow.db")
    ids = _versions(client)
    found, dice = Raced(), random.Random(3)
    with ThreadPoolExecutor(PROMOTERS) as pool:
        for _ in range(races):
            plans = [(model_id, dice.random() < CRASHES, dice.randint(1, 6)) for model_id in ids]
            found.died += sum(pool.map(lambda plan: _promote(*plan), plans))
            found.wrong += not _is_right()
    found.history_wrong = not _history_is_right()
    _edit_by_hand(client)
    mlflow_projection.project_model(MODEL, client)
    found.mlflow_differs = _differences(client)
    return found


def _versions(client: MlflowClient) -> list[int]:
    ids = []
    client.create_registered_model(MODEL)
    for number in range(1, PROMOTERS + 1):
        there = client.create_model_version(MODEL, source=f"/nowhere/{number}")
        with transaction() as session:
            job = FinetuningJob(
                job_name=f"race-{number}", base_model="base", method="lora", hyperparameters={}, output_dir="/nowhere"
            )
            session.add(job)
            session.flush()
            model = lifecycle.reserve_version(session, MODEL, job.id, "base", "/nowhere", "bench")
            lifecycle.record_verdict(session, model.id, "pass", [])
            lifecycle.move(session, model.id, Stage.CANDIDATE, Stage.STAGING, "bench", "passed")
            lifecycle.record_mlflow_uri(session, model.id, f"models:/{MODEL}/{there.version}")
            ids.append(model.id)
    with transaction() as session:
        lifecycle.promote_to_production(session, ids[0], "bench", "first")
        rollout.set_route(session, MODEL, {ids[0]: 1.0}, "bench")
    return ids


def _promote(model_id: int, dies: bool, statement: int) -> bool:
    """Promote; one that dies loses its connection before its n-th statement, as a killed process does."""
    try:
        with transaction() as session:
            if dies:
                _break_at(session, statement)
            lifecycle.promote_to_production(session, model_id, f"promoter {model_id}", "race")
            rollout.set_route(session, MODEL, {model_id: 1.0}, f"promoter {model_id}")
            if dies:
                _kill(session)
    except (DBAPIError, ServiceUnavailableError):
        return True
    except TollgateError:
        return False
    return False


def _break_at(session: Session, statement: int) -> None:
    from sqlalchemy import event

    counted = {"statements": 0}

    def count(connection: object, *_: object) -> None:
        counted["statements"] += 1
        if counted["statements"] == statement:
            _kill(session)

    event.listen(session.connection(), "before_cursor_execute", count)


def _kill(session: Session) -> None:
    """Ask PostgreSQL to end this very connection: what it sees when the process at the other end is killed."""
    with suppress(DBAPIError):
        process = session.connection().connection.dbapi_connection.get_backend_pid()  # type: ignore[union-attr]
        with engine().connect() as other:
            other.execute(select(func.pg_terminate_backend(process)))


def _is_right() -> bool:
    with transaction() as session:
        production = [model.id for model in lifecycle.versions(session, MODEL, Stage.PRODUCTION)]
        return len(production) == 1 and list(rollout.current(session, MODEL)) == production


def _history_is_right() -> bool:
    with transaction() as session:
        changes = lifecycle.history(session, MODEL)
    in_production = 0
    for change in changes:
        in_production += (change.to_stage == "production") - (change.from_stage == "production")
        if in_production not in {0, 1}:
            return False
    return in_production == 1


def _edit_by_hand(client: MlflowClient) -> None:
    client.set_registered_model_alias(MODEL, "production", "1")
    client.set_registered_model_alias(MODEL, "staging", "2")
    client.set_model_version_tag(MODEL, "3", "tollgate.stage", "production")
    client.update_model_version(MODEL, "4", "edited")


def _differences(client: MlflowClient) -> int:
    with transaction() as session:
        models = {f"{model.mlflow_model_uri}".rpartition("/")[2]: model for model in lifecycle.versions(session, MODEL)}
        differ = 0
        for number, model in models.items():
            there = client.get_model_version(MODEL, number)
            differ += there.tags["tollgate.stage"] != model.status
            differ += there.description != mlflow_projection.description(model)
        wanted = {number for number, model in models.items() if model.status == "production"}
    aliases = client.get_registered_model(MODEL).aliases
    return differ + ({str(aliases.get("production"))} != wanted) + ("staging" in aliases)


def list_versions_seconds(number: int) -> float:
    """Seconds to list ``number`` versions as ``tollgate model list --json`` does, after the program has started."""
    import contextlib
    import io
    import time

    from tollgate.registry.commands import list_versions

    with transaction() as session:
        session.add_all(
            RegisteredModel(
                model_name="many",
                version=version,
                base_model="base",
                model_path="/nowhere",
                verdict="pass",
                verdict_reasons=["Accuracy 0.97 is above 0.90."] * 4,
            )
            for version in range(1, number + 1)
        )
    times = []
    for _ in range(5):
        before = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            list_versions("many", None, as_json=True)
        times.append(time.perf_counter() - before)
    return min(times)
