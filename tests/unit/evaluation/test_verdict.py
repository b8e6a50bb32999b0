from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from tollgate.errors import BadInputError
from tollgate.evaluation.categories import holm
from tollgate.evaluation.findings import accuracy_finding
from tollgate.evaluation.further import FurtherFigures
from tollgate.evaluation.llm_judge import Agreement
from tollgate.evaluation.paired import difference_lower_bound, mcnemar_worse_p
from tollgate.evaluation.perplexity import Perplexity
from tollgate.evaluation.scorers import ScoredCase
from tollgate.evaluation.verdict import (
    Outcome,
    Verdict,
    VerdictSettings,
    judge,
    wilson_lower_bound,
)


def cases(correct: int, total: int, *, empty: int = 0) -> list[ScoredCase]:
    """The first ``correct`` of ``total`` cases are right, the last ``empty`` have no answer."""
    return [ScoredCase(id=str(i), correct=i < correct, answer="" if i >= total - empty else "답") for i in range(total)]


def paired(both: int, better: int, worse: int, neither: int) -> tuple[list[ScoredCase], list[ScoredCase]]:
    """Candidate and champion with these counts of agreement."""
    right = [(True, True)] * both + [(True, False)] * better + [(False, True)] * worse + [(False, False)] * neither
    return (
        [ScoredCase(id=str(i), correct=candidate, answer="답") for i, (candidate, _) in enumerate(right)],
        [ScoredCase(id=str(i), correct=champion, answer="답") for i, (_, champion) in reversed([*enumerate(right)])],
    )


@pytest.mark.parametrize(
    ("correct", "total", "bound", "outcome", "more"),
    [
        (176, 200, 0.8370, Outcome.FAIL, None),
        (180, 200, 0.8596, Outcome.FAIL, None),
        (181, 200, 0.8653, Outcome.INCONCLUSIVE, 21884),
        (184, 200, 0.8826, Outcome.INCONCLUSIVE, 1141),
        (186, 200, 0.8942, Outcome.INCONCLUSIVE, 379),
        (187, 200, 0.9001, Outcome.PASS, None),
        (200, 200, 0.9867, Outcome.PASS, None),
        (368, 400, 0.8948, Outcome.INCONCLUSIVE, 941),
        (0, 200, 0.0, Outcome.FAIL, None),
        (99, 99, 0.9734, Outcome.INCONCLUSIVE, 1),
    ],
)
def test_accuracy_and_its_bound(correct: int, total: int, bound: float, outcome: Outcome, more: int | None) -> None:
    verdict = judge(cases(correct, total))
    assert verdict.lower_bound == pytest.approx(bound, abs=6e-5)
    assert (verdict.outcome, verdict.cases_needed) == (outcome, more)
    assert verdict.accuracy == correct / total
    assert len(verdict.reasons) == len(verdict.reasons_ko) > 0


def test_the_bound_is_the_formula_of_wilson() -> None:
    for correct, total in [(0, 5), (3, 7), (187, 200), (1999, 2000)]:
        p, n, z = correct / total, total, 1.6448536269514722
        formula = (p + z**2 / (2 * n) - z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))) / (1 + z**2 / n)
        assert wilson_lower_bound(correct, total) == pytest.approx(max(0.0, formula), abs=1e-12)
    assert wilson_lower_bound(0, 0) == 0


@pytest.mark.parametrize(
    ("both", "better", "worse", "neither", "outcome", "reason"),
    [
        (380, 10, 2, 8, Outcome.PASS, "not worse than the champion by more than 0.02"),
        (385, 0, 0, 15, Outcome.PASS, "mid-p 1.0000"),
        (376, 2, 14, 8, Outcome.FAIL, "significantly worse"),
        (375, 5, 8, 12, Outcome.INCONCLUSIVE, "do not rule out"),
        (376, 2, 8, 14, Outcome.INCONCLUSIVE, "do not rule out"),
        (350, 8, 2, 40, Outcome.FAIL, "not above the required"),
    ],
)
def test_the_champion_on_the_same_cases(
    both: int, better: int, worse: int, neither: int, outcome: Outcome, reason: str
) -> None:
    verdict = judge(*paired(both, better, worse, neither))
    assert verdict.outcome is outcome
    assert reason in " ".join(verdict.reasons)
    assert verdict.champion is not None
    assert (verdict.champion.better, verdict.champion.worse) == (better, worse)
    assert verdict.champion.accuracy == pytest.approx((both + worse) / (both + better + worse + neither))


