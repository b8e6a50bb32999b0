"""The words of an evaluation's report, each in Korean and in English."""

from __future__ import annotations

from tollgate.dataset.report_texts import Words


def words(key: str) -> Words:
    """The words of a key; a key without words stands for itself, made readable."""
    if key in TEXTS:
        return TEXTS[key]
    plain = key.replace("_", " ")
    return Words(plain, plain)


TEXTS = {
    name: Words(*both)
    for name, both in {
        "title": ("모델 평가 보고서", "Model evaluation"),
        "written": ("작성", "Written"),
        "suite": ("평가 묶음", "Suite"),
        "scorer": ("채점 방식", "Scorer"),
        "candidate": ("후보 모델", "Candidate"),
        "champion": ("운영 모델", "Champion"),
        "base": ("기본 모델", "Base model"),
        "accuracy": ("정확도", "Accuracy"),
        "interval": ("95 % 신뢰구간 (Wilson)", "95 % interval (Wilson)"),
        "cases": ("정답 / 전체 사례", "Right / all cases"),
        "correct_cases": ("정답 / 전체 사례", "Right / all cases"),
        "difference": ("운영 모델과의 차이", "Difference from the champion"),
        "latency_p95": ("지연 시간 95백분위수", "Latency, 95th percentile"),
        "verdict": ("판정", "Verdict"),
        "pass": ("통과", "pass"),
        "inconclusive": ("판정 보류", "inconclusive"),
        "fail": ("불합격", "fail"),
        "cases_needed": ("확인에 더 필요한 사례 수", "Further cases that would decide"),
        "figures": ("주요 수치", "Figures"),
        "figure": ("항목", "Figure"),
        "mean_value": ("평균 점수", "Mean score"),
        "valid_json": ("올바른 JSON 비율", "Valid JSON"),
        "empty_answers": ("빈 답변", "Empty answers"),
        "errors": ("서버가 거절한 사례", "Refused by the server"),
        "latency": ("지연 시간 p50 / p95 / p99 (ms)", "Latency p50 / p95 / p99 (ms)"),
        "categories": ("분류별 정확도", "Accuracy by category"),
        "categories_note": (
            "정확도가 낮은 순서. 막대는 정확도, 가는 선은 95 % 신뢰구간입니다.",
            "The weakest first. The bar is the accuracy, the thin line its 95 % interval.",
        ),
        "champion_note": (
            "세로 표시는 운영 모델의 정확도입니다. p: 후보가 더 나쁘지 않다는 가설의 McNemar mid-p (Holm 보정).",
            "The upright mark is the champion's accuracy. p: that the candidate is not worse (McNemar mid-p, Holm).",
        ),
        "category": ("분류", "Category"),
        "uncategorised": ("(분류 없음)", "(no category)"),
        "fields": ("JSON 필드별 정확도", "Accuracy by JSON field"),
        "further": ("그 밖의 측정", "Also measured"),
        "perplexity": ("정답의 퍼플렉서티 (토큰 수)", "Perplexity of the right answers (tokens)"),
        "champion_perplexity": ("운영 모델의 퍼플렉서티 (토큰 수)", "The champion's perplexity (tokens)"),
        "consistency": ("반복 질문의 형식 일관성", "Same form when asked again"),
        "judge_kappa": ("LLM 심사자와 사람의 Cohen 카파 (쌍)", "Cohen's kappa of judge and people (pairs)"),
        "judge_agreement": ("심사자와 사람의 일치율", "Judge and people agree"),
        "preferences": ("심사자: 후보 우세 / 동점 / 열세", "Judge: candidate better / tie / worse"),
        "disagreed": ("순서를 바꾸면 판단이 달라진 쌍 (동점 처리)", "Pairs judged otherwise in the other order (ties)"),
        "latency_chart": ("사례별 지연 시간 (ms)", "Milliseconds per case"),
        "latency_note": ("마지막 막대는 그 이상을 포함합니다.", "The last bar holds all beyond."),
        "losses": ("학습 및 검증 손실", "Training and validation loss"),
        "worst": ("대표 오답", "Worst cases"),
        "worst_note": (
            "거절, 빈 답변, 형식 오류, 운영 모델은 맞힌 사례, 점수가 낮은 사례 순서입니다. 전체 목록: cases.jsonl",
            "Refused, empty, without the form, lost to the champion, then the lowest scores. All of them: cases.jsonl",
        ),
        "no_worst": ("틀린 사례가 없습니다.", "No case is wrong."),
        "shown_of": ("표시", "shown"),
        "question": ("질문", "Question"),
        "expected": ("정답", "Right answer"),
        "answer": ("답변", "Answer"),
        "nothing": ("(답변 없음)", "(no answer)"),
        "not_kept": ("(기록되지 않음)", "(not kept)"),
        "refused": ("서버 거절", "refused"),
        "empty": ("빈 답변", "empty"),
        "invalid": ("JSON 아님", "no JSON"),
        "cut": ("길이 제한으로 잘림", "cut off"),
        "wrong_fields": ("틀린 필드", "Wrong fields"),
        "score": ("점수", "score"),
        "side_by_side": ("후보와 운영 모델의 답변 비교", "Candidate and champion side by side"),
        "lost": ("운영 모델만 맞힌 사례", "Only the champion is right"),
        "gained": ("후보 모델만 맞힌 사례", "Only the candidate is right"),
        "both_wrong": ("둘 다 틀린 사례", "Both are wrong"),
        "user": ("사용자", "User"),
        "assistant": ("상담사", "Assistant"),
        "footer": (
            "이 쪽은 외부 자료를 읽지 않습니다. 같은 내용의 JSON: report.json",
            "This page loads nothing from outside. The same as JSON: report.json",
        ),
    }.items()
}
