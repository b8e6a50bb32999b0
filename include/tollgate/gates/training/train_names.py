"""Train the models that find names of persons, and measure them on names that they haven't seen.

    python -m tollgate.gates.training.train_names KLUE_NER_TSV --clean EASYLAW_JSON CHATBOT_CSV \\
        --unlabelled BOOLQ_TSV (--output FOLDER | --folds 5 [--unlisted]) [--mode accurate]

Learnt from: the sentences of KLUE-NER (CC BY-SA 4.0) as they are and some times with other names; made-up messages of
customers and the demo's; of texts that are known to hold no names those in which a first model found some, and a
tenth of the others; and, in the fast mode, texts without labels, in which names are what an accurate model finds that
learnt from the sentences alone. That model and the accurate mode need kiwipiepy, and both modes python-mecab-ko-dic,
whose persons are among the other names. The same files, seed and library versions give the same weights.

Cross-validation is by name: no name of two or more characters in a test fold occurs anywhere in what its model has
seen, neither in a sentence or text (those that hold one are left out), nor in a word list, nor among generated names.
The dictionary, which was made without KLUE-NER, is used as it is shipped; ``--unlisted`` leaves the fold's names out of
it, too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Literal

import numpy as np

from tollgate.gates.names import Tagger, check_accurate
from tollgate.gates.names_tables import Tables, tables
from tollgate.gates.training import klue_ner, name_dictionary, stored_arrays
from tollgate.gates.training.klue_ner import Labelled
from tollgate.gates.training.name_generator import Messages, NameGenerator, renamed
from tollgate.gates.training.name_material import MOST, Material, read_texts

if TYPE_CHECKING:
    import numpy.typing as npt

    from tollgate.gates.training.names_crf import Model, Sentences
    from tollgate.gates.training.names_scan import Scan

    Stored = dict[str, npt.NDArray[np.generic]]

Mode = Literal["fast", "accurate"]

COPIES = 3
"""How often each sentence is repeated with other names."""

MESSAGES = 3_000
"""Made-up messages in each sample."""

DEMO_MESSAGES = 1_500
"""Messages of the demo in each sample."""

MODELS: dict[Mode, int] = {"fast": 5, "accurate": 3}
"""Models of different seeds, each trained on a sample of its own, whose mean is kept."""

REPEATS = 3
"""How often a text without names is repeated in which a first model found some."""

USUAL = 10
"""One of so many texts without names is learnt from in any case."""

SCOUT_BIAS = np.float32(1.0)
"""Added to the scores of names by that first model, that it also finds what later ones nearly would."""

TEACHERS = 2
"""Models whose mean says where names are in texts without labels."""

TEACHER_BIAS = np.float32(0.35)
"""Added to the scores of names by the model that says where names are in texts without labels."""

BIAS: dict[Mode, float] = {"fast": 0.2, "accurate": 0.2}
"""Added to the scores of tags inside names, as those of names never seen are too low; chosen by cross-validation."""

_SMALLEST = 0.04  # smaller weights become 0, and the file small
_CLIP = 4.0
_BYTE = 127
_REMEMBERED = 200_000


@dataclass(frozen=True)
class Score:
    """How many names were found rightly, found wrongly, and not found."""

    right: int
    wrong: int
    missed: int

    @property
    def precision(self) -> float:
        """Share of what was found that is a name."""
        return self.right / max(1, self.right + self.wrong)

    @property
    def recall(self) -> float:
        """Share of the names that were found."""
        return self.right / max(1, self.right + self.missed)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, of names whose beginning and end are both right."""
        return 2 * self.right / max(1, 2 * self.right + self.wrong + self.missed)

    def __str__(self) -> str:
        """For people."""
        return f"precision {self.precision:.4f}, recall {self.recall:.4f}, F1 {self.f1:.4f}"


def learn(
    material: Material,
    seed: int,
    mode: Mode = "fast",
    banned: Collection[str] = (),
    unlisted: Collection[str] = (),
) -> Tagger:
    """Train a model.

    Args:
        material: What to learn from.
        seed: Seed of everything random.
        mode: Whether what a morphological analyser says is used.
        banned: Names that must be nowhere in what is learnt from.
        unlisted: Names that the dictionary must not hold either.

    Returns:
        The model, its weights rounded to bytes as in the file.

    Raises:
        BadInputError: The analyser is needed and isn't installed.
    """
    known = tables(banned, unlisted=unlisted)
    return Tagger.of(_model(material, seed, mode, known, banned), known)


