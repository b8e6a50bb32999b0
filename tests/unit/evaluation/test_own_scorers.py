from __future__ import annotations

from pathlib import Path

import pytest

from tollgate.errors import BadInputError
from tollgate.evaluation import scorers
from tollgate.evaluation.own_scorers import load_own_scorers
from tollgate.evaluation.scorers import find_scorer

OWN = """
from tollgate.evaluation.scorers import Score, scorer

@scorer("polite")
def polite(answer: str, expected: str, *, ending: str = "다.") -> Score:
    return Score(correct=answer.strip().endswith(ending))
"""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorers, "_SCORERS", dict(scorers._SCORERS))


def test_one_decorated_function_is_a_scorer(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN, encoding="utf-8")
    load_own_scorers([path])
    load_own_scorers([path])
    assert find_scorer("polite")("안내드립니다.", "").correct
    assert not find_scorer("polite", {"ending": "요."})("안내드립니다.", "").correct


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('no table')")
    with pytest.raises(
        BadInputError, match=r"broken\.py: found RuntimeError: no table(.|\n)*absent\.py: found no such"
    ):
        load_own_scorers([broken, tmp_path / "absent.py"])
