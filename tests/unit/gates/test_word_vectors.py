"""Words that are used alike get vectors alike, and a scorer knows by them what no labelled text holds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tollgate.gates import toxicity_kernels as kernels
from tollgate.gates.character_kernels import character_classes
from tollgate.gates.text_buffers import buffers, text_column
from tollgate.gates.training import train_toxicity, word_vectors
from tollgate.gates.training.train_toxicity import Comment
from tollgate.gates.training.word_vectors import WordVectors

TEXTS = [
    text
    for number in range(20)
    for text in (
        f"{number}번 손님이 맛있는 사과를 시장에서 사서 먹었다",
        f"{number}번 손님이 맛있는 포도를 시장에서 사서 먹었다",
        f"{number}번 경찰이 무서운 범인을 골목에서 쫓아가 잡았다",
        f"{number}번 경찰이 무서운 도둑을 골목에서 쫓아가 잡았다",
    )
]


def _beginnings(text: str) -> npt.NDArray[np.int32]:
    """Features of the beginnings of a text's words (words, 2)."""
    return kernels.beginnings(*buffers(text_column([text])), character_classes())[1]


def _vector(known: WordVectors, word: str) -> npt.NDArray[np.float32]:
    place = int(np.searchsorted(known.features, _beginnings(word)[0, 1]))
    vector = known.vectors[place]
    return vector / np.linalg.norm(vector)


def test_words_used_alike_have_vectors_alike() -> None:
    known = word_vectors.learn(TEXTS, seed=0)
    fruit, other_fruit, thief = (_vector(known, word) for word in ("사과를", "포도를", "범인을"))
    assert fruit @ other_fruit > 0.9
    assert fruit @ thief < 0.5


def test_the_same_texts_give_the_same_vectors() -> None:
    first, second = (word_vectors.learn(TEXTS, seed=0) for _ in range(2))
    assert (first.features == second.features).all()
    assert (first.vectors == second.vectors).all()


def test_beginnings_are_features_that_the_scorer_has() -> None:
    text = "나 너희 사과를 2024년 ㅋㅋㅋㅋ Good"
    _, features = kernels.passages(*buffers(text_column([text])), character_classes(), whole=True)
    numbers = _beginnings(text)
    assert len(numbers) == len(text.split())
    assert numbers[0, 1] == -1
    assert set(numbers[numbers >= 0].tolist()) <= set(features.tolist())


def test_a_word_that_no_comment_holds_counts_like_those_used_alike() -> None:
    unlabelled = [f"{number}번 댓글에 {word} 꼴보기 싫다" for number in range(20) for word in ("쓰레기는", "밉상은")]
    unlabelled += [f"{number}번 방송에 {word} 노래를 불렀다" for number in range(20) for word in ("가수는", "합창단은")]
    comments = [Comment(f"{number} 쓰레기는 간다", {"toxicity": 1.0}) for number in range(60)]
    comments += [Comment(f"{number} 가수는 간다", {"toxicity": -1.0}) for number in range(60)]
    clean = [f"{number}번 창구에서 접수합니다." for number in range(40)]
    vectors = word_vectors.learn(unlabelled, seed=0)
    scorer, again = (train_toxicity.train(comments, clean, ["toxicity"], 0, vectors)["toxicity"] for _ in range(2))
    disliked, singing = scorer.raw(text_column(["밉상은 간다", "합창단은 간다"]))
    assert disliked > singing + 1
    assert (scorer.target.weights == again.target.weights).all()
