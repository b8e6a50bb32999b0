import random
from dataclasses import replace

import pytest

from tollgate.demo.grammar import PhraseOverlapError, agree, bare, check_disjoint, expansions, load_grammar
from tollgate.demo.messages import MessageStream


@pytest.mark.parametrize(
    ("written", "agreed"),
    [
        ("돈을(를) 차을(를)", "돈을 차를"),
        ("요금이(가) 통행료이(가)", "요금이 통행료가"),
        ("길으로(로) 통장으로(로) 계좌으로(로)", "길로 통장으로 계좌로"),
        ("경부선이에요(예요) 420km이에요(예요)", "경부선이에요 420km예요"),
        ("3은(는) 4은(는)", "3은 4는"),
    ],
)
def test_particles_agree_with_the_syllable_before(written, agreed):
    assert agree(written) == agreed


def test_expansions_are_all_combinations():
    assert list(expansions("[가|나] {amount} [다|라]")) == [
        "가 {amount} 다",
        "가 {amount} 라",
        "나 {amount} 다",
        "나 {amount} 라",
    ]


def test_the_packages_phrases_cover_twelve_intents_and_share_nothing():
    grammar = load_grammar()
    check_disjoint(grammar)
    assert len({intent.name for intent in grammar.intents}) == 12
    assert len(set(grammar.places.routes)) == 24


@pytest.mark.parametrize(
    ("use", "phrase"),
    [
        ("test", "단말기가 고장 났습니다"),
        ("ab", "어제, 단말기가 고장났습니다!"),  # spaces and punctuation don't hide it, nor words around it
        ("validation", "고장났습니다"),  # nor being only a part
    ],
)
def test_a_held_out_core_that_training_has_is_refused(use, phrase):
    grammar = load_grammar()
    intents = list(grammar.intents)
    train = (*intents[0].cores["train"], "단말기가 [고장났습니다|꺼졌습니다]")
    intents[0] = replace(intents[0], cores={**intents[0].cores, "train": train})
    other = intents[5]
    intents[5] = replace(other, cores={**other.cores, use: (*other.cores[use], phrase)})
    with pytest.raises(PhraseOverlapError, match="train"):
        check_disjoint(replace(grammar, intents=tuple(intents)))


def test_a_held_out_frame_that_training_has_is_refused():
    grammar = load_grammar()
    greetings = {**grammar.frames["greeting"], "ab": ("", "안녕하십니까! ")}
    with pytest.raises(PhraseOverlapError, match="greeting"):
        check_disjoint(replace(grammar, frames={**grammar.frames, "greeting": greetings}))


@pytest.mark.parametrize("kind", sorted(load_grammar().composed))
def test_training_never_draws_a_frame_that_others_keep(kind):
    grammar = load_grammar()
    kept = next(iter(grammar.frames[kind]["test"]))
    stream = MessageStream(
        replace(grammar, frames={**grammar.frames, kind: {**grammar.frames[kind], "train": (kept, " 다른 말.")}}),
        "train",
        random.Random(0),
    )
    texts = "\n".join(next(stream).text for _ in range(300))
    assert "다른 말" in texts
    assert bare(kept) not in bare(texts)
