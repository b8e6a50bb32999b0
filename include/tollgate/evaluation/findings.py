"""The rules of a verdict: each looks at one thing and says what it found, in English and Korean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from scipy.stats import binomtest

from tollgate.evaluation.categories import CategoryFigures
from tollgate.evaluation.further import FurtherFigures
from tollgate.evaluation.paired import ChampionComparison
from tollgate.evaluation.required_cases import cases_for_margin, cases_for_threshold
from tollgate.evaluation.summary import percentile
from tollgate.evaluation.verdict_settings import Finding, Outcome, VerdictSettings

if TYPE_CHECKING:
    from tollgate.evaluation.scorers import ScoredCase


def wilson_lower_bound(correct: int, cases: int, confidence: float = 0.95) -> float:
    """One-sided lower bound of a share (Wilson 1927), in [0, 1]; 0 without cases."""
    if cases == 0:
        return 0.0
    interval = binomtest(correct, cases, alternative="greater").proportion_ci(confidence, method="wilson")
    return float(interval.low)


def accuracy_finding(correct: int, total: int, settings: VerdictSettings, power: float) -> Finding:
    """The accuracy must exceed the threshold; its lower bound must reach it."""
    accuracy, threshold = correct / total, settings.threshold
    counted = f"{accuracy:.4f} ({correct}/{total})"
    if accuracy <= threshold:
        return Finding(
            Outcome.FAIL,
            f"Accuracy {counted} is not above the required {threshold:.2f}.",
            f"정확도 {counted}가 기준 {threshold:.2f}을 넘지 못했습니다.",
        )
    bound = wilson_lower_bound(correct, total, settings.confidence)
    level = f"{settings.confidence:.0%}"
    if bound >= threshold:
        return Finding(
            Outcome.PASS,
            f"Accuracy {counted} is above {threshold:.2f}, and so is its lower {level} bound, {bound:.4f}.",
            f"정확도 {counted}와 그 {level} 하한 {bound:.4f}가 모두 기준 {threshold:.2f}을 충족합니다.",
        )
    needed = cases_for_threshold(accuracy, threshold, settings.confidence, power)
    return Finding(
        Outcome.INCONCLUSIVE,
        f"Accuracy {counted} is above {threshold:.2f}, but its lower {level} bound, {bound:.4f}, is not: "
        f"it may be luck. If this is the true accuracy, {needed} cases in all show it with probability {power:.0%}.",
        f"정확도 {counted}는 기준 {threshold:.2f}을 넘지만 {level} 하한 {bound:.4f}는 기준에 못 미쳐 "
        f"우연일 수 있습니다. 실제 정확도가 이와 같다면 모두 {needed}개의 사례로 {power:.0%} 확률로 확인됩니다.",
        needed,
    )


def form_findings(cases: Sequence[ScoredCase], settings: VerdictSettings) -> Iterable[Finding]:
    """Enough cases, few empty answers, quick ones."""
    total, empty = len(cases), sum(case.empty for case in cases)
    if total < settings.minimum_cases:
        yield Finding(
            Outcome.INCONCLUSIVE,
            f"{total} cases are too few to decide by; at least {settings.minimum_cases} are required.",
            f"사례가 {total}개뿐이라 판정할 수 없습니다. 최소 {settings.minimum_cases}개가 필요합니다.",
            settings.minimum_cases,
        )
    if empty > settings.empty_limit * total:
        yield Finding(
            Outcome.FAIL,
            f"{empty} of {total} answers are empty; the limit is {settings.empty_limit:.1%}.",
            f"답변 {total}개 중 {empty}개가 비어 있습니다. 허용 한도는 {settings.empty_limit:.1%}입니다.",
        )
    if settings.latency_limit_ms is not None:
        yield _latency_finding(cases, settings.latency_limit_ms)


def _latency_finding(cases: Sequence[ScoredCase], limit: float) -> Finding:
    found = percentile([case.latency_ms for case in cases if case.latency_ms is not None], 95)
    if found is None:
        return Finding(
            Outcome.INCONCLUSIVE,
            f"No latency was kept; the limit of {limit:,.0f} ms cannot be checked.",
            f"지연 시간이 기록되지 않아 한도 {limit:,.0f}ms를 확인할 수 없습니다.",
        )
    if found > limit:
        return Finding(
            Outcome.FAIL,
            f"The 95th percentile of the latency, {found:,.0f} ms, is above the limit of {limit:,.0f} ms.",
            f"지연 시간의 95백분위수 {found:,.0f}ms가 한도 {limit:,.0f}ms를 넘습니다.",
        )
    return Finding(
        Outcome.PASS,
        f"The 95th percentile of the latency, {found:,.0f} ms, is within the limit of {limit:,.0f} ms.",
        f"지연 시간의 95백분위수 {found:,.0f}ms가 한도 {limit:,.0f}ms 이내입니다.",
    )


def champion_finding(comparison: ChampionComparison, total: int, settings: VerdictSettings, power: float) -> Finding:
    """Not significantly worse than the champion, and surely not by more than the margin."""
    counted = (
        f"{comparison.difference:+.4f} (only the candidate right: {comparison.better}, "
        f"only the champion: {comparison.worse}, McNemar mid-p {comparison.p_value:.4f})"
    )
    counted_ko = (
        f"{comparison.difference:+.4f}(후보만 정답 {comparison.better}건, 운영 모델만 정답 {comparison.worse}건, "
        f"McNemar mid-p {comparison.p_value:.4f})"
    )
    if comparison.worse > comparison.better and comparison.p_value < settings.alpha:
        return Finding(
            Outcome.FAIL,
            f"The candidate is significantly worse than the champion: {counted}.",
            f"후보 모델이 운영 모델보다 유의하게 나쁩니다: {counted_ko}.",
        )
    bound = f"{comparison.difference_lower_bound:+.4f}"
    if comparison.difference_lower_bound >= -settings.margin:
        return Finding(
            Outcome.PASS,
            f"The candidate is not worse than the champion by more than {settings.margin:.2f}: {counted}; "
            f"lower bound {bound}.",
            f"후보 모델이 운영 모델보다 {settings.margin:.2f} 넘게 나쁘지 않습니다: {counted_ko}, 하한 {bound}.",
        )
    needed = _cases_for_margin(comparison, total, settings, power)
    more = f" At these rates {needed} cases in all rule it out with probability {power:.0%}." if needed else ""
    more_ko = f" 이 비율이라면 모두 {needed}개의 사례로 {power:.0%} 확률로 배제됩니다." if needed else ""
    return Finding(
        Outcome.INCONCLUSIVE,
        f"The cases do not rule out that the candidate is worse than the champion by more than "
        f"{settings.margin:.2f}: {counted}; lower bound {bound}.{more}",
        f"후보 모델이 운영 모델보다 {settings.margin:.2f} 넘게 나쁠 가능성을 배제할 수 없습니다: {counted_ko}, "
        f"하한 {bound}.{more_ko}",
        needed,
    )


def _cases_for_margin(
    comparison: ChampionComparison, total: int, settings: VerdictSettings, power: float
) -> int | None:
    if comparison.difference <= -settings.margin:
        return None
    return cases_for_margin(comparison.better, comparison.worse, total, settings.margin, settings.confidence, power)


def category_findings(figures: Sequence[CategoryFigures], settings: VerdictSettings) -> Iterable[Finding]:
    """No category significantly below the floor, or worse than the champion by more than its margin."""
    for one in figures:
        if one.below_floor_p is not None and one.below_floor_p <= settings.alpha:
            yield _floor_finding(one, settings)
        elif one.difference is not None:
            finding = _category_finding(one, settings)
            if finding is not None:
                yield finding
    if figures:
        yield _categories_kept(figures)


def _floor_finding(one: CategoryFigures, settings: VerdictSettings) -> Finding:
    counted = f"{one.correct / one.cases:.4f} ({one.correct}/{one.cases})"
    return Finding(
        Outcome.FAIL,
        f"In the category {one.category} the accuracy {counted} is significantly below {settings.category_floor:.2f} "
        f"(p {one.below_floor_p:.4f} by Holm).",
        f"'{one.category}' 분류의 정확도 {counted}가 하한 {settings.category_floor:.2f}보다 유의하게 낮습니다"
        f"(Holm 보정 p {one.below_floor_p:.4f}).",
    )


def _category_finding(one: CategoryFigures, settings: VerdictSettings) -> Finding | None:
    """Shown to be worse by more than the margin: fail. Shown to be worse, by how much unclear: a person decides."""
    assert one.difference is not None
    assert one.worse_p is not None
    assert one.beyond_margin_p is not None
    margin = f"{settings.category_margin:.2f}"
    counted = f"{one.difference:+.4f} (only the candidate right: {one.better}, only the champion: {one.worse}"
    counted_ko = f"{one.difference:+.4f}(후보만 정답 {one.better}건, 운영 모델만 정답 {one.worse}건"
    if one.beyond_margin_p <= settings.alpha:
        return Finding(
            Outcome.FAIL,
            f"In the category {one.category} the candidate is worse than the champion by more than {margin}: "
            f"{counted}, p {one.beyond_margin_p:.4f} by Holm).",
            f"'{one.category}' 분류에서 후보 모델이 운영 모델보다 {margin} 넘게 나쁩니다: "
            f"{counted_ko}, Holm 보정 p {one.beyond_margin_p:.4f}).",
        )
    if one.difference >= -settings.category_margin or one.worse_p > settings.alpha:
        return None
    return Finding(
        Outcome.INCONCLUSIVE,
        f"In the category {one.category} the candidate is significantly worse than the champion: {counted}, "
        f"p {one.worse_p:.4f} by Holm); that it is by more than {margin} is not shown.",
        f"'{one.category}' 분류에서 후보 모델이 운영 모델보다 유의하게 나쁩니다: {counted_ko}, "
        f"Holm 보정 p {one.worse_p:.4f}). 차이가 {margin}을 넘는지는 확인되지 않았습니다.",
    )


def _categories_kept(figures: Sequence[CategoryFigures]) -> Finding:
    worst = min(figures, key=lambda one: one.correct / one.cases)
    counted = f"{worst.category} {worst.correct / worst.cases:.4f} ({worst.correct}/{worst.cases})"
    return Finding(
        Outcome.PASS,
        f"No category is shown to be too weak; the lowest of the {len(figures)} judged is {counted}.",
        f"기준에 못 미치는 것으로 확인된 분류가 없습니다. 판정한 {len(figures)}개 중 가장 낮은 분류는 {counted}입니다.",
    )


def perplexity_findings(further: FurtherFigures, settings: VerdictSettings) -> Iterable[Finding]:
    """The right answers must not surprise the model too much."""
    ours, champion = further.perplexity, further.champion_perplexity
    limits = [("", settings.perplexity_limit, ours.value if ours else None)]
    if champion or settings.perplexity_ratio is not None:
        ratio = ours.value / champion.value if ours and champion else None
        limits.append((" as a multiple of the champion's", settings.perplexity_ratio, ratio))
    for suffix, limit, found in limits:
        if limit is None:
            continue
        korean = "운영 모델 대비 퍼플렉서티 배수" if suffix else "정답의 퍼플렉서티"
        if found is None:
            yield Finding(
                Outcome.INCONCLUSIVE,
                f"The perplexity{suffix} was not measured; the limit of {limit:g} cannot be checked.",
                f"{korean}가 측정되지 않아 한도 {limit:g}를 확인할 수 없습니다.",
            )
        else:
            above = found > limit
            yield Finding(
                Outcome.FAIL if above else Outcome.PASS,
                f"The perplexity{suffix}, {found:.3f}, is {'above' if above else 'within'} the limit of {limit:g}.",
                f"{korean} {found:.3f}가 한도 {limit:g}{'를 넘습니다' if above else ' 이내입니다'}.",
            )


def judge_finding(further: FurtherFigures, settings: VerdictSettings, judged: int, total: int) -> Finding:
    """Said where a pass would rest on an LLM judge that was not shown to agree with people."""
    agreement = further.judge
    if agreement is None:
        known, known_ko = "its agreement with people was not measured", "사람 평가와의 일치도가 측정되지 않았습니다"
    else:
        known = f"Cohen's kappa with people is {agreement.kappa:.2f} on {agreement.cases} pairs"
        known_ko = f"사람 평가와의 Cohen 카파가 {agreement.cases}쌍에서 {agreement.kappa:.2f}입니다"
    return Finding(
        Outcome.INCONCLUSIVE,
        f"{judged} of {total} cases were scored by an LLM judge, and without them the candidate does not pass; "
        f"{known}, and {settings.judge_kappa:.2f} on {settings.judge_labels} or more pairs is required.",
        f"사례 {total}개 중 {judged}개를 LLM 심사자가 채점했고, 이를 빼면 통과하지 못합니다. {known_ko}. "
        f"{settings.judge_labels}쌍 이상에서 {settings.judge_kappa:.2f} 이상이어야 합니다.",
    )
