"""How well names of persons are found that the model hasn't seen, and how fast; beside kiwi and presidio.

F1 is of exact spans of KLUE-NER's persons, in cross-validation by name: no name of two or more characters of a test
fold occurs in what its model has seen (see :mod:`tollgate.gates.training.train_names`). Our dictionary and the peers'
are as they are shipped; how much ours gives shows a row for which the fold's names were left out of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from random import Random

import pyarrow as pa
from tests.performance.tables import Row, row

from tollgate.gates import names
from tollgate.gates.training import klue_ner, name_dictionary, train_names
from tollgate.gates.training.klue_ner import Labelled
from tollgate.gates.training.name_material import MOST, Material, read_texts
from tollgate.gates.training.train_names import Score

DATA = Path(__file__).parents[3] / "shared" / "data"
KLUE = DATA / "klue-ner" / "klue-ner-v1.1_dev_first3000.tsv"
LAW = DATA / "easylaw" / "easylaw.json"
CHAT = DATA / "songys-chatbot" / "ChatbotData.csv"
UNLABELLED = (DATA / "kobest" / "BoolQ" / "train.tsv",)
FOLDS = 5
SPEED_ROWS = 100_000
LEAST_F1 = 0.78
LEAST_ACCURATE_F1 = 0.83
LEAST_SPEED = 8.0
MOST_FALSE_ALARMS = 50.0
_EACH = 10_000

Span = tuple[int, int]


def measure(rows: int = SPEED_ROWS) -> list[Row]:
    """Measure F1, speed and false alarms.

    Args:
        rows: Sentences for the speed.

    Returns:
        For each metric: metric, value, unit, peer, ratio (to the peer's value), must and ok; nothing where the data
        folder isn't beside the project. Without kiwipiepy no model can be trained, and the speed is all.
    """
    if not KLUE.is_file():
        return []
    sentences = klue_ner.read(KLUE)
    speeds = list(_speeds(sentences, rows))
    if not all(find_spec(one) for one in names.ANALYSER):
        return speeds
    unlabelled, persons = read_texts(UNLABELLED, MOST), name_dictionary.read().names()
    material = Material(sentences, read_texts([LAW, CHAT]), unlabelled, persons)
    return [*_f1(material), *speeds, *_false_alarms(material)]


def _f1(material: Material) -> Iterator[Row]:
    """F1 of both modes, of names that the model of each fold has never seen."""
    peers = {name: _score(find, material.sentences).f1 for name, find in _peers()}
    modes: tuple[tuple[train_names.Mode, float], ...] = (("fast", LEAST_F1), ("accurate", LEAST_ACCURATE_F1))
    for mode, least in modes:
        f1 = train_names.total(list(train_names.cross_validate(material, FOLDS, 1, mode))).f1
        yield _result(f"F1, {mode}, split by name", f1, "F1", least, f1 >= least, peers)
    scores = train_names.cross_validate(material, FOLDS, 1, "fast", unlisted=True)
    f1 = round(train_names.total(list(scores)).f1, 4)
    yield row("names: F1, fast, split by name, none of them in the dictionary", f1, "F1")


def _speeds(sentences: Sequence[Labelled], rows: int) -> Iterator[Row]:
    """Megabytes of UTF-8 per CPU second, of sentences that mostly hold names and of texts that hold none."""
    for name, texts in (("KLUE-NER", [one.text for one in sentences]), ("law and chat", read_texts([LAW, CHAT]))):
        column = pa.array((texts * (rows // len(texts) + 1))[:rows], pa.large_string())
        names.find_column(texts[:10])  # compiles the kernels
        begin = time.process_time()
        names.find_column(column)
        speed = column.nbytes / 1e6 / (time.process_time() - begin)
        yield _result(f"speed, fast, {name}", speed, "MB per CPU second", LEAST_SPEED, speed >= LEAST_SPEED, {})


def _false_alarms(material: Material) -> Iterator[Row]:
    """Texts without names in which one is found, of ten thousand; the model learnt from every other of them."""
    law, chat = read_texts([LAW]), read_texts([CHAT])
    tagger = train_names.learn(replace(material, clean=[*law[::2], *chat[::2]]), 1)
    for name, texts in (("law", law[1::2]), ("chat", chat[1::2]), ("the demo's test messages", _demo_messages())):
        rows, *_ = tagger.find_column(pa.array(texts, pa.large_string()))
        alarms = len(set(rows.tolist())) / len(texts) * _EACH
        ok = alarms <= MOST_FALSE_ALARMS
        yield _result(f"false alarms in 10,000 of {name}", alarms, "texts", MOST_FALSE_ALARMS, ok, {})


def _demo_messages() -> list[str]:
    from tollgate.demo.grammar import load_grammar
    from tollgate.demo.messages import MessageStream

    return [message.text for message in islice(MessageStream(load_grammar(), "test", Random(0)), 2_000)]


def _result(metric: str, value: float, unit: str, must: float, ok: bool, peers: dict[str, float]) -> Row:
    best = max(peers.values(), default=0)
    return row(
        f"names: {metric}",
        round(value, 4),
        unit,
        peer=", ".join(f"{name} {score:.3f}" for name, score in peers.items()) or None,
        ratio=round(value / best, 3) if best else None,
        must=must,
        ok=ok,
    )


def _score(find: Callable[[str], Iterable[Span]], sentences: Sequence[Labelled]) -> Score:
    scores = []
    for one in sentences:
        found, labelled = set(find(one.text)), set(one.names)
        scores.append(Score(len(found & labelled), len(found - labelled), len(labelled - found)))
    return train_names.total(scores)


def _peers() -> Iterator[tuple[str, Callable[[str], Iterable[Span]]]]:
    """The libraries to compare with that are installed, and what they find in a text."""
    if find_spec("kiwipiepy"):
        from kiwipiepy import Kiwi

        kiwi = Kiwi(num_workers=1)
        yield (
            "kiwi (NNP)",
            lambda text: [(one.start, one.start + one.len) for one in kiwi.tokenize(text) if one.tag == "NNP"],
        )
    if find_spec("presidio_analyzer"):
        recognizer = _presidio()
        if recognizer:
            yield "presidio", recognizer


def _presidio() -> Callable[[str], Iterable[Span]] | None:
    """Presidio's finder of persons, which is spaCy's; nothing where no Korean model of spaCy is installed."""
    if not find_spec("ko_core_news_sm"):
        return None
    import ko_core_news_sm

    model = ko_core_news_sm.load()
    return lambda text: [(one.start_char, one.end_char) for one in model(text).ents if one.label_ == "PS"]


if __name__ == "__main__":
    for line in measure():
        print(line)
