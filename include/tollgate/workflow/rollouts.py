"""The tasks of ``roll_out`` and ``roll_back``, which the command line calls too.

Each may be repeated after a crash with the same outcome.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tollgate.errors import BadInputError, GateRefusedError, Problem, ServiceUnavailableError
from tollgate.registry import lifecycle
from tollgate.registry.mlflow_projection import project_model
from tollgate.serving import canary_rollout, release
from tollgate.serving.canary import CanaryPlan
from tollgate.serving.canary_rollout import RolloutState
from tollgate.serving.client import VllmClient
from tollgate.serving.probes import Probe
from tollgate.store.session import transaction
from tollgate.workflow import servers

GREETING = "안녕하세요"
"""What is asked where nobody named a question: a working model says something."""

STATUS_KO = {"running": "진행 중", "completed": "완료", "rolled_back": "되돌림", "stopped": "중단"}
"""How rollouts stand, in Korean."""


def begin(
    served_name: str, why: str, by: str, plan: Mapping[str, Any] | None = None, prompts: Sequence[Probe] = (GREETING,)
) -> RolloutState:
    """Give a version the first share of its route, or the whole where nothing else serves it.

    Full weights get a server of their own first, which takes minutes.

    Args:
        served_name: The version, for example ``highway-router@v3``.
        why: The reason, in words.
        by: Who decided.
        plan: Fields of ``CanaryPlan`` that differ from the settings.
        prompts: Questions that it must answer first.

    Raises:
        BadInputError: There is no such version, or the plan or the version's files cannot be used.
        GateRefusedError: The version may not serve, or the route is taken.
        ServiceUnavailableError: vLLM or PostgreSQL did not answer; nothing was changed.
    """
    chosen = CanaryPlan.of_settings(**(plan or {}))
    with servers.ready_for_release(served_name, by), VllmClient() as client, transaction() as session:
        model = lifecycle.find(session, served_name)
        begun = release.begin_rollout(session, model.id, by, why, chosen, prompts, client)
    _tell_mlflow(begun.route)
    return begun


def look(rollout_id: int, by: str) -> RolloutState:
    """Measure, decide, and do what was decided."""
    with transaction() as session:
        done = canary_rollout.look(session, rollout_id, by)
    if done.action in {"complete", "roll_back", "stop"}:
        _tell_mlflow(done.route)
    return done


def roll_back(route: str, why: str, by: str, away_from: str | None = None) -> dict[str, Any]:
    """Leave what was released last on a route: rollout or experiment under way, else the production version.

    Args:
        route: Name that clients use.
        why: The reason, in words.
        by: Who decided.
        away_from: The version to leave, for example ``highway-router@v3``; named, so that a retry goes back once.

    Returns:
        The fields of ``Release``, and ``mlflow``: whether MLflow was told.

    Raises:
        BadInputError: There is nothing to go back to.
        ServiceUnavailableError: PostgreSQL did not answer, or no replica has the version; nothing was changed.
    """
    servers.ensure_former(route, by, away_from)
    with VllmClient() as client, transaction() as session:
        left = None
        if away_from is not None:
            model = lifecycle.find(session, away_from)
            if model.model_name != route:
                raise BadInputError("The version is of another route.", [Problem("version", away_from, f"of {route}")])
            left = model.id
        done = release.roll_back(session, route, by, why, client, left)
    return {**done.model_dump(mode="json"), "mlflow": _tell_mlflow(route)}


def leave(served_name: str | None, why: str, by: str) -> dict[str, Any]:
    """:func:`roll_back` by the version that is left.

    Raises:
        BadInputError: No version is named, or an unknown one.
    """
    if not served_name:
        raise BadInputError("Which version?", [Problem("version", "nothing", "a name, as in highway-router@v3")])
    with transaction() as session:
        route = lifecycle.find(session, served_name).model_name
    return roll_back(route, why, by, served_name)


def outcome(ended: Mapping[str, Any]) -> str:
    """What became of a version, with the reasons in English and in Korean, a line each, for people.

    Raises:
        GateRefusedError: The version was rolled back, or its rollout was stopped; the text says why.
    """
    state = RolloutState.model_validate(ended)
    with transaction() as session:
        past = canary_rollout.events(session, state.rollout_id) if state.rollout_id else []
        english = past[-1].reason if past else " ".join(state.reasons)
        korean = (past[-1].reason_ko if past else " ".join(state.reasons_ko)) or english
    if state.status == "completed":
        return (
            f"{state.served_name} serves all of {state.route}. {english}\n\n"
            f"{state.served_name}이(가) {state.route} 경로 전체를 맡았습니다. {korean}"
        )
    raise GateRefusedError(
        f"{state.served_name} is not in production ({state.status}). {english}\n\n"
        f"{state.served_name}은(는) 운영에 쓰이지 않습니다({STATUS_KO[state.status]}). {korean}"
    )


def _tell_mlflow(route: str) -> bool:
    """The truth stands in PostgreSQL; what MLflow misses now the reconciler makes good."""
    try:
        project_model(route)
    except ServiceUnavailableError:
        return False
    return True
