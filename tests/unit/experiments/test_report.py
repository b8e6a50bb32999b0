"""The report page of an experiment from a file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tollgate.experiments.measurements import read, replay
from tollgate.experiments.plan import ExperimentPlan, Guardrail
from tollgate.experiments.report import render
from tollgate.experiments.report_data import of_file

PLAN = ExperimentPlan(users_per_arm=60, looks=4, guardrails=(Guardrail(metric="error_share", margin=0.05),))


def page_of(folder: Path, rows: pd.DataFrame) -> str:
    path = folder / "ratings.csv"
    rows.to_csv(path, index=False)
    data = read(path, PLAN)
    return render(of_file(path.name, PLAN, data, list(replay(data, PLAN))))


def table(users: int, effect: float) -> pd.DataFrame:
    random = np.random.default_rng(1)
    rows = []
    for arm in ("a", "b"):
        for number in range(users):
            rating = int(np.clip(np.rint(random.normal(3 + effect * (arm == "b"), 0.8)), 1, 5))
            when = pd.Timestamp("2026-03-01T00:00:00Z") + pd.Timedelta(hours=number)
            question = f"질문 {number} <script>alert(1)</script> 010-1234-5678"
            category = ("통행료", "미납")[number % 2]
            rows.append(
                (f"{arm}{number}", arm, rating, when.isoformat(), 0.0, category, question, f"{arm} 답변 {number}")
            )
    names = ["user", "variant", "metric", "time", "error_share", "category", "query", "response"]
    return pd.DataFrame(rows, columns=names)


def test_the_page_shows_everything_in_both_languages_and_loads_nothing(tmp_path: Path) -> None:
    page = page_of(tmp_path, table(70, 1.5))
    for shown in (
        "통행료",
        "미납",
        "error_share",
        "Guardrails",
        "보호 지표",
        "b 답변",
        "significantly better",
        "<polygon",
    ):
        assert shown in page
    assert "<script>alert" not in page
    assert "010-1234-5678" not in page
    assert re.findall(r'(?:src|href)="(?!#)[^"]*"', page) == []
    assert page.count('class="ko"') == page.count('class="en"')


@pytest.mark.parametrize("users", [1, 2])
def test_the_page_of_hardly_any_users_says_that_it_goes_on(tmp_path: Path, users: int) -> None:
    page = page_of(tmp_path, table(users, 0.0))
    assert "asks for 60 in each arm" in page
    assert "NaN" not in page
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S)
