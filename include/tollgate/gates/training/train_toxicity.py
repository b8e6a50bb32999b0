"""Train the scorers of toxicity, hate and bias, and write their weights: the same files and seed, the same weights.

    python -m tollgate.gates.training.train_toxicity --comments train.tsv --dialogue ChatbotData.csv \\
        --prose BoolQ/train.tsv --law easylaw.json --unlabelled nsmc_reviews_651k_unique.parquet \\
        --output include/tollgate/gates/models/toxicity.npz

Comments are korean-hate-speech's (Moon, Cho and Lee 2020; CC BY-SA 4.0). A tenth of them, by the SHA-256 of the text
alone, is held out from all of this, for the benchmark. Clean texts beside them are everyday dialogue, passages of an
encyclopaedia, half of the answers on law, and the demo's messages. Toxic is what was judged hateful or offensive; the
scorer of hate tells what was judged hateful from what was judged neither, the offensive ones between both.

Features are weighted by how rare they are among the comments (inverse document frequency). Ridge regression fits the
grades that people gave: hateful above offensive, and both above neither. A second one fits them to the sums of the
vectors of words' beginnings (:mod:`tollgate.gates.training.word_vectors`), learned from film reviews (NSMC) and the
comments without their labels: a word that no judged comment holds counts like those that are used alike. What it gives
the vectors is added to the weights of the beginnings, so that the scorer needs none. A logistic regression tells
comments from the clean texts. Calibration is Platt's, on the scores that comments get from models which have not seen
them (five folds), its centre at the threshold of the best macro F1 there.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tollgate.gates.character_kernels import character_classes
from tollgate.gates.text_buffers import buffers, text_column
from tollgate.gates.toxicity import Linear, Scorer
from tollgate.gates.training import stored_arrays, word_vectors
from tollgate.gates.training.word_vectors import WordVectors

if TYPE_CHECKING:
    import numpy.typing as npt

    Reals = npt.NDArray[np.float64]
    Flags = npt.NDArray[np.bool_]
    Grades = dict[str, Reals]

_log = logging.getLogger(__name__)

GRADES: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "toxicity": ("hate", {"none": -1.0, "offensive": 0.3, "hate": 1.0}),
    "hate": ("hate", {"none": -1.0, "offensive": 0.0, "hate": 1.0}),
    "bias": ("bias", {"none": -1.0, "others": 1.0, "gender": 1.0}),
}
"""For each scorer the column that people's judgements are in, and the grade of each, -1 (free of it) to 1.

Above 0 a comment shows it. Above -1 and up to 0 it neither shows it nor is free of it: scorers learn from such
comments, but no threshold is judged by them.
"""

_FOLDS = 5
# By inner cross-validation: of those with the fewest false alarms the ones that cost comments little.
# Of the ridge regression, on rows of which the mean square length is 1.
_PENALTY = {"toxicity": 2.0, "hate": 1.0, "bias": 2.0}
_STRENGTH = 10.0  # inverse of the regularisation of the likeness
_CLEAN_WEIGHT = {"target": 0.03, "likeness": 0.3}  # of a clean passage, a comment's being 1
_RARITY_POWER = 1.5  # of the inverse document frequency
_LOG_ODDS = 4.0  # of a whole grade, so that grade and likeness add up
_VECTORS_PENALTY = 0.05  # of the regression on vectors, on sums of variance 1, for each comment
_LEAST_SPREAD = 1e-3  # of a dimension beside the widest; less is rounding error
_VECTORS_WEIGHT = 0.4  # of that regression beside the one on features
_LEAST_PASSAGES = 2  # a feature of a single passage says nothing about others
_LOWEST = -20.0  # log odds of a text that has no words
_NEAR_BEST = 0.001  # macro F1 that may be given up for a higher threshold, that is, for fewer false alarms


@dataclass(frozen=True)
class Comment:
    """A comment with what people judged it to be.

    Attributes:
        text: The comment.
        grades: For each scorer its grade, -1 (free of what is looked for) to 1.
    """

    text: str
    grades: dict[str, float]

    def shows(self, target: str) -> bool:
        """Whether the comment shows what a scorer looks for, rather than being free of it or in between."""
        return self.grades[target] > 0

    def judged(self, target: str) -> bool:
        """Whether the comment shows what a scorer looks for or is free of it, rather than being in between."""
        return self.shows(target) or self.grades[target] == -1


def held_out(text: str) -> bool:
    """Whether a comment belongs to the tenth that is for the benchmark only."""
    return _bucket(text, 10) == 0


def read_comments(path: Path) -> list[Comment]:
    """Read korean-hate-speech's ``train.tsv``."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        Comment(row["comments"], {target: grade[row[column]] for target, (column, grade) in GRADES.items()})
        for row in rows
    ]


