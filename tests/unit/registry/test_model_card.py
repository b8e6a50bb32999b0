"""The card of a model version."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tollgate.errors import ServiceUnavailableError
from tollgate.evaluation.verdict import Outcome, Verdict
from tollgate.registry import registration
from tollgate.registry.model_card import CardFacts, render, write_card

FACTS = CardFacts(
    name="router@v3",
    base_model="Qwen3-8B",
    job="router-1f3a",
    created_by="kim",
    parameters={"method": "lora", "lora_rank": 16, "learning_rate": 2e-4, "max_steps": None, "logging_steps": 10},
    metrics={"evaluation/accuracy": 0.97125, "evaluation/cases": 400.0, "result/eval_loss": 0.4, "loss": 9.0},
    dataset="calls@v3",
    content_hash="ab" * 32,
    rows=(4000, 300, 400),
    verdict="pass",
    reasons=["Accuracy 0.97 is above 0.90."],
    reasons_ko=["정확도 0.97이 0.90보다 높습니다."],
)


def parts(facts: CardFacts) -> tuple[str, str]:
    """The English part and the Korean one."""
    english, _, korean = render(facts).partition("## 한국어\n")
    return english, korean


def test_both_languages_tell_all_of_it() -> None:
    english, korean = parts(FACTS)
    for text in (
        "Qwen3-8B",
        "calls@v3",
        "ab" * 32,
        "4,000 / 300 / 400",
        "router-1f3a",
        "kim",
        "0.0002",
        "0.97125",
        "| 400 |",
    ):
        assert text in english
        assert text in korean
    assert "**pass**\n\n- Accuracy 0.97 is above 0.90." in english
    assert "**통과**\n\n- 정확도 0.97이 0.90보다 높습니다." in korean
    assert "Accuracy on the test part" in english
    assert "테스트 정확도" in korean


def test_what_is_not_set_is_left_out() -> None:
    assert "Most steps" not in render(FACTS)
    full = CardFacts(name="a@v1", base_model="b", job="j", parameters={"method": "full", "lora_rank": 16})
    assert "Rank of the adapter" not in render(full)
    assert 'library_name: "transformers"' in render(full)
    assert "There is none yet." in render(full)
    assert "What it is worth" not in render(full)


def test_a_merged_adapter_is_told_with_its_method_and_rank() -> None:
    merged = replace(FACTS, parameters={**FACTS.parameters, "method": "qlora", "serve_adapter_as": "merged"})
    english, korean = parts(merged)
    assert "| Weights | adapter merged into the base model: full weights, which stand alone |" in english
    assert "| 가중치 | 기반 모델에 병합된 어댑터: 전체 가중치(단독 실행) |" in korean
    assert "| Method | qlora |\n| Rank of the adapter | 16 |" in english
    assert 'library_name: "transformers"' in english
    assert 'tags: ["tollgate", "qlora", "merged"]' in english
    assert "| Weights | adapter, to be loaded over the base model |" in parts(FACTS)[0]


def test_the_head_is_what_hugging_face_reads() -> None:
    _, head, _ = render(FACTS).split("---\n", 2)
    values = dict(line.split(": ", 1) for line in head.splitlines())
    assert {name: json.loads(value) for name, value in values.items()} == {
        "language": ["ko"],
        "library_name": "peft",
        "base_model": "Qwen3-8B",
        "tags": ["tollgate", "lora"],
    }


def test_a_value_cannot_break_the_table() -> None:
    facts = CardFacts(name="a@v1", base_model="x|y\nz", job="j")
    assert "| x\\|y z |" in render(facts)


def test_a_card_replaces_the_one_of_a_library(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("made by peft")
    write_card(tmp_path, FACTS)
    write_card(tmp_path, FACTS)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("README.md", render(FACTS))]


@pytest.mark.usefixtures("mlflow_down")
def test_registration_writes_the_card_with_the_gate_s_words(finished_job: Callable[[str], str], tmp_path: Path) -> None:
    job = finished_job("job-1")
    evaluation = tmp_path / job / "evaluation"
    evaluation.mkdir()
    said = Verdict(
        outcome=Outcome.FAIL,
        reasons=["0.41 < 0.90"],
        reasons_ko=["정확도가 낮습니다."],
        cases=100,
        correct=41,
        accuracy=0.41,
        lower_bound=0.33,
        threshold=0.9,
        empty_answers=0,
    )
    (evaluation / "verdict.json").write_text(said.model_dump_json())
    with pytest.raises(ServiceUnavailableError):
        registration.register_job(job, "router", "kim", "fail", ["0.41 < 0.90"], evaluation)
    card = (tmp_path / job / "adapter" / "README.md").read_text()
    assert "# router@v1" in card
    english, _, korean = card.partition("## 한국어")
    assert "**fail**\n\n- 0.41 < 0.90" in english
    assert "**불합격**\n\n- 정확도가 낮습니다." in korean
