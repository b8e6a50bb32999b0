"""A comparison of providers as one HTML page, in Korean and English, that needs nothing but itself."""

from __future__ import annotations

from typing import Any

from tollgate.dataset import report_texts
from tollgate.dataset.report import page_environment
from tollgate.dataset.report_texts import Words
from tollgate.serving.provider_comparison import Comparison, ProviderFigures

_MOST_CASES = 30
_TEXT_SHOWN = 600


def render(comparison: Comparison) -> str:
    """Make the page: an HTML document with its style and both languages inside."""
    template = page_environment("tollgate.serving").get_template("providers.html.j2")
    return template.render(page=_page(comparison), words=words)


def words(key: str) -> Words:
    """The words of a key: this page's own, else those that all pages share."""
    return TEXTS.get(key) or report_texts.words(key)


TEXTS = {
    name: Words(*both)
    for name, both in {
        "title": ("모델 제공자 비교", "Comparison of providers"),
        "case_count": ("문항 수", "Cases"),
        "currency": ("통화", "Currency"),
        "provider": ("제공자", "Provider"),
        "model": ("모델", "Model"),
        "accuracy": ("정확도", "Accuracy"),
        "interval": ("95 % 신뢰구간", "95 % interval"),
        "tokens": ("토큰 (입력 / 출력)", "Tokens (in / out)"),
        "cost": ("비용", "Cost"),
        "cost_of_thousand": ("1,000건당 비용", "Cost of 1,000"),
        "errors": ("오류", "Errors"),
        "by_category": ("범주별 정확도", "Accuracy by category"),
        "category": ("범주", "Category"),
        "differing": ("제공자마다 정오가 갈린 문항", "Cases that some have right and others wrong"),
        "question": ("질문", "Question"),
        "expected": ("정답", "Right answer"),
        "failed": ("측정 실패", "No figures"),
        "footer": (
            "같은 문항을 차례로 물었습니다. 비용은 설정된 백만 토큰당 단가로 계산합니다.",
            "The same cases, one provider after the other. Costs come from the prices per million tokens.",
        ),
    }.items()
}


def _page(comparison: Comparison) -> dict[str, Any]:
    good = [one for one in comparison.providers if one.summary is not None]
    return {
        "reference": comparison.suite,
        "facts": [
            {"key": "case_count", "value": f"{comparison.cases:,}", "mono": False},
            {"key": "currency", "value": comparison.currency, "mono": False},
        ],
        "rows": [_row(one) for one in good],
        "failed": [one for one in comparison.providers if one.summary is None],
        "names": [one.provider for one in good],
        "categories": _categories(good),
        "differing": _differing(comparison),
    }


def _row(one: ProviderFigures) -> dict[str, str]:
    summary = one.summary
    assert summary is not None
    return {
        "provider": one.provider,
        "model": one.model,
        "accuracy": f"{summary.accuracy:.1%}",
        "width": f"{100 * summary.accuracy:.1f}",
        "interval": f"{summary.low:.1%} – {summary.high:.1%}",
        "p50": _number(summary.latency_p50_ms, ",.0f"),
        "p95": _number(summary.latency_p95_ms, ",.0f"),
        "tokens": f"{_number(one.prompt_tokens, ',')} / {_number(one.completion_tokens, ',')}",
        "cost": _number(one.cost, ",.4f"),
        "cost_of_thousand": _number(one.cost_of_thousand, ",.3f"),
        "errors": str(summary.errors),
    }


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _categories(good: list[ProviderFigures]) -> list[dict[str, Any]]:
    tables = [one.summary.categories for one in good if one.summary is not None]
    names = sorted({name for table in tables for name in table})
    return [
        {"name": name, "shares": [f"{table[name].accuracy:.1%}" if name in table else "-" for table in tables]}
        for name in names
    ]


def _differing(comparison: Comparison) -> list[dict[str, Any]]:
    tables = {name: {case.id: case for case in scored} for name, scored in comparison.answers.items()}
    shown = []
    for case_id in comparison.differing(_MOST_CASES):
        cases = {name: table[case_id] for name, table in tables.items() if case_id in table}
        first = next(iter(cases.values()))
        shown.append(
            {
                "id": case_id,
                "expected": (first.expected or "")[:_TEXT_SHOWN],
                "answers": [
                    {"provider": name, "right": case.correct, "text": (case.answer or case.error or "")[:_TEXT_SHOWN]}
                    for name, case in cases.items()
                ],
            }
        )
    return shown
