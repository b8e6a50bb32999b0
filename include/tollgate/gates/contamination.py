"""Contamination: rows that hold what a test set asks, and so must not be trained on.

Two ways to meet a test text. ``ngram``: a side of the row holds 50 letters and digits in a row of it (about 13 words
of Korean, the length that GPT-3's authors compared: Brown et al. 2020, appendix C), or all of it where it is shorter,
from 20 on. ``near_duplicate``: a turn is nearly the same as a test text, by the exact Jaccard similarity of character
5-grams as in :mod:`tollgate.gates.dedup`. Shorter test texts than 8 letters and digits ("만족입니다") are met by chance
and are not looked for. Texts come from :func:`tollgate.dataset.test_sets.read_texts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from tollgate.gates import dedup
from tollgate.gates.quality import TURN
from tollgate.gates.text_buffers import buffers, text_column
from tollgate.gates.threads import in_parts

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Whole = npt.NDArray[np.int64]
    Real = npt.NDArray[np.float32]

Kind = Literal["ngram", "near_duplicate"]

RUN: Final = 50
"""Letters and digits in a row that a row and a test text must share."""

_LEAST = 8  # letters and digits of a test text that is looked for
_SHARE_MARGIN = 0.8
_LETTERS_ONLY = r"[^\p{L}\p{N}]+"


@dataclass(frozen=True, eq=False)
class Hits:
    """Rows that meet a test set: one hit for each row and test set, the stronger one, in the order of the rows.

    Attributes:
        row: Position of the row.
        test: Name of the test set.
        kind: How they meet.
        overlap: ``ngram``: the share of the test text that is one run of the row; ``near_duplicate``: the Jaccard
            similarity of the two. 0 to 1.
    """

    row: Whole
    test: list[str]
    kind: list[Kind]
    overlap: Real


def find(
    questions: pa.Array | pa.ChunkedArray | list[str],
    answers: pa.Array | pa.ChunkedArray | list[str],
    tests: Mapping[str, pa.Array | pa.ChunkedArray | list[str]],
    threshold: float = 0.8,
) -> Hits:
    """Find the rows that hold texts of test sets.

    Args:
        questions: The user's side of each row (n); several turns joined by :data:`tollgate.gates.quality.TURN`.
        answers: The assistant's side of each row (n), likewise.
        tests: The texts of each test set, by its name.
        threshold: Least Jaccard similarity (above 0, at most 1) of near-duplicates.

    Returns:
        The hits.
    """
    sides = [text_column(questions), text_column(answers)]
    turns = [_turns(side) for side in sides]
    found: list[tuple[int, str, Kind, float]] = []
    for name, texts in tests.items():
        wanted = _long_enough(text_column(texts))
        if not len(wanted):
            continue
        overlap = np.maximum(*(_overlaps(side, wanted) for side in sides))
        likeness = np.maximum(*(_likeness(turn, row, len(overlap), wanted, threshold) for turn, row in turns))
        for row in np.flatnonzero((overlap > 0) | (likeness > 0)).tolist():
            near = bool(likeness[row] >= overlap[row])
            kind: Kind = "near_duplicate" if near else "ngram"
            found.append((row, name, kind, float(likeness[row] if near else overlap[row])))
    found.sort(key=lambda hit: hit[0])
    return Hits(
        row=np.array([row for row, *_ in found], np.int64),
        test=[name for _, name, *_ in found],
        kind=[kind for *_, kind, _ in found],
        overlap=np.array([overlap for *_, overlap in found], np.float32),
    )


def _long_enough(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    import pyarrow.compute as pc

    letters = pc.utf8_length(pc.replace_substring_regex(texts, _LETTERS_ONLY, ""))
    return pc.unique(texts.filter(pc.greater_equal(letters, _LEAST)))


def _overlaps(texts: pa.LargeStringArray, wanted: pa.LargeStringArray) -> Real:
    from tollgate.gates import contamination_kernels as kernels
    from tollgate.gates.character_kernels import character_classes

    classes = character_classes()
    anchors = kernels.build(*buffers(wanted), classes)
    found = np.zeros(len(texts), np.float32)
    known = (*buffers(texts), classes, anchors, RUN)
    in_parts(len(texts), lambda first, last: kernels.overlaps(*known, first, last, found))
    return found


def _turns(side: pa.LargeStringArray) -> tuple[pa.LargeStringArray, Whole]:
    """The turns of one side, and the row of each."""
    import pyarrow.compute as pc

    if not pc.any(pc.match_substring(side, TURN)).as_py():
        return side, np.arange(len(side))
    lists = pc.split_pattern(side, TURN)
    return text_column(lists.flatten()), pc.list_parent_indices(lists).to_numpy().astype(np.int64)


def _likeness(turns: pa.LargeStringArray, row: Whole, rows: int, wanted: pa.LargeStringArray, threshold: float) -> Real:
    """For each row how alike its turn most alike a test text is to it; 0 below the threshold."""
    import pyarrow as pa

    from tollgate.gates import contamination_kernels as kernels

    share = np.zeros(len(turns), np.float32)
    known = (*buffers(turns), kernels.grams(*buffers(wanted)))
    in_parts(len(turns), lambda first, last: kernels.known_share(*known, first, last, share))
    # Runs that come more than once weigh in a share, not in a set: a margin keeps what may still reach the threshold.
    maybe = np.flatnonzero(share >= _SHARE_MARGIN * threshold)
    likeness = np.zeros(rows, np.float32)
    if len(maybe):
        near = dedup.find_known(turns.take(pa.array(maybe)), None, wanted, None, threshold)
        np.maximum.at(likeness, row[maybe[near.row]], near.jaccard)
    return likeness