def _model(material: Material, seed: int, mode: Mode, known: Tables, banned: Collection[str] = ()) -> Stored:
    from tollgate.gates.training import names_crf, names_scan

    if mode == "accurate" or material.unlabelled:
        check_accurate()
    allowed = material.without(banned)
    taught = _taught(allowed, seed, known, banned) if mode == "fast" else []
    clean = _mistaken(allowed, seed, mode, known, banned) * REPEATS + allowed.clean[::USUAL]
    models = []
    for one in range(MODELS[mode]):
        sample = [*_sample(allowed, banned, seed * 100 + one), *taught]
        sample += (Labelled(text, ()) for text in clean)
        coded = _coded(sample, mode)
        models.append(names_crf.train(coded, known, seed * 100 + one))
    scan = names_scan.train(coded, known, seed) if mode == "fast" else None
    return stored(names_crf.mean(models), mode, scan)


def _mistaken(material: Material, seed: int, mode: Mode, known: Tables, banned: Collection[str]) -> list[str]:
    """The texts without names in which a model finds some that has learnt from the sentences alone.

    To learn from all of them would make names rarer than they are elsewhere, and more of those would be missed.
    """
    if not material.clean:
        return []
    scout = replace(_first(material, seed, mode, known, banned), bias=SCOUT_BIAS)
    return [material.clean[row] for row in sorted({row for row, *_ in _found(scout, material.clean, mode)})]


def _taught(material: Material, seed: int, known: Tables, banned: Collection[str]) -> list[Labelled]:
    """The texts without labels, with the names that an accurate model finds which learnt from the sentences alone."""
    if not material.unlabelled:
        return []
    teacher = replace(_first(material, seed, "accurate", known, banned, TEACHERS), bias=TEACHER_BIAS)
    spans: list[list[tuple[int, int]]] = [[] for _ in material.unlabelled]
    for row, start, end in _found(teacher, material.unlabelled, "accurate"):
        spans[row].append((start, end))
    return [Labelled(text, tuple(its)) for text, its in zip(material.unlabelled, spans, strict=True)]


def _first(material: Material, seed: int, mode: Mode, known: Tables, banned: Collection[str], count: int = 1) -> Tagger:
    """The mean of some models that have learnt from the sentences alone."""
    from tollgate.gates.training import names_crf

    models = [
        names_crf.train(_coded(_sample(material, banned, one), mode), known, one) for one in range(seed, seed + count)
    ]
    return Tagger.of(stored(names_crf.mean(models), mode), known)


def _sample(material: Material, banned: Collection[str], seed: int) -> list[Labelled]:
    """Sentences as they are and with other names, and made-up messages."""
    sentences = material.sentences
    known = chain.from_iterable(one.strings() for one in sentences)
    generator = NameGenerator(known, banned, seed, material.persons)
    copies = chain.from_iterable(renamed(sentences, generator) for _ in range(COPIES))
    made = Material([*copies, *Messages(generator).some(MESSAGES), *_demo(seed)]).without(banned)
    return [*sentences, *made.sentences]


def _demo(seed: int) -> list[Labelled]:
    """Messages of the demo's customers, which hold no names; of those that it trains its own model on."""
    from tollgate.demo.grammar import load_grammar
    from tollgate.demo.messages import MessageStream

    stream = MessageStream(load_grammar(), "train", Random(seed))  # noqa: S311
    return [Labelled(message.text, ()) for message in islice(stream, DEMO_MESSAGES)]


def _coded(sentences: Sequence[Labelled], mode: Mode) -> Sentences:
    """Sentences as arrays."""
    from tollgate.gates.names_kernels import TAGS, folding
    from tollgate.gates.training import names_crf

    texts = [one.text for one in sentences]
    raw = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    targets = np.zeros((len(raw), TAGS), np.float32)
    targets[:, 0] = 1
    for offset, sentence in zip(offsets.tolist(), sentences, strict=False):
        for start, end in sentence.names:
            tags = [4] if end - start == 1 else [1, *[2] * (end - start - 2), 3]
            targets[offset + start : offset + end] = np.eye(TAGS, dtype=np.float32)[tags]
    return names_crf.Sentences(
        folding()[np.minimum(raw, 0xFFFF)].astype(np.int32), offsets, targets, _further(texts, mode)
    )


def _further(texts: Sequence[str], mode: Mode) -> npt.NDArray[np.uint32]:
    if mode == "fast":
        return np.zeros((sum(map(len, texts)), 0), np.uint32)
    return np.concatenate([_morphemes(text) for text in texts])


