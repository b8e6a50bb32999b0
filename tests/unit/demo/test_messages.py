import json
from collections import Counter
from dataclasses import replace

import pytest

from tollgate.demo.grammar import USES, PhraseOverlapError, load_grammar
from tollgate.demo.messages import NEAR_DUPLICATE, SIZES, ab_messages, check_unseen, labelled_messages
from tollgate.demo.uniqueness import NearDuplicateIndex
from tollgate.evaluation.scorers import find_scorer


@pytest.fixture(scope="module")
def messages():
    return labelled_messages(7)


def test_a_seed_gives_the_same_messages_and_another_gives_others(messages):
    assert labelled_messages(7) == messages
    assert ab_messages(7) == messages["ab"]
    other = {message.text for message in labelled_messages(8)["train"]}
    assert len(other & {message.text for message in messages["train"]}) < 100


def test_sizes_and_balance(messages):
    for use in USES:
        counts = Counter(message.label.intent for message in messages[use])
        assert len(messages[use]) == SIZES[use]
        assert len(counts) == 12
        assert max(counts.values()) - min(counts.values()) <= SIZES[use] // 50
        urgent = sum(message.label.urgent for message in messages[use]) / SIZES[use]
        assert 0.1 < urgent < 0.4


def test_answers_are_strict_json_with_values_that_the_message_names(messages):
    places = load_grammar().places
    routes = {f"{route}고속도로" for route in places.routes}
    for message in messages["train"] + messages["test"]:
        answer = json.loads(message.label.to_json())
        assert list(answer) == ["분류", "노선", "방향", "긴급"]
        assert answer["노선"] is None or (answer["노선"] in routes and answer["노선"][:-4] in message.text)
        assert answer["방향"] is None or (answer["방향"] in places.directions and answer["방향"] in message.text)
        assert isinstance(answer["긴급"], bool)
        assert "{" not in message.text
        assert "[" not in message.text
        assert "(" not in message.text


def test_the_answer_scores_as_right_and_a_changed_one_does_not(messages):
    score = find_scorer("json_exact")
    label = messages["test"][0].label
    assert score(label.to_json(), label.to_json()).correct
    assert not score(replace(label, urgent=not label.urgent).to_json(), label.to_json()).correct


def test_no_near_duplicates_within_or_across_uses(messages):
    texts = [message.text for use in USES for message in messages[use]]
    index = NearDuplicateIndex(NEAR_DUPLICATE, texts[::10])
    assert all(index.add(text) for text in texts)


def test_a_held_out_core_inside_a_training_message_is_refused(messages):
    check_unseen(messages)
    core = next(message.core for message in messages["test"] if "{" not in message.core)
    leaked = replace(messages["train"][0], text=f"안녕하세요. {core} 감사합니다.")
    with pytest.raises(PhraseOverlapError, match="test"):
        check_unseen({**messages, "train": [leaked, *messages["train"][1:]]})
