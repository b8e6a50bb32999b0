"""Single gates on texts, outside any dataset: one answer a text, in the order of the input, as JSON values.

No answer holds any of the text: findings of personal data say where and of which kind, never what.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tollgate.gates import dedup, pii, quality, toxicity

if TYPE_CHECKING:
    import pyarrow as pa

    from tollgate.dataset.text_lines import TextLines

_AT_ONCE = 65_536
_DIGITS = 4

TEXT_PARTS: Final = ("answer_length", "repetition", "diversity", "letters", "hangul", "ending", "intact", "refusal")
"""The parts of quality that say something about a text alone; the others compare a question with its answer."""

Answer = dict[str, Any]


def personal_data(texts: TextLines, settings: pii.PersonalDataSettings) -> Iterator[Answer]:
    """Find personal data.

    Yields:
        ``line`` and ``findings``: each with ``kind``, ``start`` and ``end`` (characters from 0, the end exclusive) and
        ``confidence`` (0 to 1).
    """
    for start in range(0, len(texts.text), _AT_ONCE):
        column = texts.text.slice(start, _AT_ONCE)
        found = pii.find_column(column, settings)
        bounds = np.searchsorted(found.row, np.arange(len(column) + 1))
        for place in range(len(column)):
            findings = [
                {
                    "kind": pii.KINDS[found.kind[one]],
                    "start": int(found.start[one]),
                    "end": int(found.end[one]),
                    "confidence": _rounded(found.confidence[one]),
                }
                for one in range(bounds[place], bounds[place + 1])
            ]
            yield {"line": int(texts.line[start + place]), "findings": findings}


def duplicates(texts: TextLines, threshold: float) -> Iterator[Answer]:
    """Find exact and near duplicates; the first of those that are alike is kept.

    Yields:
        ``line``; ``cluster``: line of the first text of its cluster (its own where it is alone); ``kept``: line of the
        text that is kept, its own where it is kept itself; ``jaccard``: its similarity (0 to 1) to the kept one.
    """
    import pyarrow as pa

    count = len(texts.text)
    nothing = pa.repeat(pa.scalar("", pa.large_string()), count)
    found = dedup.find_duplicates(texts.text, nothing, np.zeros(count), threshold)
    kept, similarity = np.arange(count), np.ones(count, np.float32)
    kept[found.row] = found.kept
    similarity[found.row] = found.jaccard
    for place in range(count):
        yield {
            "line": int(texts.line[place]),
            "cluster": int(texts.line[found.cluster[place]]),
            "kept": int(texts.line[kept[place]]),
            "jaccard": _rounded(similarity[place]),
        }


def toxic(texts: TextLines, threshold: float) -> Iterator[Answer]:
    """Score toxicity and hate, and grade by them.

    Yields:
        ``line``, ``score`` (toxicity, 0 to 1), ``hate`` (0 to 1), and ``label``: the grade, that is ``none``,
        ``offensive`` or ``hate``, of :meth:`tollgate.gates.toxicity.Found.grades`.
    """
    for start in range(0, len(texts.text), _AT_ONCE):
        found = toxicity.score_columns(texts.text.slice(start, _AT_ONCE))
        grades = found.grades(threshold)
        for place, (score, hate, grade) in enumerate(zip(found.toxicity, found.hate, grades, strict=True), start):
            yield {"line": int(texts.line[place]), "score": _rounded(score), "hate": _rounded(hate), "label": grade}


def good(texts: TextLines, answers: TextLines | None = None) -> Iterator[Answer]:
    """Score quality.

    Args:
        texts: The texts; the questions where there are answers.
        answers: The answer to each; nothing to score texts that stand alone, by :data:`TEXT_PARTS`.

    Yields:
        ``line``, ``score`` (0 to 1), and ``parts`` by name (each 0 to 1).
    """
    for start in range(0, len(texts.text), _AT_ONCE):
        column = texts.text.slice(start, _AT_ONCE)
        total, parts = _alone(column) if answers is None else _pairs(column, answers.text.slice(start, _AT_ONCE))
        for place in range(len(column)):
            yield {
                "line": int(texts.line[start + place]),
                "score": _rounded(total[place]),
                "parts": {name: _rounded(values[place]) for name, values in parts.items()},
            }


def _pairs(asked: pa.LargeStringArray, given: pa.LargeStringArray) -> tuple[Any, dict[str, Any]]:
    scores = quality.score_column(asked, given)
    return scores.total, scores.parts


def _alone(texts: pa.LargeStringArray) -> tuple[Any, dict[str, Any]]:
    """A text is its own question and answer; the parts that compare the two are left out."""
    scores = quality.score_column(texts, texts)
    total = np.ones(len(texts), np.float32)
    parts = {}
    for name in TEXT_PARTS:
        parts[name.removeprefix("answer_")] = scores.parts[name]
        total *= scores.parts[name] ** np.float32(quality.WEIGHTS[name])
    return total, parts


def _rounded(value: float) -> float:
    return round(float(value), _DIGITS)
