"""A library that leaves rows out, writes them otherwise or learns from other text is refused before the first step."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tollgate.settings import PROJECT
from trainer.backends.rows import SAMPLES, sampled

CHECK = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
import pyarrow.parquet
from transformers import AutoTokenizer
from tollgate.errors import BadInputError
from tollgate.training.spec import TrainingSpec
from trainer.backends.rows import check_rows

base, dataset = map(Path, sys.argv[1:3])
tokenizer = AutoTokenizer.from_pretrained(base)

def tokenized(part):
    for messages in pyarrow.parquet.read_table(dataset / f"{part}.parquet")["messages"].to_pylist():
        row = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        tokens, learns = row["input_ids"], row["assistant_masks"]
        yield {"input_ids": tokens, "labels": [t if l else -100 for t, l in zip(tokens, learns)]}

def found(change, **fields):
    rows = {part: list(tokenized(part)) for part in ("train", "validation")}
    change(rows)
    trainer = SimpleNamespace(
        train_dataset=rows["train"], eval_dataset=rows["validation"], processing_class=tokenizer)
    values = {"job_name": "job", "base_model": base, "dataset": dataset, "dataset_reference": "a@v1", "output": "/job"}
    try:
        check_rows(TrainingSpec.model_validate(values | {"backend": "axolotl", "max_length": 128} | fields), trainer)
    except BadInputError as error:
        return str(error)
    return ""

def learn_everything(rows):
    rows["train"][0]["labels"] = rows["train"][0]["input_ids"]

def learn_no_end(rows):
    labels = rows["validation"][-1]["labels"]
    rows["validation"][-1]["labels"] = [-100 if t == tokenizer.eos_token_id else t for t in labels]

def learn_the_line_break(rows):
    for row in rows["train"]:
        row["labels"][-1] = row["input_ids"][-1]

def all_learned(rows):
    for part in rows.values():
        for row in part:
            row["labels"] = row["input_ids"]

def pack(rows):
    # As LLaMA-Factory packs: in another order, three rows a sequence, with padding behind.
    rows["train"].reverse()
    packed = []
    for first in range(0, len(rows["train"]), 3):
        group, bounds, joined = rows["train"][first:first + 3], [0], {"input_ids": [], "labels": []}
        for row in group:
            for name in joined:
                joined[name] += row[name]
            bounds.append(len(joined["input_ids"]))
        padding = {"input_ids": [tokenizer.pad_token_id] * 5, "labels": [-100] * 5}
        notes = {"sequence_boundaries": [*bounds, bounds[-1] + 5], "right_padding_length": 5}
        packed.append({**{name: joined[name] + padding[name] for name in joined}, "packing_params": notes})
    rows["train"] = packed

def packed_after(change):
    return lambda rows: (change(rows), pack(rows))

print("ANSWER", json.dumps({
    "as they are": found(lambda rows: None),
    "line break": found(learn_the_line_break),
    "left out": found(lambda rows: rows["train"].pop()),
    "other text": found(lambda rows: rows["train"][0].update(rows["train"][1])),
    "question learned": found(learn_everything),
    "end not learned": found(learn_no_end),
    "packed": found(pack),
    "packed and left out": found(packed_after(lambda rows: rows["train"].pop())),
    "packed other text": found(packed_after(lambda rows: rows["train"][0]["input_ids"].insert(3, 80))),
    "packed question learned": found(packed_after(learn_everything)),
    "cut": found(lambda rows: [row["input_ids"].pop(0) for row in rows["train"]], max_length=16),
    "everything, as asked": found(all_learned, assistant_only_loss=False),
    "everything asked, answers learned": found(lambda rows: None, assistant_only_loss=False),
}))
"""

NOT_OUR_TEMPLATE = "otherwise than the base model's chat template"
OTHER_LABELS = "learns from other text"


@pytest.fixture(scope="module")
def answers(ml_python: Path, base_model: Path, dataset: Path) -> dict[str, str]:
    paths = os.pathsep.join(str(PROJECT / name) for name in ("include", "containers"))
    done = subprocess.run(
        [str(ml_python), "-c", CHECK, str(base_model), str(dataset)],
        env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, str] = json.loads(done.stdout.partition("ANSWER ")[2])
    return found


@pytest.mark.parametrize("case", ["as they are", "line break", "packed", "cut", "everything, as asked"])
def test_rows_by_the_template_are_taken(answers: dict[str, str], case: str) -> None:
    assert answers[case] == ""


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("left out", "leaves out 1 of the 64 rows of the train part"),
        ("packed and left out", "leaves out 1 of the 64 rows of the train part"),
        ("packed other text", NOT_OUR_TEMPLATE),
        ("packed question learned", OTHER_LABELS),
        ("other text", NOT_OUR_TEMPLATE),
        ("question learned", OTHER_LABELS),
        ("end not learned", f"{OTHER_LABELS} than the assistant's turns with their ends (row validation:7)"),
        ("everything asked, answers learned", OTHER_LABELS),
    ],
)
def test_other_rows_are_refused_by_their_place(answers: dict[str, str], case: str, told: str) -> None:
    assert told in answers[case]


def test_a_sample_is_spread_over_all_rows() -> None:
    assert list(sampled(3)) == [0, 1, 2]
    assert list(sampled(SAMPLES)) == list(range(SAMPLES))
    spread = list(sampled(10_000))
    assert (len(set(spread)), spread[0], spread[-1]) == (SAMPLES, 0, 9_999)
