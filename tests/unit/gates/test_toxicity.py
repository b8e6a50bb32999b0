"""Insults are found, also disguised; the words of highways and law that look like them are not."""

from __future__ import annotations

import pytest

from tollgate.gates import toxicity


@pytest.mark.parametrize(
    "text",
    [
        "이 씨발 놈들아",
        "시 발 환불 안 해줘?",
        "씨1발 진짜",
        "ㅅㅂ 왜 안 돼",
        "병신 같은 직원",
        "개 새 끼들",
        "미친놈들이네",
        "닥쳐라",
        "ㅄ아",
        "죽여버린다",
    ],
)
def test_toxic_texts(text: str) -> None:
    assert toxicity.score(text) >= 0.5


@pytest.mark.parametrize(
    "text",
    [
        "카드를 다시 발급해 주세요",
        "혹시 발생하면 시발역에서 즉시 발송",
        "단말기 전원이 꺼져 버려요. 불이 꺼져 있어요",
        "사고에 영향을 미친 운전자와 미친 듯이 달리는 차",
        "고라니 새끼가 죽어 있어요. 저 새끼 고라니를 치워 주세요",
        "휴게소에 쓰레기 같은 것이 쌓여 있고 음식이 쓰레기통에",
        "5개년 계획, 병신년, 등신대, 새끼손가락",
    ],
)
def test_clean_texts(text: str) -> None:
    assert toxicity.score(text) == 0


def test_the_worst_turn_counts() -> None:
    assert toxicity.worst(["안녕하세요", "이 병신아"]) == toxicity.score("이 병신아")
    assert toxicity.worst([]) == 0