@lru_cache(_REMEMBERED)
def _morphemes(text: str) -> npt.NDArray[np.uint32]:
    """What the analyser says of a text; it takes longer than all else, and folds share texts."""
    from tollgate.gates import names_morphemes

    return names_morphemes.features([text])[1]


def stored(model: Model, mode: Mode, scan: Scan | None = None) -> Stored:
    """A model, and the scan before it, as arrays for a file; see :meth:`tollgate.gates.names.Tagger.of`."""
    scale = _CLIP / _BYTE
    kept = np.where(np.abs(model.weights) < _SMALLEST, 0, model.weights)
    weights = np.clip(np.rint(kept / scale), -_BYTE, _BYTE).astype(np.int8)
    filled = np.flatnonzero(weights.any(axis=1))
    first: Stored = {"scan": scan.weights, "least": np.array(scan.least, np.int32)} if scan else {}
    return {
        **first,
        "gaps": np.diff(filled, prepend=0).astype(np.uint16),
        "weights": np.ascontiguousarray(weights[filled].T),
        "transitions": model.transitions.astype(np.float32),
        "scale": np.array(scale, np.float32),
        "bias": np.array(BIAS[mode], np.float32),
    }


def write(material: Material, folder: Path, seed: int, mode: Mode) -> Path:
    """Train a model on everything and write its weights, compressed, to ``<mode>.npz`` in a folder."""
    return stored_arrays.write(folder / f"{mode}.npz", _model(material, seed, mode, tables()))


def cross_validate(material: Material, count: int, seed: int, mode: Mode, *, unlisted: bool = False) -> Iterator[Score]:
    """The score of each fold, its model knowing none of its names, nor its dictionary where they are ``unlisted``."""
    sentences = material.sentences
    fold_of = klue_ner.folds(sentences, count)
    for fold in range(count):
        test = [one for one, its in zip(sentences, fold_of, strict=True) if its == fold]
        others = [one for one, its in zip(sentences, fold_of, strict=True) if its != fold]
        banned = klue_ner.names(test)
        tagger = learn(replace(material, sentences=others), seed, mode, banned, banned if unlisted else ())
        yield score(tagger, test, mode)


def score(tagger: Tagger, sentences: Sequence[Labelled], mode: Mode) -> Score:
    """Compare what a model finds in sentences with their labels."""
    found = set(_found(tagger, [one.text for one in sentences], mode))
    labelled = {(row, *span) for row, one in enumerate(sentences) for span in one.names}
    return Score(len(found & labelled), len(found - labelled), len(labelled - found))


def _found(tagger: Tagger, texts: Sequence[str], mode: Mode) -> Iterator[tuple[int, int, int]]:
    """Row, start and end of each name."""
    import pyarrow as pa

    begins = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    morphemes = (begins, _further(texts, mode)) if mode == "accurate" else None
    rows, starts, ends, _ = tagger.find_column(pa.array(texts, pa.large_string()), morphemes)
    return zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True)


def total(scores: Sequence[Score]) -> Score:
    """The score over all folds."""
    return Score(sum(one.right for one in scores), sum(one.wrong for one in scores), sum(one.missed for one in scores))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train or cross-validate; see the module's description."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("klue", type=Path, help="a file of KLUE-NER, tab-separated")
    parser.add_argument("--clean", type=Path, nargs="*", default=[], help="files of texts without names")
    parser.add_argument("--unlabelled", type=Path, nargs="*", default=[], help="files of any texts")
    parser.add_argument("--output", type=Path, help="folder for the weights")
    parser.add_argument("--folds", type=int, default=0, help="measure by cross-validation, with so many folds")
    parser.add_argument("--unlisted", action="store_true", help="leave a fold's names out of the dictionary, too")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", choices=("fast", "accurate"), default="fast")
    given = parser.parse_args(arguments)
    material = Material(
        klue_ner.read(given.klue),
        read_texts(given.clean),
        read_texts(given.unlabelled, MOST),
        name_dictionary.read().names(),
    )
    if given.folds:
        scores = []
        for one in cross_validate(material, given.folds, given.seed, given.mode, unlisted=given.unlisted):
            scores.append(one)
            _say(f"fold {len(scores)}: {one}")
        _say(f"all: {total(scores)}")
    if given.output:
        _say(str(write(material, given.output, given.seed, given.mode)))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