def test_a_better_candidate_below_the_threshold_fails_and_the_gravest_reason_stands_first() -> None:
    verdict = judge(cases(50, 99, empty=30))
    assert verdict.outcome is Outcome.FAIL
    assert "not above" in verdict.reasons[0]
    assert "empty" in verdict.reasons[1]
    assert "too few" in verdict.reasons[2]
    assert verdict.cases_needed is None


def test_empty_answers_fail_a_candidate_that_is_accurate_enough() -> None:
    assert judge(cases(295, 300, empty=3)).outcome is Outcome.PASS
    verdict = judge(cases(295, 300, empty=4))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.empty_answers == 4
    assert "4 of 300 answers are empty" in verdict.reasons[0]
    assert "비어" in verdict.reasons_ko[0]


def test_the_settings_move_the_gate() -> None:
    settings = VerdictSettings(threshold=0.80, minimum_cases=10)
    assert judge(cases(28, 30), settings=settings).outcome is Outcome.PASS
    assert judge(cases(24, 30), settings=settings).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("candidate", "champion", "message"),
    [
        ([], None, "no cases"),
        (cases(1, 2) + cases(1, 1), None, "candidate, id: found '0'"),
        (cases(9, 10), cases(9, 11), r"0 cases of the candidate missing, 1 others \(such as 10\)"),
        (cases(9, 10), [], "10 cases of the candidate missing"),
    ],
)
def test_cases_that_cannot_be_compared_are_refused(
    candidate: list[ScoredCase], champion: list[ScoredCase] | None, message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        judge(candidate, champion)


def test_a_verdict_survives_json() -> None:
    verdict = judge(*paired(375, 5, 8, 12))
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


@cache
def outcome_of(correct: int, total: int) -> Outcome:
    return judge(cases(correct, total)).outcome


def edge_of(total: int) -> int:
    """The smallest count of right answers that passes the verdict."""
    edge = next(n for n in range(round(0.90 * total), total + 1) if wilson_lower_bound(n, total) >= 0.90)
    assert (outcome_of(edge - 1, total), outcome_of(edge, total)) == (Outcome.INCONCLUSIVE, Outcome.PASS)
    return edge


def pass_rate(accuracy: float, total: int) -> float:
    """The probability that a model of that true accuracy passes the verdict."""
    return float(binom.sf(edge_of(total) - 1, total, accuracy))


def test_wrong_passes_are_rare() -> None:
    """A model of true accuracy 0.88 passes at most once in a hundred times; the point gate lets 23 % through."""
    counts = np.random.default_rng(20).binomial(200, 0.88, size=20_000)
    passed = {count: outcome_of(count, 200) is Outcome.PASS for count in np.unique(counts).tolist()}
    assert np.mean([passed[count] for count in counts.tolist()]) <= 0.01
    assert pass_rate(0.88, 200) <= 0.01
    assert np.mean(counts / 200 >= 0.90) == pytest.approx(0.23, abs=0.015)


@pytest.mark.parametrize("total", [200, 400, 1000])
def test_a_model_at_the_threshold_passes_as_rarely_as_the_confidence_says(total: int) -> None:
    assert pass_rate(0.90, total) <= 0.06  # the score bound is a little liberal near 1: 0.056 at 200
    assert binom.sf(round(0.90 * total) - 1, total, 0.90) > 0.5, "the point gate"


@pytest.mark.parametrize(("correct", "total"), [(186, 200), (368, 400), (95, 102)])
def test_with_the_cases_said_to_be_needed_a_good_model_passes_with_the_stated_power(correct: int, total: int) -> None:
    verdict = judge(cases(correct, total))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.cases_needed is not None
    assert pass_rate(correct / total, total + verdict.cases_needed) >= 0.8
    assert pass_rate(correct / total, total + verdict.cases_needed // 2) < 0.8


def test_beside_a_champion_the_power_holds_for_both_bounds_together() -> None:
    verdict = judge(*paired(366, 3, 4, 27))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.cases_needed is not None
    total = 400 + verdict.cases_needed
    tables = np.random.default_rng(22).multinomial(total, np.array([366, 3, 4, 27]) / 400, size=400)
    passed = [
        wilson_lower_bound(both + better, total) >= 0.90 and difference_lower_bound(better, worse, total) >= -0.02
        for both, better, worse, _ in tables.tolist()
    ]
    assert np.mean(passed) >= 0.8 - 0.04  # two standard errors


def test_asking_once_more_for_the_cases_needed_lets_few_bad_models_through() -> None:
    """Looking twice passes more: of models of true accuracy 0.88 still at most one in a hundred."""
    random = np.random.default_rng(23)
    passed = 0
    for correct, times in zip(*np.unique(random.binomial(200, 0.88, size=20_000), return_counts=True), strict=True):
        first = accuracy_finding(int(correct), 200, VerdictSettings(), 0.8)
        passed += int(times) * (first.outcome is Outcome.PASS)
        if first.outcome is Outcome.INCONCLUSIVE and first.cases_in_all:
            total = first.cases_in_all
            further = random.binomial(total - 200, 0.88, size=int(times))
            edge = next(n for n in range(round(0.9 * total), total + 1) if wilson_lower_bound(n, total) >= 0.90)
            passed += int(np.sum(correct + further >= edge))
    assert passed / 20_000 <= 0.01


def test_a_worse_candidate_passes_against_its_champion_as_rarely_as_the_level_says() -> None:
    """True accuracies 0.96 (champion) and 0.94: exactly the margin below, so about 5 % pass at most."""
    random = np.random.default_rng(21)
    tables = random.multinomial(400, [0.925, 0.015, 0.035, 0.025], size=300)
    passed = sum(judge(*paired(*map(int, table))).outcome is Outcome.PASS for table in tables)
    assert passed / 300 <= 0.08  # 0.05 and two standard errors


def in_categories(
    *tables: tuple[str, int, int, int, int],
) -> tuple[list[ScoredCase], list[ScoredCase]]:
    """Candidate and champion with these counts (both, better, worse, neither) in each category."""
    found: tuple[list[ScoredCase], list[ScoredCase]] = ([], [])
    for name, *counts in tables:
        for side, several in zip(found, paired(*counts), strict=True):
            side += [case.model_copy(update={"id": f"{name}-{case.id}", "category": name}) for case in several]
    return found


def test_a_category_that_collapsed_is_found_behind_a_good_overall_figure() -> None:
    good = [(f"분류{number}", 48, 2, 0, 0) for number in range(9)]
    verdict = judge(*in_categories(*good, ("환불", 22, 0, 15, 3)))
    assert verdict.accuracy > 0.9
    assert verdict.champion is not None
    assert verdict.champion.difference > 0
    assert verdict.outcome is Outcome.FAIL
    assert "In the category 환불 the candidate is worse than the champion by more than 0.10" in verdict.reasons[0]
    assert "'환불' 분류에서" in verdict.reasons_ko[0]


def test_a_category_that_is_worse_by_an_unclear_amount_goes_to_a_person() -> None:
    good = [(f"분류{number}", 97, 3, 0, 0) for number in range(3)]
    verdict = judge(*in_categories(*good, ("환불", 33, 0, 7, 0)))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "significantly worse" in verdict.reasons[0]
    assert verdict.cases_needed is None, "more of the same would make it fail"


def test_without_a_champion_no_category_may_lie_far_below_the_others() -> None:
    good, _ = in_categories(*[(f"분류{number}", 49, 0, 0, 1) for number in range(10)])
    bad, _ = in_categories(("환불", 6, 0, 0, 24))
    verdict = judge(good + bad)
    assert verdict.accuracy > 0.9
    assert verdict.outcome is Outcome.FAIL
    assert "below 0.50" in verdict.reasons[0]
    assert judge(good + bad, settings=VerdictSettings(category_floor=None)).outcome is Outcome.PASS


def test_categories_alarm_falsely_as_rarely_as_the_level_says() -> None:
    """Twelve categories, the candidate as good as the champion in each: luck in one of them must not stop it."""
    p_value = cache(mcnemar_worse_p)
    tables = np.random.default_rng(24).multinomial(40, [0.03, 0.03, 0.94], size=(1000, 12))
    alarms = [min(holm([p_value(better, worse) for better, worse, _ in table])) <= 0.05 for table in tables.tolist()]
    assert np.mean(alarms) <= 0.05


def test_a_loss_in_one_of_many_categories_seldom_goes_unseen() -> None:
    """One of twelve categories of 40 cases has lost 0.30; a person or a refusal stops it four times in five."""
    p_value = cache(mcnemar_worse_p)
    random = np.random.default_rng(25)
    good = random.multinomial(40, [0.03, 0.03, 0.94], size=(500, 11))
    lost = random.multinomial(40, [0.03, 0.33, 0.64], size=(500, 1))
    tables = np.concatenate([lost, good], axis=1).tolist()
    found = [holm([p_value(better, worse) for better, worse, _ in table])[0] <= 0.05 for table in tables]
    assert np.mean(found) >= 0.8


def test_holm_steps_down() -> None:
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") = 0.03 0.06 0.06 0.02
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_latency_limit() -> None:
    quick = [case.model_copy(update={"latency_ms": 100.0}) for case in cases(295, 300)]
    limit = VerdictSettings(latency_limit_ms=200)
    assert judge(quick, settings=limit).outcome is Outcome.PASS
    slow = [case.model_copy(update={"latency_ms": 900.0}) if n < 16 else case for n, case in enumerate(quick)]
    assert judge(slow, settings=limit).outcome is Outcome.FAIL
    assert judge(slow[15:], settings=limit).outcome is Outcome.PASS, "the 95th percentile, not the slowest"
    assert judge(cases(295, 300), settings=limit).outcome is Outcome.INCONCLUSIVE


def measured(value: float) -> Perplexity:
    return Perplexity(value=value, tokens=100, cases=10, refused=0)


def test_perplexity_counts_where_a_limit_is_set() -> None:
    good = cases(295, 300)
    surprised = FurtherFigures(perplexity=measured(6.0), champion_perplexity=measured(4.0))
    assert judge(good, further=surprised).outcome is Outcome.PASS
    assert judge(good, settings=VerdictSettings(perplexity_limit=5), further=surprised).outcome is Outcome.FAIL
    assert judge(good, settings=VerdictSettings(perplexity_ratio=1.6), further=surprised).outcome is Outcome.PASS
    assert judge(good, settings=VerdictSettings(perplexity_ratio=1.4), further=surprised).outcome is Outcome.FAIL
    assert judge(good, settings=VerdictSettings(perplexity_limit=5)).outcome is Outcome.INCONCLUSIVE


def test_an_llm_judge_alone_decides_only_where_it_agrees_with_people() -> None:
    judged = [case.model_copy(update={"scorer": "judge"}) for case in cases(295, 300)]
    verdict = judge(judged)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "300 of 300 cases were scored by an LLM judge" in verdict.reasons[0]
    for kappa, pairs, outcome in [(0.7, 60, "pass"), (0.7, 20, "inconclusive"), (0.5, 60, "inconclusive")]:
        agreement = Agreement(kappa=kappa, low=0.4, agreement=0.8, cases=pairs)
        assert judge(judged, further=FurtherFigures(judge=agreement)).outcome == outcome
    others = [case.model_copy(update={"id": f"o{case.id}"}) for case in cases(295, 300)]
    assert judge(judged + others).outcome is Outcome.PASS, "the other cases carry the verdict"
    assert judge([case.model_copy(update={"correct": False}) for case in judged]).outcome is Outcome.FAIL