def seen_law(question: str) -> bool:
    """Whether an answer on law belongs to the half that is learned from; the other half tests for false alarms."""
    return _bucket(question, 2) == 0


def read_clean(dialogue: Path, prose: Path, law: Path, seed: int) -> list[str]:
    """Clean texts of four kinds: everyday dialogue, passages, half of the answers on law, the demo's messages."""
    from tollgate.demo.messages import labelled_messages

    with dialogue.open(encoding="utf-8-sig", newline="") as file:
        spoken = sorted({row[side] for row in csv.DictReader(file) for side in ("Q", "A")})
    lines = prose.read_text(encoding="utf-8-sig")
    written = [row["Text"] for row in csv.DictReader(io.StringIO(lines), delimiter="\t", quoting=csv.QUOTE_NONE)]
    messages = [message.text for message in labelled_messages(seed)["train"]]
    rows = json.loads(law.read_text(encoding="utf-8"))
    answers = [row["output"] for row in rows if seen_law(row["instruction"])]
    return [*spoken, *written[::3], *answers, *messages]


def _bucket(text: str, count: int) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % count


def _features(texts: Sequence[str], *, whole: bool) -> Any:
    """Counts of features over the root of their number: a sparse matrix, a row for each passage."""
    import scipy.sparse as sparse

    from tollgate.gates import toxicity_kernels as kernels

    bounds, features = kernels.passages(*buffers(text_column(list(texts))), character_classes(), whole=whole)
    lengths = np.diff(bounds)
    values = np.repeat(1 / np.sqrt(lengths), lengths)
    matrix = sparse.csr_matrix((values, features, bounds), (len(lengths), 1 << kernels.BITS))
    matrix.sum_duplicates()
    return matrix


def _linear(weights: Reals, intercept: float) -> Linear:
    """A linear function with its weights as small integers."""
    scale = float(np.abs(weights).max() / 127)
    return Linear(np.round(weights / scale).astype(np.int8), scale, intercept)


def _fit_grades(rows: Any, grades: Reals, weight: Reals, rarity: Reals, penalty: float) -> tuple[Reals, float]:
    """Ridge regression of grades on features times their rarity: the weights of features, and the constant."""
    import scipy.sparse as sparse
    from sklearn.linear_model import Ridge

    used = np.flatnonzero(np.bincount(rows.indices, minlength=rows.shape[1]) >= _LEAST_PASSAGES)
    model = Ridge(penalty, solver="sparse_cg", tol=1e-3)
    model.fit(rows[:, used] @ sparse.diags(rarity[used]), grades, sample_weight=weight)
    weights = np.zeros(len(rarity))
    weights[used] = model.coef_ * rarity[used]
    return weights, float(model.intercept_)


def _fit_vectors(rows: Any, grades: Reals, weight: Reals, comments: int, vectors: WordVectors) -> tuple[Reals, float]:
    """Ridge regression of grades on the sums of the vectors of beginnings: weights of features that come to the same.

    It stands alone: a regression on features and vectors at once leaves to the features what vectors would explain.
    """
    from sklearn.linear_model import Ridge

    sums = rows[:, vectors.features] @ vectors.vectors.astype(np.float64)
    spread = sums[:comments].std(axis=0)
    spread = np.maximum(spread, _LEAST_SPREAD * spread.max())
    model = Ridge(_VECTORS_PENALTY * comments).fit(sums / spread, grades, sample_weight=weight)
    weights = np.zeros(rows.shape[1])
    weights[vectors.features] = vectors.vectors @ (model.coef_ / spread)
    return weights, float(model.intercept_)


