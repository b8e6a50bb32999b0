"""Experiments from a file: CSV with a row for each request or rating, looked at as the plan says."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tollgate.errors import BadInputError, Problem
from tollgate.experiments.decision import Analysis, Arm, Decision, decide
from tollgate.experiments.guardrails import Requests
from tollgate.experiments.looks import ARMS, Observations, examine
from tollgate.experiments.plan import ExperimentPlan, quantile_of

_TEXTS = ("category", "query", "response")
_SHOWN_PROBLEMS = 10
_SECONDS_A_DAY = 86_400
_DAY = 24.0


@dataclass(frozen=True)
class Measurements:
    """Rows of a file, checked, in the order of time.

    Args:
        rows: Columns ``user``, ``variant``, ``time``, the plan's metrics, and, if given, ``history``, ``category``,
            ``query`` and ``response``.
    """

    rows: pd.DataFrame

    @property
    def start(self) -> pd.Timestamp:
        """Time of the first row."""
        return self.rows["time"].iloc[0]

    @property
    def end(self) -> pd.Timestamp:
        """Time of the last row."""
        return self.rows["time"].iloc[-1]


@dataclass(frozen=True)
class Look:
    """One look at an experiment from a file or the log."""

    time: dt.datetime
    analysis: Analysis
    decision: Decision


def read(path: Path, plan: ExperimentPlan) -> Measurements:
    """Read and check a CSV file in UTF-8 with a header.

    Needed are ``user``, ``variant`` (a or b), ``time`` (ISO 8601) and the plan's metric, in a column of its name or of
    the name ``metric``; each guardrail in a column of its name, for a quantile such as ``response_time_p95_ms`` the
    column ``response_time_ms``. Rows without a value of the metric are users who were served and gave none.

    Raises:
        BadInputError: Names lines, values and what was expected.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BadInputError("There is no such file.", [Problem("file", str(path), "a CSV file")]) from error
    except (UnicodeDecodeError, ValueError) as error:
        problem = Problem(str(path), str(error).strip()[:200], "CSV in UTF-8 with a header")
        raise BadInputError("The file cannot be read.", [problem]) from error
    if plan.metric not in table and "metric" in table:
        table = table.rename(columns={"metric": plan.metric})
    numbers = sorted({plan.metric, *(_column(one.metric) for one in plan.guardrails)})
    lacking = [name for name in ("user", "variant", "time", *numbers) if name not in table]
    if lacking:
        expected = "columns user, variant, time, " + ", ".join(numbers)
        found = ", ".join(map(str, table.columns)) or "none"
        raise BadInputError("The file lacks columns.", [Problem(f"{path}, line 1", found, expected)])
    if table.empty:
        raise BadInputError("The file has no rows.", [Problem(str(path), "a header only", "a row for each request")])
    return Measurements(_converted(path, table, numbers))


def _column(metric: str) -> str:
    quantile = quantile_of(metric)
    return quantile[0] if quantile else metric


def _converted(path: Path, table: pd.DataFrame, numbers: list[str]) -> pd.DataFrame:
    rows = pd.DataFrame({"user": table["user"].str.strip(), "variant": table["variant"].str.strip().str.lower()})
    rows["time"] = pd.to_datetime(table["time"].str.strip(), utc=True, errors="coerce", format="ISO8601")
    wrong = {
        "user": (rows["user"] == "", "a name"),
        "variant": (~rows["variant"].isin(ARMS), "a or b"),
        "time": (rows["time"].isna(), "a time such as 2026-03-01T09:30:00+09:00"),
    }
    for name in [*numbers, *(["history"] if "history" in table else [])]:
        text = table[name].str.strip()
        rows[name] = pd.to_numeric(text.where(text != ""), errors="coerce").astype(np.float64)
        wrong[name] = ((text != "") & ~np.isfinite(rows[name]), "a number, or nothing")
    problems = [
        Problem(f"{path}, line {line + 2}, {name}", repr(table[name].iloc[line])[:60], expected)
        for name, (mask, expected) in wrong.items()
        for line in np.flatnonzero(mask.to_numpy())[:_SHOWN_PROBLEMS]
    ]
    if problems:
        raise BadInputError("The file has rows that cannot be used.", problems[:_SHOWN_PROBLEMS])
    for name in _TEXTS:
        if name in table:
            rows[name] = table[name].str.strip()
    return rows.sort_values("time", kind="stable", ignore_index=True)


