import itertools
import json

import pytest

from tollgate.demo.documents import LABELLED_SHARE, PILOT_INTENTS, DocumentStream
from tollgate.demo.grammar import bare, expansions, load_grammar
from tollgate.demo.messages import SYSTEM_PROMPT


@pytest.fixture(scope="module")
def documents():
    return list(itertools.islice(DocumentStream(5, 0.1), 3000))


def test_a_seed_gives_the_same_documents(documents):
    assert list(itertools.islice(DocumentStream(5, 0.1), 50)) == documents[:50]
    assert list(itertools.islice(DocumentStream(6, 0.1), 50)) != documents[:50]


def test_no_held_out_phrasing_is_in_them(documents):
    everything = "\n".join(bare(document.context) for document in documents)
    grammar = load_grammar()
    for intent in grammar.intents:
        for use in ("validation", "test", "ab"):
            for core in itertools.chain.from_iterable(map(expansions, intent.cores[use])):
                assert "{" in core or bare(core) not in everything


def test_few_show_the_routers_own_task(documents):
    routed = [document for document in documents if document.system == SYSTEM_PROMPT]
    labelled = [document for document in routed if "분류: " not in document.context]  # the others are filled-in forms
    assert 0.3 * LABELLED_SHARE < len(labelled) / len(documents) < 2 * LABELLED_SHARE
    pilot = {intent.name for intent in load_grammar().intents[:PILOT_INTENTS]}
    assert {json.loads(document.target)["분류"] for document in labelled} <= pilot
    assert all(list(json.loads(document.target)) == ["분류", "노선", "방향", "긴급"] for document in routed)


def test_copying_exercises_hold_their_answer(documents):
    copies = [document for document in documents if document.context.startswith("복사 ")]
    assert 200 < len(copies) < 400
    assert all(set(copy.target.split()) <= set(copy.context.split()) for copy in copies)