def _fit_target(
    rows: Any,
    grades: Reals,
    weight: Reals,
    rarity: Reals,
    penalty: float,
    comments: int,
    vectors: WordVectors | None,
) -> Linear:
    """The mean of both regressions, times a constant that makes about log odds of a grade."""
    weights, intercept = _fit_grades(rows, grades, weight, rarity, penalty)
    if vectors is not None:
        others, other_intercept = _fit_vectors(rows, grades, weight, comments, vectors)
        weights = (weights + _VECTORS_WEIGHT * others) / (1 + _VECTORS_WEIGHT)
        intercept = (intercept + _VECTORS_WEIGHT * other_intercept) / (1 + _VECTORS_WEIGHT)
    return _linear(_LOG_ODDS * weights, _LOG_ODDS * intercept)


def _fit_likeness(rows: Any, is_comment: Flags, weight: Reals, seed: int) -> Linear:
    """Logistic regression that tells comments from clean texts."""
    from sklearn.linear_model import LogisticRegression

    used = np.flatnonzero(np.bincount(rows.indices, minlength=rows.shape[1]) >= _LEAST_PASSAGES)
    model = LogisticRegression(C=_STRENGTH, solver="liblinear", tol=1e-3, random_state=seed)
    model.fit(rows[:, used], is_comment, sample_weight=weight)
    weights = np.zeros(rows.shape[1])
    weights[used] = model.coef_.ravel()
    return _linear(weights, float(model.intercept_[0]))


def _rarity(comments: Any) -> Reals:
    """Weight of each feature for being rare, scaled so that the comments' rows have a mean square length of 1."""
    known = np.bincount(comments.indices, minlength=comments.shape[1])
    rarity: Reals = (np.log((1 + comments.shape[0]) / (1 + known)) + 1) ** _RARITY_POWER
    squares = np.asarray(comments.multiply(comments).sum(axis=0)).ravel()
    return rarity / np.sqrt(squares @ rarity**2 / comments.shape[0])


def _learn(comments: Any, grades: Grades, clean: Any, seed: int, vectors: WordVectors | None) -> dict[str, Scorer]:
    """Scorers without calibration, of the features of comments (with grades) and of clean passages."""
    import scipy.sparse as sparse

    rows = sparse.vstack([comments, clean]).tocsr()
    is_comment = np.arange(rows.shape[0]) < comments.shape[0]
    weight = {use: np.where(is_comment, 1.0, share) for use, share in _CLEAN_WEIGHT.items()}
    likeness = _fit_likeness(rows, is_comment, weight["likeness"], seed)
    rarity = _rarity(comments)
    no_grades = np.full(clean.shape[0], -1.0)

    def fitted(target: str) -> Linear:
        all_grades = np.concatenate([grades[target], no_grades])
        return _fit_target(rows, all_grades, weight["target"], rarity, _PENALTY[target], comments.shape[0], vectors)

    return {target: Scorer(fitted(target), likeness) for target in grades}


def _pick(texts: Sequence[str], chosen: Flags) -> list[str]:
    return [text for text, wanted in zip(texts, chosen, strict=True) if wanted]


def _out_of_fold(
    texts: Sequence[str], grades: Grades, clean: Sequence[str], seed: int, vectors: WordVectors | None
) -> tuple[Grades, Grades]:
    """Raw scores that comments and clean texts get, for each target, from scorers that have not seen them."""
    fold, clean_fold = (np.array([_bucket(f"{seed}{text}", _FOLDS) for text in some]) for some in (texts, clean))
    matrix = _features(texts, whole=True)
    scores = {target: np.empty(len(texts)) for target in grades}
    clean_scores = {target: np.empty(len(clean)) for target in grades}
    for number in range(_FOLDS):
        left, clean_left = fold == number, clean_fold == number
        others = {target: its[~left] for target, its in grades.items()}
        clean_rows = _features(_pick(clean, ~clean_left), whole=False)
        for target, scorer in _learn(matrix[~left], others, clean_rows, seed, vectors).items():
            scores[target][left] = np.maximum(_LOWEST, scorer.raw(text_column(_pick(texts, left))))
            clean_scores[target][clean_left] = scorer.raw(text_column(_pick(clean, clean_left)))
    return scores, clean_scores


