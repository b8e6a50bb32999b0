import json
from collections import Counter

import pytest

from tollgate.dataset.layouts import RowError, to_example
from tollgate.demo.messages import labelled_messages
from tollgate.demo.raw_data import INVERTED_URGENCY, SWAPPED_INTENTS, WRONG_INTENTS, raw_lines, write_raw
from tollgate.demo.recipe import ROWS
from tollgate.demo.uniqueness import NearDuplicateIndex
from tollgate.gates import pii, quality, toxicity


@pytest.fixture(scope="module")
def full():
    return raw_lines(3)


def usable(lines):
    """What a reader makes of the lines: the examples, and how many lines are broken."""
    examples, broken = [], 0
    for line in lines:
        try:
            examples.append(to_example(json.loads(line)))
        except (ValueError, RowError):
            broken += 1
    return examples, broken


def answers(lines, split):
    examples, _ = usable(lines)
    return {
        example.messages[1].content: json.loads(example.messages[2].content)
        for example in examples
        if example.metadata.split == split
    }


def test_the_same_seed_writes_the_same_file(tmp_path, full):
    planted = write_raw(tmp_path / "in" / "raw.jsonl", 3)
    assert (tmp_path / "in" / "raw.jsonl").read_text(encoding="utf-8").splitlines() == full[0]
    assert (
        json.loads((tmp_path / "in" / "raw.planted.json").read_text()) == planted.model_dump() == full[1].model_dump()
    )
    assert raw_lines(4)[0] != full[0]


def test_broken_lines_are_as_many_as_planted(full):
    lines, planted = full
    examples, broken = usable(lines)
    assert broken == sum(planted.broken.values())
    assert len(examples) + broken == planted.lines == len(lines)


@pytest.mark.parametrize("candidate", ["full", "first", "swapped"])
def test_the_gates_find_exactly_what_was_planted(candidate):
    lines, planted = raw_lines(3, candidate)
    assert planted.exact_duplicates > 0
    assert min(planted.personal_data.values()) > 0
    examples, _ = usable(lines)
    masked = [pii.mask(example.messages[1].content) for example in examples]
    assert sum((Counter(one.counts) for one in masked), Counter()) == planted.personal_data
    clean, toxic, low = [], 0, 0
    for example, one in zip(examples, masked, strict=True):
        is_toxic = toxicity.score(one.text) >= 0.5
        is_low = quality.score([one.text], [example.messages[2].content])[0] < 0.7
        toxic, low = toxic + is_toxic, low + is_low
        clean += [] if is_toxic or is_low else [(one.text, example)]
    assert toxic == planted.toxic
    assert low == sum(planted.low_quality.values())
    index = NearDuplicateIndex(0.8, [text for text, _ in clean[::10]])
    distinct = [example for text, example in clean if index.add(text)]
    assert len(clean) - len(distinct) == planted.exact_duplicates + planted.near_duplicates
    assert len(distinct) == planted.kept
    held_out = Counter(example.metadata.split for example in distinct if example.metadata.split != "train")
    assert held_out == {"validation": planted.rows["validation"], "test": planted.rows["test"]}


def test_the_first_candidate_gets_a_part_of_the_training_rows_and_the_same_test(full):
    lines, planted = raw_lines(3, "first")
    assert planted.rows == {"train": ROWS["first"], "validation": 300, "test": 400}
    assert answers(lines, "test") == answers(full[0], "test")


def test_wrong_labels_are_wrong_in_every_part(full):
    right, (lines, _) = full[0], raw_lines(3, "wrong")
    for split in ("train", "validation", "test"):
        truth, labels = answers(right, split), answers(lines, split)
        # What was planted besides, such as insults, keeps its labels: the gates take it out.
        shared = {message.text for message in labelled_messages(3)[split]} & truth.keys() & labels.keys()
        for text in shared:
            intent = truth[text]["분류"]
            assert labels[text] == truth[text] | {"분류": WRONG_INTENTS.get(intent, intent)}
        assert {truth[text]["분류"] for text in shared} & WRONG_INTENTS.keys()


def test_swapped_labels_are_systematically_wrong_in_training_rows_only(full):
    right, (wrong, planted) = full[0], raw_lines(3, "swapped")
    for split in ("validation", "test"):
        assert answers(wrong, split) == answers(right, split)
    truth, labels = answers(right, "train"), answers(wrong, "train")
    lawful = {message.text for message in labelled_messages(3)["train"]} & truth.keys() & labels.keys()
    # Other rows of the part carry personal data than of the whole; both leave the text changed.
    assert len(lawful) >= planted.rows["train"] - 2 * sum(planted.personal_data.values())
    for text in lawful:
        intent = truth[text]["분류"]
        assert labels[text]["분류"] == SWAPPED_INTENTS.get(intent, intent)
        assert (labels[text]["긴급"] != truth[text]["긴급"]) == (intent in INVERTED_URGENCY)
        assert labels[text]["노선"] == truth[text]["노선"]
