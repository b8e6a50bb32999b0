"""What the models that find names learn from: labelled sentences, texts without names, and texts as they come."""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from tollgate.gates.training.klue_ner import Labelled

MOST = 20_000
"""Texts that are taken of a file without labels; of a longer one a random choice."""

_SHORTEST = 4


@dataclass(frozen=True)
class Material:
    """What to learn from.

    Attributes:
        sentences: Labelled sentences.
        clean: Texts without names.
        unlabelled: Texts of which nothing is known; a first model says where names are in them.
        persons: Names of a dictionary, in an order that is always the same.
    """

    sentences: list[Labelled]
    clean: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    persons: list[str] = field(default_factory=list)

    def without(self, banned: Collection[str]) -> Material:
        """The sentences, texts and persons that hold no banned name."""
        if not banned:
            return self
        holds = re.compile("|".join(map(re.escape, sorted(banned)))).search
        return Material(
            [one for one in self.sentences if not holds(one.text)],
            [one for one in self.clean if not holds(one)],
            [one for one in self.unlabelled if not holds(one)],
            [one for one in self.persons if not holds(one)],
        )


def read_texts(paths: Iterable[Path], most: int | None = None) -> list[str]:
    """The sentences of files that have Hangul: of the strings in JSON, CSV, TSV and Parquet files, or of lines.

    Args:
        paths: The files.
        most: Sentences to take of a file; of a longer one a random choice that is always the same.
    """
    return list(dict.fromkeys(chain.from_iterable(_chosen(path, most) for path in paths)))


def _chosen(path: Path, most: int | None) -> list[str]:
    sentences = chain.from_iterable(re.split(r"(?<=[.?!]) |\n", text) for text in _strings(path))
    kept = [
        plain
        for one in dict.fromkeys(sentences)
        if len(plain := one.strip()) >= _SHORTEST and re.search("[가-힣]", plain)
    ]
    return kept if most is None or len(kept) <= most else random.Random(0).sample(kept, most)  # noqa: S311


def _strings(path: Path) -> Iterator[str]:
    if path.suffix == ".parquet":
        return _parquet_strings(path)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return chain.from_iterable(row.values() for row in json.loads(text))
    if path.suffix == ".csv":
        return chain.from_iterable(csv.reader(text.splitlines()))
    if path.suffix == ".tsv":
        return chain.from_iterable(line.split("\t") for line in text.splitlines())
    return iter(text.splitlines())


def _parquet_strings(path: Path) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for column in pq.read_table(path).columns:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            yield from (text for text in column.to_pylist() if text)