def observe(rows: pd.DataFrame, plan: ExperimentPlan) -> Observations:
    """What these rows say of the users."""
    arms_of_user = rows.groupby("user")["variant"].nunique()
    crossed = arms_of_user.index[arms_of_user > 1]
    assigned = rows.drop_duplicates(["user", "variant"])["variant"].value_counts()
    own = rows[~rows["user"].isin(crossed)]
    values = own.groupby(["variant", "user"])[plan.metric].agg(["mean", "count"])
    rated = values[values["count"] >= plan.minimum_ratings_per_user]
    means = {arm: _of_arm(rated["mean"], arm) for arm in ARMS}
    arms = {
        arm: Arm(
            assigned=int(assigned.get(arm, 0)),
            served=len(_of_arm(values["mean"], arm)),
            users=means[arm].size,
            ratings=int(_of_arm(rated["count"], arm).sum()),
            mean=float(means[arm].mean()) if means[arm].size else None,
            requests=int((own["variant"] == arm).sum()),
        )
        for arm in ARMS
    }
    return Observations(
        means=means,
        arms=arms,
        crossed_users=len(crossed),
        history=_history(own, rated) if "history" in own else None,
        guardrail_means=_guardrail_means(own, plan),
        guardrail_requests=_guardrail_requests(own, plan),
    )


def _of_arm(values: pd.Series, arm: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    if arm not in values.index.get_level_values("variant"):
        return np.zeros(0)
    return np.asarray(values.loc[arm].to_numpy(dtype=np.float64))


def _history(own: pd.DataFrame, rated: pd.DataFrame) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    before = own.groupby(["variant", "user"])["history"].mean().reindex(rated.index)
    return {arm: _of_arm(before, arm) for arm in ARMS}


def _guardrail_means(
    own: pd.DataFrame, plan: ExperimentPlan
) -> dict[str, dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]]:
    found = {}
    for guardrail in plan.guardrails:
        if quantile_of(guardrail.metric) is None:
            means = own.groupby(["variant", "user"])[guardrail.metric].mean().dropna()
            found[guardrail.metric] = {arm: _of_arm(means, arm) for arm in ARMS}
    return found


def _guardrail_requests(own: pd.DataFrame, plan: ExperimentPlan) -> dict[str, dict[str, Requests]]:
    found = {}
    for guardrail in plan.guardrails:
        if quantile := quantile_of(guardrail.metric):
            known = own.dropna(subset=[quantile[0]])
            found[guardrail.metric] = {arm: _requests(known[known["variant"] == arm], quantile[0]) for arm in ARMS}
    return found


def _requests(rows: pd.DataFrame, column: str) -> Requests:
    return Requests(rows[column].to_numpy(dtype=np.float64), pd.factorize(rows["user"])[0].astype(np.int64))


def replay(data: Measurements, plan: ExperimentPlan) -> Iterator[Look]:
    """The looks that the plan would have taken, until the first final decision or the end of the file.

    Looks are ``look_interval_hours`` apart, a day where the plan names none; the last one sees all rows.

    Yields:
        Each look.
    """
    interval = pd.Timedelta(hours=plan.look_interval_hours or _DAY)
    times = data.rows["time"]
    earlier: list[int] = []
    now = data.start
    while now < data.end:
        now = min(now + interval, data.end)
        rows = data.rows.iloc[: times.searchsorted(now, side="right")]
        look = look_at(rows, plan, data.start, now, earlier)
        yield look
        if look.decision.final:
            return
        if look.decision.look is not None:
            earlier.append(look.decision.look)
    if data.start == data.end:
        yield look_at(data.rows, plan, data.start, now, earlier)


def look_at(
    rows: pd.DataFrame, plan: ExperimentPlan, start: pd.Timestamp, now: pd.Timestamp, earlier: list[int]
) -> Look:
    """One look at rows."""
    days = (now - start).total_seconds() / _SECONDS_A_DAY
    analysis = examine(plan, observe(rows, plan), 0, days, earlier)
    return Look(now.floor("us").to_pydatetime(), analysis, decide(plan, analysis))
