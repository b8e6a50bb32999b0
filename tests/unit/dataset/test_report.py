"""The page shows what the report holds, in both languages, loads nothing, and runs nothing that came with the data."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import orjson
from tests.unit.dataset.example_version import write_version

from tollgate.dataset import report, report_texts
from tollgate.gates.results import STAGES

NASTY = '<script>alert("x")</script><img src=x onerror=alert(1)>'


def _stage(name: str, rows_in: int, rows_kept: int, **more: Any) -> dict[str, Any]:
    empty = {"dropped": {}, "masked": {}, "quarantined": 0, "details": {}}
    return {"stage": name, "rows_in": rows_in, "rows_kept": rows_kept, **empty, **more}


def _report() -> dict[str, Any]:
    duplicate = {"line": 7, "kept_line": 3, "jaccard": 0.91, "text": "둘째 질문", "kept_text": "첫째 질문"}
    return {
        "name": "calls",
        "rows_in": 1200,
        "rows_kept": 1000,
        "quarantined": 3,
        "dropped": {"near_duplicate": 190, "low_quality": 7},
        "masked": {"phone": 41},
        "stages": [
            _stage(
                "ingest",
                1200,
                1197,
                quarantined=3,
                details={
                    "source": {"path": f"/data/{NASTY}.jsonl", "sha256": "ab" * 32, "size": 2_500_000},
                    "problems": [{"line": 1044, "field": "messages[0].role", "reason": "unknown role"}],
                },
            ),
            _stage(
                "personal_data",
                1197,
                1197,
                masked={"phone": 41},
                details={
                    "found": {"phone": 41},
                    "rows_with_personal_data": 39,
                    "samples": {"phone": [{"line": 5, "excerpt": f"번호는 [전화번호]입니다 {NASTY}"}]},
                },
            ),
            _stage(
                "duplicates",
                1197,
                1007,
                dropped={"near_duplicate": 190},
                details={
                    "found": {"near_duplicate": 190},
                    "clusters": 12,
                    "largest_cluster": 9,
                    "samples": [duplicate, {**duplicate, "line": 8, "text": "셋째 질문"}],
                    "conflicts": [{"lines": [1, 2], "text": "같은 질문"}],
                },
            ),
            _stage("novel_gate", 1007, 1007, details={"found": {"novel_reason": 5}}),
            _stage(
                "quality",
                1007,
                1000,
                dropped={"low_quality": 7},
                details={
                    "histogram": [1, 0, 0, 0, 0, 0, 6, 0, 0, 1000],
                    "parts": {"intact": 0.5},
                    "samples": [{"line": 44, "reason": "low_quality", "quality": 0.2, "toxicity": 0.0, "text": NASTY}],
                },
            ),
            _stage(
                "contract",
                1000,
                1000,
                details={
                    "passed": False,
                    "checks": [{"name": "at least 10 rows", "column": "rows", "passed": False, "observed": "1000"}],
                },
            ),
        ],
        "statistics": {
            "rows": {"train": 800, "validation": 100, "test": 100},
            "turns": {"1": 1000},
            "categories": {"train": {NASTY: 800}, "validation": {"": 100}, "test": {f"c{n}": 5 for n in range(20)}},
            "sources": {"a": 1, "b": 2},
            "histograms": {
                "question_characters": {"width": 10, "counts": [4, 6], "beyond": 1, "median": 12, "most": 90},
                "answer_characters": {"width": 1, "counts": [], "beyond": 0, "median": 0, "most": 0},
                "tokens": None,
            },
        },
        "version": {
            "name": "calls",
            "version": 4,
            "content_hash": "cd" * 32,
            "parent": "calls@v3",
            "sources": [],
            "gate_settings": {"min_quality": 0.7, "seed": 0},
            "quality_score": 0.98,
            "code_version": "0.1.0",
            "created_at": "2026-05-04T03:02:01Z",
        },
    }


class _Page(HTMLParser):
    """Everything a reader or a browser would meet: tags, what they would load, and the texts of each language."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.texts: dict[str, list[str]] = {"ko": [], "en": [], "": []}
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append(tag)
        self.loads += [str(named[name]) for name in ("src", "href", "srcset", "data") if name in named]
        self.handlers += [name for name in named if name.startswith("on")]
        if tag not in {"input", "meta"}:
            self._open.append(str(named.get("class", "")))

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        inside = next((name for name in reversed(self._open) if name in {"ko", "en"}), "")
        if data.strip():
            self.texts[inside].append(data.strip())


def test_the_page_is_self_contained_and_runs_only_its_own_script() -> None:
    text = report.render(_report())
    page = _Page(text)
    assert (page.loads, page.handlers) == ([], [])
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert not re.search(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text


def test_what_every_gate_took_is_on_the_page() -> None:
    page = _Page(report.render(_report()))
    shown = " ".join(page.texts[""])
    for expected in (
        "calls@v4", "1,200", "1,000", "1,044", "messages[0].role", "2.5 MB", "ab" * 32, "calls@v3",
        "[전화번호]", "첫째 질문", "둘째 질문", "셋째 질문", "0.91", "같은 질문", NASTY, "min_quality",
    ):  # fmt: skip
        assert expected in shown, expected
    assert shown.count("첫째 질문") == 1, "one cluster, shown once"
    assert "novel reason" in page.texts["en"]


def test_both_languages_say_everything() -> None:
    page = _Page(report.render(_report()))
    assert len(page.texts["ko"]) == len(page.texts["en"]) > 60
    assert {"개인정보", "유사 중복", "계약 검사 실패", "행 수가 충분함"} <= set(page.texts["ko"])
    assert {"Personal data", "near-duplicate", "Contract not met", "at least 10 rows"} <= set(page.texts["en"])


def test_no_overlap_is_only_claimed_where_test_sets_were_compared() -> None:
    ingested = _stage("ingest", 5, 5, details={})
    stages = [ingested, _stage("contamination", 5, 5)]
    assert "No row overlaps" not in report.render({"name": "calls", "stages": stages})
    ingested["details"]["tests"] = [{"path": "/data/cases.jsonl", "sha256": "ef" * 32, "size": 1}]
    page = report.render({"name": "calls", "stages": stages})
    assert "No row overlaps" in page
    assert "/data/cases.jsonl" in page


def test_every_gate_has_its_name_in_both_languages() -> None:
    assert set(STAGES) <= set(report_texts.TEXTS)
    korean = [words.ko for words in report_texts.TEXTS.values()]
    assert all(re.search("[가-힣%]", text) for text in korean)


def test_a_report_of_nothing_is_still_a_page() -> None:
    assert "<h1>calls</h1>" in report.render({"name": "calls"})


def test_a_version_keeps_its_page_and_the_same_as_json(tmp_path: Path) -> None:
    version = write_version(tmp_path)
    page = (version.folder / "report.html").read_text(encoding="utf-8")
    assert f"<h1>{version.reference}</h1>" in page
    written = orjson.loads((version.folder / "report.json").read_bytes())
    assert written["version"]["content_hash"] == version.manifest.content_hash
    assert report.render(written) == page
    assert [path.name for path in version.folder.parent.iterdir() if path.name.startswith(".report")] == []
