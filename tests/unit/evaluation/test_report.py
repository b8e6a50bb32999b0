from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tollgate.evaluation.cases import Message
from tollgate.evaluation.further import FurtherFigures
from tollgate.evaluation.perplexity import Perplexity
from tollgate.evaluation.report import EvaluationReport, make_report, worst_cases
from tollgate.evaluation.report_page import render, write_report
from tollgate.evaluation.report_texts import TEXTS
from tollgate.evaluation.scorers import ScoredCase
from tollgate.evaluation.verdict import VerdictSettings, judge

RULES = VerdictSettings(minimum_cases=10)


def case(number: int, correct: bool, **fields: object) -> ScoredCase:
    asked = (Message(role="system", content="비밀 지시"), Message(role="user", content=f"질문 <{number}>"))
    values = {
        "id": f"c{number}",
        "category": ("환불", "노선")[number % 2],
        "messages": asked,
        "expected": "답",
        "answer": "답" if correct else f"<script>오답 {number}</script>",
        "correct": correct,
        "scorer": "exact",
        "latency_ms": 10.0 + number,
    }
    return ScoredCase.model_validate(values | fields)


@pytest.fixture
def report() -> EvaluationReport:
    candidate = [case(n, n >= 6) for n in range(60)]
    champion = [case(n, n >= 2 and n != 10, answer=f"챔피언 {n}") for n in range(60)]
    further = FurtherFigures(perplexity=Perplexity(value=1.25, tokens=99, cases=60, refused=0))
    return make_report(
        "router@v2", "highway@v1", candidate, champion, further, judge(candidate, champion, RULES), "router@v1"
    )


class Texts(HTMLParser):
    """The texts of each language, and what the page would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.spans: dict[str, list[str]] = {"ko": [], "en": []}
        self.loaded: list[str] = []
        self._open: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.loaded += [value for name in ("src", "href") if (value := found.get(name))]
        if tag == "span":
            self._open.append(found.get("lang"))

    def handle_endtag(self, tag: str) -> None:
        if tag == "span":
            self._open.pop()

    def handle_data(self, data: str) -> None:
        language = self._open[-1] if self._open else None
        if language in self.spans:
            self.spans[language].append(data.strip())


def test_differing_cases_are_chosen_and_counted(report: EvaluationReport) -> None:
    assert report.counts == {"lost": 4, "gained": 1, "both_wrong": 2}
    assert [(one.id, one.kind) for one in report.compared[:5]] == [
        ("c2", "lost"),
        ("c3", "lost"),
        ("c4", "lost"),
        ("c5", "lost"),
        ("c10", "gained"),
    ]
    assert report.latency is not None
    assert sum(report.latency.counts) == 60


def test_the_gravest_failures_come_first() -> None:
    cases = [
        case(1, False, value=0.9),
        case(2, False, value=0.1),
        case(3, True),
        case(4, False, valid=False),
        case(5, False, answer=" "),
        case(6, False, answer="", error="HTTP 400"),
        case(7, False, value=0.5),
    ]
    assert [one.id for one in worst_cases(cases, {"c7"})] == ["c6", "c5", "c4", "c7", "c2", "c1"]
    assert len(worst_cases(cases, set(), kept=2)) == 2


def test_the_page_is_self_contained_and_shows_answers_as_text(report: EvaluationReport) -> None:
    page = render(report)
    assert Texts(page).loaded == []
    assert "<script>오답" not in page
    assert "&lt;script&gt;오답 2" in page
    assert page.count("<script>") == 1, "the switch of languages alone"
    assert "질문 &lt;2&gt;" in page
    assert "비밀 지시" not in page, "the system's instruction is the same in every case"
    assert "챔피언 2" in page
    assert re.search(r"<style>.*\.gauge", page, re.DOTALL)


def test_both_languages_say_everything(report: EvaluationReport) -> None:
    texts = Texts(render(report))
    assert len(texts.spans["ko"]) == len(texts.spans["en"]) > 30
    assert all(re.search("[가-힣]", text) for text in texts.spans["ko"] if text not in {"Δ"})
    assert not any(re.search("[가-힣]", text) for text in texts.spans["en"] if "category" not in text)
    assert all(re.search("[가-힣]", both.ko) and both.en for both in TEXTS.values())


def test_a_report_without_champion_or_verdict_is_still_a_page() -> None:
    alone = make_report("m", "own", [ScoredCase(id="a", correct=True)])
    page = render(alone)
    assert "No case is wrong." in page
    assert "side by side" not in page
    assert alone.counts == {"lost": 0, "gained": 0, "both_wrong": 0}


def test_page_and_json_are_written(report: EvaluationReport, tmp_path: Path) -> None:
    write_report(tmp_path / "deep", report)
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["report.html", "report.json"]
    kept = json.loads((tmp_path / "deep" / "report.json").read_text(encoding="utf-8"))
    assert EvaluationReport.model_validate(kept) == report
    assert kept["further"]["perplexity"]["value"] == 1.25
