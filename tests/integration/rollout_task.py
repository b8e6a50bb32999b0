"""One task of a rollout as a process that can be killed: ``rollout_task.py MOVE MOMENT ROUTE``.

It does what Airflow's task does. At the moment named, of the transaction that moves the route, it writes ``ready`` and
waits for a line on its standard input, so that whoever reads it knows what it kills. Exit status 3: a service did not
answer, and the task may be tried again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy import event, text
from sqlalchemy.orm import Session

from tollgate.errors import ServiceUnavailableError
from tollgate.registry import lifecycle
from tollgate.registry.mlflow_projection import project_model
from tollgate.serving import canary_rollout
from tollgate.store.session import engine, transaction
from tollgate.workflow import rollouts

BY = "the task"
PLAN = {
    "dwell_seconds": 3600.0,
    "minimum_users": 1,
    "error_margin": 1.0,  # what the kills do to users is blamed on nobody: the test is about the moves
    "empty_margin": 1.0,
    "latency_ratio": 1e6,
}


def begin(route: str) -> None:
    """Give the second version its first share."""
    rollouts.begin(f"{route}@v2", "better", BY, PLAN)


def begin_first(route: str) -> None:
    """Give the first version the whole route, which nothing else serves."""
    rollouts.begin(f"{route}@v1", "first", BY, PLAN)


def look(route: str) -> None:
    """A look whose time has not come: nothing moves."""
    with transaction() as session:
        rollout = canary_rollout.running(session, route)
        assert rollout is not None
        canary_rollout.look(session, rollout.id, BY)


def advance(route: str, step: int) -> None:
    """A look whose time has come.

    It comes once this look has the route's lock, for the reconciler, which may be first afterwards, sees it too.
    """
    with transaction() as session:
        lifecycle.lock_model(session, route)
        with engine().begin() as other:
            other.execute(
                text(
                    "UPDATE rollouts SET step_started_at = step_started_at - interval '2 hours' "
                    "WHERE route = :route AND status = 'running' AND step = :step "
                    "AND step_started_at > now() - interval '1 hour'"
                ),
                {"route": route, "step": step},
            )
        rollout = canary_rollout.running(session, route)
        if rollout is not None and rollout.step == step:
            canary_rollout.look(session, rollout.id, BY)
    with suppress(ServiceUnavailableError):  # what MLflow misses, the reconciler makes good
        project_model(route)


def back(route: str) -> None:
    """Leave the second version."""
    rollouts.roll_back(route, "worse", BY, f"{route}@v2")


MOVES: dict[str, Callable[[str], None]] = {
    "begin": begin,
    "look": look,
    "first": lambda route: advance(route, 0),
    "second": lambda route: advance(route, 1),
    "back": back,
}


def stop_at(moment: str) -> None:
    """Wait once, at the first commit of this process."""
    told: list[Session] = []

    def wait(session: Session) -> None:
        if told:
            return
        told.append(session)
        print("ready", flush=True)
        sys.stdin.readline()

    event.listen(Session, moment, wait)


def main(move: str, moment: str, route: str) -> int:
    """Make a move; 0 once it is done."""
    stop_at(moment)
    try:
        MOVES[move](route)
    except ServiceUnavailableError as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
