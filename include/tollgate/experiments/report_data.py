"""What an experiment's report shows, gathered from the database or from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from tollgate.experiments.analysis import analyze, find
from tollgate.experiments.decision import Analysis, Decision
from tollgate.experiments.looks import ARMS, Floats
from tollgate.experiments.measurements import Look, Measurements, observe
from tollgate.experiments.observations import load_observations
from tollgate.experiments.plan import ExperimentPlan
from tollgate.experiments.statistics import Comparison, compare
from tollgate.store.tables import Experiment, ExperimentResult, RegisteredModel, RequestLog

_LONGEST = 600
_MOST_ANSWERS = 8
_MOST_CATEGORIES = 30


@dataclass(frozen=True)
class Category:
    """The comparison within one category."""

    name: str
    comparison: Comparison


@dataclass(frozen=True)
class Answers:
    """What both arms said to the same question; personal data is masked."""

    query: str
    responses: dict[str, str]
    ratings: dict[str, float | None]


@dataclass(frozen=True)
class ReportData:
    """Everything that the page shows.

    Args:
        name: Of the experiment or the file.
        facts: Keys of the page's words, and what they are here.
        plan: The plan.
        looks: All looks, oldest first; at least one.
        values: Per arm, the users' values at the last look.
        categories: Comparisons within categories, if the requests have some.
        answers: Pairs of answers, if texts are kept.
        ended: How it ended, in English and Korean; empty while it runs.
    """

    name: str
    facts: list[tuple[str, str]]
    plan: ExperimentPlan
    looks: Sequence[Look]
    values: dict[str, Floats]
    categories: list[Category] = field(default_factory=list)
    answers: list[Answers] = field(default_factory=list)
    ended: list[dict[str, str]] = field(default_factory=list)


def of_file(name: str, plan: ExperimentPlan, data: Measurements, looks: Sequence[Look]) -> ReportData:
    """The report of an experiment from a file, as of its last look.

    Args:
        name: Shown as the title.
        plan: The plan.
        data: All rows of the file.
        looks: What :func:`.measurements.replay` gave.
    """
    seen = data.rows[data.rows["time"] <= looks[-1].time]
    facts = [("began", f"{data.start:%Y-%m-%d %H:%M} UTC"), ("last_look", f"{looks[-1].time:%Y-%m-%d %H:%M} UTC")]
    final = looks[-1].decision
    words = zip(final.reasons, final.reasons_ko, strict=True)
    return ReportData(
        name=name,
        facts=facts,
        plan=plan,
        looks=looks,
        values=observe(seen, plan).means,
        categories=_categories(seen, plan),
        answers=_answers_of_rows(seen, plan),
        ended=[{"en": en, "ko": ko} for en, ko in words] if final.final else [],
    )


def of_experiment(session: Session, name: str) -> ReportData:
    """The report of an experiment in the database, with all its looks on record.

    Args:
        session: Of the caller's transaction.
        name: The experiment's.

    Raises:
        BadInputError: There is no such experiment.
    """
    experiment = find(session, name)
    plan = ExperimentPlan.model_validate(experiment.plan)
    models = [session.get_one(RegisteredModel, key) for key in (experiment.model_a_id, experiment.model_b_id)]
    facts = [
        ("champion", models[0].served_name),
        ("challenger", models[1].served_name),
        ("began", f"{experiment.start_date:%Y-%m-%d %H:%M %Z}"),
        ("state", experiment.status),
    ]
    if experiment.end_date is not None:
        facts.append(("ended", f"{experiment.end_date:%Y-%m-%d %H:%M %Z}"))
    seen = load_observations(session, experiment.id, plan.minimum_ratings_per_user)
    return ReportData(
        name=experiment.experiment_name,
        facts=facts,
        plan=plan,
        looks=_looks(session, experiment) or [_present(session, experiment)],
        values=seen.means,
        answers=_answers_of_log(session, experiment),
        ended=list(experiment.decision_reasons),
    )


def _looks(session: Session, experiment: Experiment) -> list[Look]:
    rows = session.execute(
        select(ExperimentResult.calculated_at, ExperimentResult.details)
        .where(ExperimentResult.experiment_id == experiment.id, ExperimentResult.variant == "b")
        .order_by(ExperimentResult.calculated_at, ExperimentResult.id)
    )
    return [
        Look(time, Analysis.model_validate(details["analysis"]), Decision.model_validate(details["decision"]))
        for time, details in rows.tuples()
    ]


def _present(session: Session, experiment: Experiment) -> Look:
    """An experiment that nobody has looked at yet: its figures now, which decide nothing."""
    from tollgate.experiments.decision import decide

    analysis = analyze(session, experiment)
    return Look(experiment.start_date, analysis, decide(ExperimentPlan.model_validate(experiment.plan), analysis))


def _categories(rows: pd.DataFrame, plan: ExperimentPlan) -> list[Category]:
    """Comparisons within categories; their intervals share alpha, for there are many of them."""
    if "category" not in rows:
        return []
    known = rows[rows["category"] != ""]
    names = known["category"].value_counts().index[:_MOST_CATEGORIES].tolist()
    found = []
    for name in names:
        means = observe(known[known["category"] == name], plan).means
        if min(means[arm].size for arm in ARMS) >= 2:
            found.append(Category(name, compare(means["a"], means["b"], plan.alpha / len(names))))
    return found


def _answers_of_rows(rows: pd.DataFrame, plan: ExperimentPlan) -> list[Answers]:
    if not {"query", "response"} <= set(rows.columns):
        return []
    told = rows[(rows["query"] != "") & (rows["response"] != "")].drop_duplicates(["query", "variant"])
    both = told[told["variant"] == "a"].merge(told[told["variant"] == "b"], on="query")
    pairs = [
        (row["query"], row["response_x"], row["response_y"], row[f"{plan.metric}_x"], row[f"{plan.metric}_y"])
        for _, row in both.iterrows()
    ]
    return _chosen(pairs)


def _answers_of_log(session: Session, experiment: Experiment) -> list[Answers]:
    a, b = aliased(RequestLog), aliased(RequestLog)
    query = (
        select(a.query, a.response, b.response, a.user_rating, b.user_rating)
        .join(b, (b.query == a.query) & (b.experiment_id == a.experiment_id))
        .where(a.experiment_id == experiment.id, a.variant == "a", a.model_id == experiment.model_a_id)
        .where(b.variant == "b", b.model_id == experiment.model_b_id)
        .where(a.response.is_not(None), b.response.is_not(None))
        .distinct(a.query)
        .order_by(a.query, a.id, b.id)
        .limit(1000)
    )
    rows = session.execute(query).tuples()
    return _chosen([(str(asked), str(one), str(other), rated, against) for asked, one, other, rated, against in rows])


def _chosen(pairs: Sequence[tuple[str, str, str, float | None, float | None]]) -> list[Answers]:
    """Those whose answers differ, the most differently rated first."""
    from tollgate.gates.pii import mask

    def gap(pair: tuple[str, str, str, float | None, float | None]) -> float:
        return abs(pair[3] - pair[4]) if _is_number(pair[3]) and _is_number(pair[4]) else -1.0  # type: ignore[operator]

    differing = sorted((pair for pair in pairs if pair[1] != pair[2]), key=gap, reverse=True)
    return [
        Answers(
            query=mask(query[:_LONGEST]).text,
            responses={"a": mask(first[:_LONGEST]).text, "b": mask(second[:_LONGEST]).text},
            ratings={"a": rating if _is_number(rating) else None, "b": other if _is_number(other) else None},
        )
        for query, first, second, rating, other in differing[:_MOST_ANSWERS]
    ]


def _is_number(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))
