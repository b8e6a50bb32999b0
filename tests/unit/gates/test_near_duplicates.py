"""The kernels fold texts and compare them exactly as the plain functions do."""

from __future__ import annotations

import re
import sys
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tollgate.gates import dedup, near_duplicates, near_duplicates_kernels
from tollgate.gates.text_buffers import text_column

MIXED = st.text(
    st.sampled_from([*"가나힣각ㅋ Aaz0 9\t\n", "\u3000", "\xa0", "Σ", "İ", "é", "\u0301", "ᄀ", "ᅡ", "🚗", "Ａ"])
)


def _folded(texts: list[str]) -> list[str]:
    column = near_duplicates.folded_texts(text_column(texts))
    codes = np.empty(4 * max(map(len, texts)) + 32, np.uint32)
    lengths = (near_duplicates_kernels.fold(column, row, codes) for row in range(len(texts)))
    return ["".join(map(chr, codes[:length])) for length in lengths]


@settings(max_examples=200, deadline=None)
@given(st.lists(MIXED | st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5))
@example(["ΑΣ Σα", "e\u0301", "각", "  A\u2003\u2003B  ", "\x1c", "각"])
def test_kernels_fold_as_the_plain_function_does(texts: list[str]) -> None:
    assert _folded(texts) == [dedup.fold(text) for text in texts]


def test_every_character_folds_alone_and_after_a_letter() -> None:
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    texts = ["a" + "가".join(characters[start : start + 512]) for start in range(0, len(characters), 512)]
    assert _folded(texts) == [dedup.fold(text) for text in texts]


@settings(max_examples=100, deadline=None)
@given(st.lists(MIXED, min_size=2, max_size=6))
def test_similarity_is_the_exact_one(texts: list[str]) -> None:
    column = near_duplicates.folded_texts(text_column(texts))
    pairs = np.array(list(combinations(range(len(texts)), 2)))
    found = near_duplicates.similarities(column, pairs[:, 0].copy(), pairs[:, 1].copy())
    folded = [dedup.fold(text) for text in texts]
    assert found.tolist() == [dedup.jaccard(folded[one], folded[other]) for one, other in pairs]


def test_the_same_number_has_the_same_runs_of_digits() -> None:
    texts = ["1 22", "12 2", "1,22", "값은 1번과 22번", "１ 22", "٣", "٣ ", "", "없음", "1 222"]
    column = near_duplicates.folded_texts(text_column(texts))
    pairs = np.array(list(combinations(range(len(texts)), 2)))
    same = np.empty(len(pairs), np.bool_)
    near_duplicates_kernels.same_numbers(
        column, pairs[:, 0].copy(), pairs[:, 1].copy(), near_duplicates.digit_zeros(), same
    )
    runs = [re.findall(r"\d+", text) for text in texts]
    assert same.tolist() == [runs[one] == runs[other] for one, other in pairs]


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 0.99, 1.0])
def test_bands_miss_at_most_one_pair_in_a_thousand(threshold: float) -> None:
    form = near_duplicates.banding(threshold)
    assert (1 - threshold**form.rows) ** form.bands <= 0.001
    assert form.bands * form.rows <= 160


def test_a_slice_of_a_column_is_read_where_it_starts() -> None:
    column = near_duplicates.folded_texts(text_column(pa.array(["가나", "다라", "다라", "마"], pa.large_string())[1:]))
    assert near_duplicates.groups_of_equal(column, 3).tolist() == [0, 0, 2]


@given(st.lists(st.lists(st.integers(0, 9) | st.integers(0, 2**64 - 1))))
def test_pairs_from_several_searches_are_each_kept_once_in_order(found: list[list[int]]) -> None:
    pairs = [pair for some in found for pair in sorted(some)]
    assert near_duplicates.distinct(np.array(pairs, np.uint64)).tolist() == sorted(set(pairs))
