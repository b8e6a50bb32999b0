"""The tasks of ``analyze_experiments``: one look at each running experiment, and what follows from it."""

from __future__ import annotations

from typing import Any

from tollgate.experiments.analysis import analyze, record_look
from tollgate.experiments.decision import Decision, decide
from tollgate.experiments.plan import ExperimentPlan
from tollgate.registry.mlflow_projection import project_model
from tollgate.serving import release
from tollgate.serving.client import VllmClient
from tollgate.serving.rollout import unload_if_unused
from tollgate.store.session import transaction
from tollgate.store.tables import Experiment


def look(experiment_id: int, look_id: str) -> dict[str, Any]:
    """Take and keep one look at an experiment.

    Args:
        experiment_id: The experiment.
        look_id: The same for all attempts at this look, so that it is counted once.

    Returns:
        ``experiment_id``, ``name``, the figures as ``analysis``, and the ``decision``.
    """
    with transaction() as session:
        experiment = session.get_one(Experiment, experiment_id)
        analysis = analyze(session, experiment)
        decision = decide(ExperimentPlan.model_validate(experiment.plan), analysis)
        decision = record_look(session, experiment, look_id, analysis, decision)
        return {
            "experiment_id": experiment_id,
            "name": experiment.experiment_name,
            "analysis": analysis.model_dump(mode="json"),
            "decision": decision.model_dump(mode="json"),
        }


def act(outcome: dict[str, Any], by: str) -> dict[str, Any]:
    """Carry out a look's decision: promote, roll back, or leave as it is. Twice is the same as once.

    The loser of a promotion stays loaded, for the way back; a challenger that lost is unloaded.
    """
    decision = Decision.model_validate(outcome["decision"])
    with transaction() as session:
        done = release.settle(session, outcome["experiment_id"], decision, by)
        challenger = session.get_one(Experiment, outcome["experiment_id"]).model_b_id
    if done.action != "kept":
        project_model(done.route)
    if done.action == "rolled_back":
        with VllmClient() as client, transaction() as session:
            unload_if_unused(session, challenger, client)
    return done.model_dump(mode="json")
