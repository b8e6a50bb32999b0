from __future__ import annotations

import numpy as np
import pytest

from tollgate.errors import BadInputError
from tollgate.evaluation.scorers import ScoredCase
from tollgate.evaluation.verdict import (
    Outcome,
    Verdict,
    VerdictSettings,
    cases_for_threshold,
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
        (181, 200, 0.8653, Outcome.INCONCLUSIVE, 9740 - 200),
        (184, 200, 0.8826, Outcome.INCONCLUSIVE, 609 - 200),
        (186, 200, 0.8942, Outcome.INCONCLUSIVE, 271 - 200),
        (187, 200, 0.9001, Outcome.PASS, None),
        (200, 200, 0.9867, Outcome.PASS, None),
        (368, 400, 0.8948, Outcome.INCONCLUSIVE, 609 - 400),
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


@pytest.mark.parametrize("accuracy", [0.91, 0.92, 0.95, 0.99])
def test_the_cases_said_to_be_needed_are_enough_and_hardly_too_many(accuracy: float) -> None:
    needed = cases_for_threshold(accuracy, 0.90)
    assert needed is not None
    assert wilson_lower_bound(np.ceil(accuracy * needed).astype(int), needed) >= 0.90
    assert wilson_lower_bound(np.floor(accuracy * (needed - 2)).astype(int), needed - 2) < 0.90


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


def test_wrong_passes_are_rare() -> None:
    """A model of true accuracy 0.88 passes at most once in a hundred times; the point gate alone lets 16 % through."""
    random = np.random.default_rng(20)
    counts = random.binomial(200, 0.88, size=20_000)
    outcomes = {correct: judge(cases(correct, 200)).outcome for correct in np.unique(counts)}
    judged = [outcomes[correct] for correct in counts]
    assert judged.count(Outcome.PASS) / len(judged) <= 0.01
    assert np.mean(counts / 200 > 0.90) > 0.14


def test_a_worse_candidate_passes_against_its_champion_as_rarely_as_the_level_says() -> None:
    """True accuracies 0.96 (champion) and 0.94: exactly the margin below, so about 5 % pass at most."""
    random = np.random.default_rng(21)
    tables = random.multinomial(400, [0.925, 0.015, 0.035, 0.025], size=300)
    passed = sum(judge(*paired(*map(int, table))).outcome is Outcome.PASS for table in tables)
    assert passed / 300 <= 0.08  # 0.05 and two standard errors
