"""A model version's card: the ``README.md`` beside its weights, in English and Korean.

It says what the version is, what it learned from and how, what it is worth, and what the gate said. The same job gives
the same card, so that writing it again changes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tollgate import __version__
from tollgate.training.merging import ADAPTER, MERGED

CARD = "README.md"

Language = Literal["en", "ko"]

_SETTINGS: dict[str, tuple[str, str]] = {
    "method": ("Method", "방법"),
    "lora_rank": ("Rank of the adapter", "어댑터 랭크"),
    "lora_alpha": ("Scale of the adapter (alpha)", "어댑터 스케일(alpha)"),
    "lora_dropout": ("Dropout", "드롭아웃"),
    "learning_rate": ("Learning rate", "학습률"),
    "lr_scheduler": ("Schedule", "학습률 스케줄"),
    "batch_size": ("Rows per device and step", "장치·스텝당 행 수"),
    "gradient_accumulation": ("Steps added up", "기울기 누적 스텝"),
    "epochs": ("Epochs", "에폭"),
    "max_steps": ("Most steps", "최대 스텝"),
    "max_length": ("Longest row in tokens", "최대 길이(토큰)"),
    "precision": ("Precision", "정밀도"),
    "seed": ("Seed", "난수 시드"),
}
_WEIGHTS: dict[str, tuple[str, str]] = {
    "adapter": ("adapter, to be loaded over the base model", "어댑터(기반 모델 위에 로드)"),
    "full": ("all weights, which stand alone", "전체 가중치(단독 실행)"),
    "merged": (
        "adapter merged into the base model: full weights, which stand alone",
        "기반 모델에 병합된 어댑터: 전체 가중치(단독 실행)",
    ),
}
_RESULTS: dict[str, tuple[str, str]] = {
    "result/train_loss": ("Training loss, mean", "학습 손실(평균)"),
    "result/eval_loss": ("Validation loss", "검증 손실"),
    "evaluation/accuracy": ("Accuracy on the test part", "테스트 정확도"),
    "evaluation/low": ("Its 95 % interval, lower end", "95 % 신뢰구간 하한"),
    "evaluation/high": ("Its 95 % interval, upper end", "95 % 신뢰구간 상한"),
    "evaluation/cases": ("Test cases", "테스트 사례 수"),
    "evaluation/champion_accuracy": ("Accuracy of the version in production", "운영 중인 버전의 정확도"),
    "evaluation/base_accuracy": ("Accuracy of the base model", "기반 모델의 정확도"),
    "evaluation/valid_json_share": ("Answers that are valid JSON", "올바른 JSON 응답 비율"),
}
VERDICTS_KO = {"pass": "통과", "inconclusive": "판단 보류", "fail": "불합격"}
"""The verdicts in Korean."""
_WORDS: dict[str, tuple[str, str]] = {
    "base": ("Base model", "기반 모델"),
    "weights": ("Weights", "가중치"),
    "data": ("Learned from", "학습 데이터"),
    "rows": ("Rows (train, validation, test)", "행 수(학습, 검증, 테스트)"),
    "hash": ("Content hash of the data", "데이터 내용 해시"),
    "job": ("Job", "작업"),
    "by": ("Made by", "만든 사람"),
    "code": ("Tollgate", "Tollgate 버전"),
    "settings": ("How it was trained", "학습 설정"),
    "results": ("What it is worth", "성능"),
    "verdict": ("Verdict of the gate", "게이트 판정"),
    "none": ("There is none yet.", "아직 판정이 없습니다."),
    "limits": ("Limits", "한계"),
    "no_data": ("not recorded", "기록 없음"),
}
_LIMITS = (
    "The figures hold for texts like those of the test part. The weights are an adapter, or fine-tuned weights, of the "
    "base model: its licence and its weaknesses apply.",
    "위 수치는 테스트 데이터와 비슷한 글에만 유효합니다. 이 가중치는 기반 모델의 어댑터 또는 미세 조정된 가중치이므로 "
    "기반 모델의 라이선스와 약점이 그대로 적용됩니다.",
)


@dataclass(frozen=True)
class CardFacts:
    """What a card tells.

    Args:
        name: The version, for example ``highway-router@v3``.
        base_model: Name of the base model.
        job: Name of the job.
        created_by: Who had it made.
        parameters: The hyperparameters by the names of ``TrainingSpec``'s fields, and ``method``.
        metrics: Figures by the names they have in MLflow.
        dataset: The data set version as people write it.
        content_hash: Its content hash.
        rows: Rows of its parts: train, validation, test.
        verdict: ``pass``, ``inconclusive`` or ``fail``; None: there is none yet.
        reasons: The verdict's reasons in English.
        reasons_ko: The same in Korean; where they are missing the card has the English ones.
    """

    name: str
    base_model: str
    job: str
    created_by: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    dataset: str | None = None
    content_hash: str | None = None
    rows: tuple[int, int, int] | None = None
    verdict: str | None = None
    reasons: Sequence[str] = ()
    reasons_ko: Sequence[str] = ()


def render(facts: CardFacts) -> str:
    """The card as Markdown, with the head that Hugging Face's tools read."""
    weights = _weights(facts)
    tags = ["tollgate", str(facts.parameters.get("method", "")), *([MERGED] if weights == MERGED else [])]
    head = {"language": ["ko"], "library_name": "peft" if weights == ADAPTER else "transformers"}
    head |= {"base_model": facts.base_model, "tags": tags}
    lines = ["---", *(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in head.items()), "---", ""]
    lines += [f"# {facts.name}", "", "[English](#english) · [한국어](#한국어)", ""]
    lines += ["## English", "", *_section(facts, "en"), "## 한국어", "", *_section(facts, "ko")]
    return "\n".join(lines).rstrip() + "\n"


