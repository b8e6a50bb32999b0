"""Files that people really keep training data in, whole and damaged."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from unicodedata import normalize

import pytest

from tollgate.dataset import readers
from tollgate.dataset.layouts import FieldMapping
from tollgate.errors import BadInputError

DATA = Path(__file__).parents[4] / "shared" / "data"
CHATBOT = FieldMapping(question="Q", answer="A", category="label")
BOOLQ = FieldMapping(question=("Text", "Question"), answer="Answer")
COPA = FieldMapping(question=("sentence", "question"), answer="1")
HELLASWAG = FieldMapping(question="context", answer="choice1", category="label")
SENTINEG = FieldMapping(question="Text", answer="Label")
WIC = FieldMapping(question=("Target", "SENTENCE1", "SENTENCE2"), answer="ANSWER")
FILES = [
    ("easylaw/easylaw.json", None, 2195),
    ("songys-chatbot/ChatbotData.csv", CHATBOT, 11_823),
    ("kobest/BoolQ/train.tsv", BOOLQ, 3665),
    ("kobest/BoolQ/test.tsv", BOOLQ, 1404),
    ("kobest/COPA/train.tsv", COPA, 3076),
    ("kobest/HellaSwag/train.tsv", HELLASWAG, 2029),
    ("kobest/SentiNeg/train.tsv", SENTINEG, 3649),
    ("kobest/WiC/train.tsv", WIC, 3318),
]

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not DATA.is_dir(), reason="the data folder beside the project is not there"),
]


@pytest.mark.parametrize(("name", "mapping", "count"), FILES)
def test_every_row_is_read(name: str, mapping: FieldMapping | None, count: int) -> None:
    batches = list(readers.read_batches(DATA / name, mapping, batch_rows=1000))
    assert [problem for batch in batches for problem in batch.problems] == []
    assert sum(batch.rows.num_rows for batch in batches) == count


def test_what_is_read_is_what_stands_in_the_file() -> None:
    rows = [row for batch in readers.read_batches(DATA / "easylaw/easylaw.json") for row in batch.rows.to_pylist()]
    expected = json.loads((DATA / "easylaw/easylaw.json").read_text())
    assert [row["messages"][1]["content"] for row in rows] == [normalize("NFC", row["output"]) for row in expected]
    chats = [row for batch in readers.read_batches(DATA / FILES[1][0], CHATBOT) for row in batch.rows.to_pylist()]
    with (DATA / FILES[1][0]).open(newline="") as file:
        pairs = [(row["Q"], row["A"], row["label"].strip()) for row in csv.DictReader(file)]
    assert [(*(turn["content"] for turn in chat["messages"]), chat["category"]) for chat in chats] == pairs


def test_quotes_that_quote_no_field_stay() -> None:
    batches = readers.read_batches(DATA / "kobest/BoolQ/train.tsv", BOOLQ)
    questions = [row["messages"][0]["content"] for batch in batches for row in batch.rows.to_pylist()]
    assert sum(question.startswith('"') or '\n\n"' in question for question in questions) == 11


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("name", "mapping", "count"), FILES[:3])
def test_damaged_copies(tmp_path: Path, name: str, mapping: FieldMapping | None, count: int, seed: int) -> None:
    """Three damages: a torn piece, flipped bits, and a part written in another encoding. Most rows come through."""
    chance = random.Random(seed)
    data = bytearray((DATA / name).read_bytes())
    at = chance.randrange(1000, len(data) - 1000)
    del data[at : at + chance.randrange(1, 200)]
    for _ in range(3):
        data[chance.randrange(1000, len(data))] ^= 1 << chance.randrange(8)
    at = chance.randrange(1000, len(data) - 1000)
    data[at : at + 600] = bytes(data[at : at + 600]).decode(errors="ignore").encode("cp949", "ignore")
    path = tmp_path / Path(name).name
    path.write_bytes(data)
    kept = problems = 0
    try:
        for batch in readers.read_batches(path, mapping, batch_rows=100):
            kept += batch.rows.num_rows
            problems += len(batch.problems)
    except BadInputError as error:
        assert path.suffix == ".json", error
        return
    assert problems
    assert count - 60 <= kept + problems <= count + 60
    assert kept > count * 0.9