def _calibrate(scores: Reals, labels: Flags, clean: Reals) -> tuple[float, float]:
    """Slope and centre; the centre is the highest threshold whose macro F1 is nearly the best."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    centres = np.quantile(scores, np.linspace(0.1, 0.9, 161))
    reached = np.array([f1_score(labels, scores >= centre, average="macro") for centre in centres])
    chosen = int(np.flatnonzero(reached >= reached.max() - _NEAR_BEST)[-1])
    centre = float(centres[chosen])
    model = LogisticRegression(fit_intercept=False, C=1e6).fit((scores - centre)[:, None], labels)
    above = 100 * np.mean(clean >= centre)
    _log.info("cross-validated: macro F1 %.4f, %.2f %% of the clean texts above the threshold", reached[chosen], above)
    return float(model.coef_[0, 0]), centre


def train(
    comments: Sequence[Comment],
    clean: Sequence[str],
    targets: Sequence[str],
    seed: int,
    vectors: WordVectors | None = None,
) -> dict[str, Scorer]:
    """Train a scorer for each target and calibrate it.

    Args:
        comments: Comments with grades.
        clean: Clean texts of other kinds.
        targets: What scorers are to look for.
        seed: Seed of the folds and of the likeness.
        vectors: Vectors of words' beginnings, learned without labels; none to do without.
    """
    texts = [comment.text for comment in comments]
    grades = {target: np.array([comment.grades[target] for comment in comments]) for target in targets}
    scores, clean_scores = _out_of_fold(texts, grades, clean, seed, vectors)
    scorers = _learn(_features(texts, whole=True), grades, _features(clean, whole=False), seed, vectors)
    for target in targets:
        _log.info("%s:", target)
        judged = np.array([comment.judged(target) for comment in comments])
        shown = np.array([comment.shows(target) for comment in comments])
        slope, centre = _calibrate(scores[target][judged], shown[judged], clean_scores[target])
        scorers[target] = dataclasses.replace(scorers[target], slope=slope, centre=centre)
    return scorers


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the files, train, and write the weights."""
    import pyarrow.parquet as pq

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comments", type=Path, required=True, help="korean-hate-speech's train.tsv")
    parser.add_argument("--dialogue", type=Path, required=True, help="Chatbot_data's ChatbotData.csv")
    parser.add_argument("--prose", type=Path, required=True, help="KoBEST's BoolQ/train.tsv")
    parser.add_argument("--law", type=Path, required=True, help="LAW-Alpaca's easylaw.json, of which half is used")
    parser.add_argument("--unlabelled", type=Path, required=True, help="NSMC's reviews, a Parquet file")
    parser.add_argument("--output", type=Path, required=True, help="the .npz file to write")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    comments = [comment for comment in read_comments(options.comments) if not held_out(comment.text)]
    clean = read_clean(options.dialogue, options.prose, options.law, options.seed)
    _log.info("%d comments, %d clean texts", len(comments), len(clean))
    reviews = pq.read_table(options.unlabelled)["text"].to_pylist()
    vectors = word_vectors.learn([*reviews, *(comment.text for comment in comments)], options.seed)
    stored: dict[str, Any] = {}
    for target, scorer in train(comments, clean, list(GRADES), options.seed, vectors).items():
        for name, linear in ((target, scorer.target), ("likeness", scorer.likeness)):
            stored[f"{name}_weights"] = linear.weights
            stored[f"{name}_terms"] = np.array([linear.scale, linear.intercept])
        stored[f"{target}_calibration"] = np.array([scorer.slope, scorer.centre])
    stored_arrays.write(options.output, stored)


if __name__ == "__main__":
    main()