def write_card(folder: Path, facts: CardFacts) -> Path:
    """Write the card beside the weights, in place of the one that a training library left there."""
    path = folder / CARD
    partial = folder.parent / f".{folder.name}.{CARD}.{os.getpid()}"  # beside it: a check of its files sees whole ones
    partial.write_text(render(facts), encoding="utf-8")
    partial.replace(path)
    return path


def _section(facts: CardFacts, language: Language) -> list[str]:
    which = 0 if language == "en" else 1
    word = {name: texts[which] for name, texts in _WORDS.items()}
    rows = " / ".join(f"{number:,}" for number in facts.rows) if facts.rows else word["no_data"]
    about = {
        word["base"]: facts.base_model,
        word["weights"]: _WEIGHTS[_weights(facts)][which],
        word["data"]: facts.dataset or word["no_data"],
        word["rows"]: rows,
        word["hash"]: facts.content_hash or word["no_data"],
        word["job"]: facts.job,
        word["by"]: facts.created_by or word["no_data"],
        word["code"]: __version__,
    }
    settings = {texts[which]: facts.parameters[name] for name, texts in _SETTINGS.items() if _is_set(facts, name)}
    results = {texts[which]: facts.metrics[name] for name, texts in _RESULTS.items() if name in facts.metrics}
    return [
        *_table(about.items()),
        *(f"### {word['settings']}", "", *_table(settings.items())),
        *((f"### {word['results']}", "", *_table(results.items())) if results else ()),
        *(f"### {word['verdict']}", "", *_verdict(facts, language, word["none"])),
        *(f"### {word['limits']}", "", _LIMITS[which], ""),
    ]


def _weights(facts: CardFacts) -> str:
    """Which kind of weights the version is: a key of :data:`_WEIGHTS`."""
    if facts.parameters.get("method") == "full":
        return "full"
    return MERGED if facts.parameters.get("serve_adapter_as") == MERGED else ADAPTER


def _is_set(facts: CardFacts, name: str) -> bool:
    of_no_adapter = name.startswith("lora_") and facts.parameters.get("method") == "full"
    return facts.parameters.get(name) is not None and not of_no_adapter


def _verdict(facts: CardFacts, language: Language, none: str) -> list[str]:
    if facts.verdict is None:
        return [none, ""]
    korean = language == "ko"
    outcome = VERDICTS_KO.get(facts.verdict, facts.verdict) if korean else facts.verdict
    reasons = facts.reasons_ko or facts.reasons if korean else facts.reasons
    return [f"**{outcome}**", "", *(f"- {reason}" for reason in reasons), ""]


def _table(rows: Iterable[tuple[str, Any]]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in rows), ""]


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
