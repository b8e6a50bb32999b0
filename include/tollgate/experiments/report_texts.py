"""The words of an experiment's report page, each in Korean and in English."""

from __future__ import annotations

from tollgate.dataset import report_texts
from tollgate.dataset.report_texts import Words


def words(key: str) -> Words:
    """The words of a key: this page's own, else those that all pages share."""
    return TEXTS.get(key) or report_texts.words(key)


TEXTS = {
    name: Words(*both)
    for name, both in {
        "title": ("A/B 실험 보고서", "A/B test report"),
        "champion": ("A (운영 모델)", "A (champion)"),
        "challenger": ("B (후보 모델)", "B (challenger)"),
        "began": ("시작", "Began"),
        "ended": ("종료", "Ended"),
        "state": ("상태", "State"),
        "last_look": ("마지막 확인", "Last look"),
        "decision": ("결정", "Decision"),
        "continue": ("계속", "continue"),
        "promote": ("후보 승격", "promote"),
        "roll_back": ("되돌림", "roll back"),
        "hold": ("보류", "hold"),
        "warning": ("주의", "Warning"),
        "users": ("지표가 있는 사용자 A / B", "Users with the metric, A / B"),
        "means": ("평균 A / B", "Mean A / B"),
        "difference": ("차이 B − A", "Difference B − A"),
        "days": ("경과 일수", "Days"),
        "progress": ("계획한 표본 대비", "Of the planned users"),
        "effect": ("시간에 따른 차이", "Difference over time"),
        "effect_note": (
            "선은 B − A, 띠는 모든 시점에서 함께 성립하는 신뢰 수열입니다. 띠가 0을 벗어나야 차이가 "
            "확인된 것입니다. 가로축은 시작 후 일수이며, 초반의 넓은 띠는 잘려 있습니다.",
            "The line is B − A; the band is its confidence sequence, which holds at all times together. A difference "
            "is shown where the band leaves zero. Days since the start run from left to right; early, very wide bands "
            "are cut off.",
        ),
        "sequence": ("신뢰 수열", "Confidence sequence"),
        "tests": ("마지막 확인의 검정", "Tests at the last look"),
        "tests_note": (
            "p 값은 계획한 확인 시점에서만 경계와 비교합니다. 그 밖의 시점에 작은 p 값은 아무것도 뜻하지 않습니다.",
            "A p value is compared with a boundary at the planned looks only. Small ones at other times mean nothing.",
        ),
        "welch": ("Welch t 검정", "Welch's t"),
        "mann_whitney": ("Mann-Whitney U 검정", "Mann-Whitney's U"),
        "interval": ("신뢰구간 (한 번 볼 때)", "Confidence interval (for one look)"),
        "cohens_d": ("Cohen's d", "Cohen's d"),
        "hedges_g": ("Hedges' g", "Hedges' g"),
        "rank_biserial": ("순위 이연 상관", "Rank-biserial correlation"),
        "boundary": ("이번 확인의 경계", "Boundary of this look"),
        "adjusted": (
            "실험 전 지표로 설명되는 부분을 뺐습니다(CUPED). 남은 분산",
            "What the metric before the experiment explains was taken out (CUPED). Variance left",
        ),
        "distributions": ("사용자별 값의 분포", "Users' values"),
        "distributions_note": (
            "각 실험군 사용자의 백분율입니다. 사용자마다 한 번, 평균으로 셉니다.",
            "In per cent of each arm's users. A user counts once, with the mean.",
        ),
        "arm": ("실험군", "Arm"),
        "mean": ("평균", "Mean"),
        "middle": ("중앙값", "Median"),
        "deviation": ("표준편차", "Standard deviation"),
        "guardrails": ("보호 지표", "Guardrails"),
        "guardrails_note": (
            "손해는 B가 A보다 나쁜 정도입니다. '최소 손해'는 모든 시점에서 함께 성립하는 단측 하한이며, 허용 한도(점선)"
            "를 넘으면 바로 되돌립니다.",
            "Harm is what B is worse than A. “At least” is a one-sided bound that holds at all times together; beyond "
            "the tolerated harm (dashed) the challenger is rolled back at once.",
        ),
        "metric": ("지표", "Metric"),
        "harm": ("손해", "Harm"),
        "at_least": ("최소 손해", "At least"),
        "tolerated": ("허용 한도", "Tolerated"),
        "violated": ("위반", "violated"),
        "kept_to": ("이상 없음", "no harm shown"),
        "checks": ("믿을 수 있는 실험인가", "Can the figures be trusted?"),
        "sample_ratio": ("배분 비율: 관측 (기대)", "Arms' sizes: observed (expected)"),
        "response": ("평점을 남긴 사용자", "Users who gave a rating"),
        "crossed": ("두 실험군에 모두 나타난 사용자 (제외)", "Users seen in both arms (left out)"),
        "foreign": ("다른 모델의 답변에 대한 평점 (제외)", "Ratings of another model's answers (left out)"),
        "categories": ("분류별", "By category"),
        "categories_note": (
            "구간은 분류 수만큼 넓혔습니다(Bonferroni). 분류별 차이는 다음 실험의 단서이지 결정의 근거가 아닙니다.",
            "The intervals are widened for the number of categories (Bonferroni). A category's difference is a hint "
            "for the next experiment and decides nothing.",
        ),
        "category": ("분류", "Category"),
        "answers": ("같은 질문, 두 답변", "Same question, both answers"),
        "answers_note": (
            "평점 차이가 큰 순서입니다. 개인정보는 가렸습니다.",
            "The most differently rated first. Personal data is masked.",
        ),
        "rating": ("평점", "rating"),
        "looks": ("확인 기록", "Looks"),
        "time": ("시각", "Time"),
        "look": ("계획한 확인", "Planned look"),
        "plan": ("실험 계획", "The plan"),
        "footer": (
            "이 쪽은 외부 자료를 읽지 않습니다. 규칙과 수식: docs/experiments.md",
            "This page loads nothing from outside. Rules and formulas: docs/experiments.md",
        ),
    }.items()
}
