"""Step 7: hold what would be written against the contract."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tollgate.dataset.schema import SPLITS
from tollgate.dataset.turns import Turns, characters, said_by, take_apart, take_turns
from tollgate.errors import GateRefusedError
from tollgate.gates import contamination, contract, near_duplicates, pii, quality, workfolder
from tollgate.gates.gate_settings import GateSettings
from tollgate.gates.results import StageResult
from tollgate.gates.steps import rows as columns
from tollgate.gates.steps.contamination import read_tests
from tollgate.gates.threads import in_order

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

_NAMES_EVERY = 64  # one of so many turns in which nothing was masked is searched for names all the same


def check_contract(workdir: Path, settings: GateSettings, judge: contract.Judge = contract.judge) -> StageResult:
    """Judge the rows that are about to be written. Judgement and Data Docs stay in the work folder, passed or not.

    Args:
        workdir: The run's work folder.
        settings: The thresholds.
        judge: Who judges.

    Raises:
        GateRefusedError: The contract is not met; says which terms, and what was found instead.
    """
    rows = workfolder.read_columns(workdir, "split")
    terms = _terms(settings)
    measured = contract.metrics(*_measure(workdir, rows, settings), terms)
    judgement = judge(measured, terms, workdir / "data_docs")
    workfolder.write_text(workdir / "contract.json", judgement.model_dump_json(indent=2))
    if not judgement.passed:
        raise GateRefusedError("The contract is not met:\n  - " + "\n  - ".join(contract.failures(judgement)))
    details = judgement.model_dump(mode="json")
    result = StageResult(stage="contract", rows_in=rows.height, rows_kept=rows.height, details=details)
    return workfolder.finish(workdir, result)


def _terms(settings: GateSettings) -> contract.Terms:
    return contract.Terms(
        min_rows=settings.min_rows,
        max_duplicate_share=settings.max_duplicate_share if settings.duplicates == "drop" else 1.0,
        max_broken_share=settings.max_broken_share,
        min_quality=settings.min_quality if settings.quality == "drop" else 0.0,
        max_toxicity=settings.max_toxicity if settings.toxicity == "drop" else 1.0,
        max_bias=settings.max_bias if settings.bias == "drop" else 1.0,
        max_residual_personal_data=None if settings.personal_data == "report" else 0,
        max_contaminated=0 if settings.contamination == "drop" and settings.contamination_tests else None,
        max_question_characters=settings.max_question_characters,
        max_answer_characters=settings.max_answer_characters,
        min_category_shares=settings.min_category_shares,
        max_category_drift=settings.max_category_drift if settings.category_reference else None,
    )


def _measure(workdir: Path, rows: pl.DataFrame, settings: GateSettings) -> tuple[pl.DataFrame, contract.Found]:
    """What the contract's metrics are made of: the texts are read once, batch by batch."""
    import polars as pl
    import pyarrow as pa

    none = pa.array([], pa.large_string())
    residual, asked, answered = 0, [none], [none]
    empty = pl.DataFrame(
        schema={"takes_turns": pl.Boolean, "question_characters": pl.Int64, "answer_characters": pl.Int64}
    )
    shapes = [empty]
    places = rows["place"].to_numpy()
    for one in in_order(lambda batch: _look(batch, settings), workfolder.read_places(workdir, places)):
        residual += one.residual
        asked.append(one.asked)
        answered.append(one.answered)
        shapes.append(one.shape)
    questions, answers = pa.concat_arrays(asked), pa.concat_arrays(answered)
    ingested = workfolder.read_result(workdir, "ingest")
    found = contract.Found(
        residual_personal_data=residual,
        contaminated=_contaminated(questions, answers, rows, settings),
        broken_share=ingested.quarantined / ingested.rows_in,
        reference_categories=_reference(workdir, settings),
    )
    category = columns.metadata(workdir, places, ("category",))["category"]
    content = _content(questions, answers)
    return rows.hstack(pl.concat(shapes).with_columns(category, content).get_columns()), found


@dataclass(frozen=True)
class _Look:
    """What one batch adds to the metrics."""

    residual: int
    asked: pa.LargeStringArray
    answered: pa.LargeStringArray
    shape: pl.DataFrame


def _look(batch: pa.RecordBatch, settings: GateSettings) -> _Look:
    turns = take_apart(batch.column("messages"))
    asked, answered = (said_by(turns, role, quality.TURN) for role in ("user", "assistant"))
    return _Look(_residual(turns, settings), asked, answered, _shape(turns))


def _shape(turns: Turns) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame(
        {
            "takes_turns": take_turns(turns),
            "question_characters": characters(turns, "user"),
            "answer_characters": characters(turns, "assistant"),
        }
    )


def _residual(turns: Turns, settings: GateSettings) -> int:
    """Pieces of personal data that the turns' texts still hold.

    All texts are searched for numbers and addresses. Names take most of the time of a search, and a text that stayed
    as it was is found clean again: they are looked for where something was masked, and in a sample of the others.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if settings.personal_data == "report":
        return 0
    chosen = settings.personal_data_settings()
    left = len(pii.find_column(turns.content, chosen.model_copy(update={"names": "off"})))
    if chosen.names == "off" or "name" not in chosen.kinds:
        return left
    checked = pc.match_substring(turns.content, "[").to_numpy(zero_copy_only=False)
    checked[::_NAMES_EVERY] = True
    only_names = chosen.model_copy(update={"kinds": ("name",)})
    return left + len(pii.find_column(turns.content.filter(pa.array(checked)), only_names))


def _content(questions: pa.LargeStringArray, answers: pa.LargeStringArray) -> pl.Series:
    """A number for each row, the same for rows that say the same after folding."""
    import polars as pl

    asked, answered = (
        near_duplicates.groups_of_equal(near_duplicates.folded_texts(side), len(side)) for side in (questions, answers)
    )
    return pl.Series("content", asked * len(questions) + answered, dtype=pl.Int64)


def _contaminated(
    questions: pa.LargeStringArray, answers: pa.LargeStringArray, rows: pl.DataFrame, settings: GateSettings
) -> int:
    import pyarrow as pa

    if not settings.contamination_tests:
        return 0
    training = pa.array((rows["part"] == SPLITS[0]).to_numpy())
    tests = read_tests(settings)
    hits = contamination.find(questions.filter(training), answers.filter(training), tests, settings.duplicate_threshold)
    return len(np.unique(hits.row))


def _reference(workdir: Path, settings: GateSettings) -> dict[str, int] | None:
    """Rows by category of the version that the settings name."""
    if settings.category_reference is None:
        return None
    import polars as pl

    versions = workfolder.read_result(workdir, "ingest").details["versions"]
    folder = Path(versions[settings.category_reference]["folder"])
    found = pl.concat([pl.read_parquet(folder / f"{part}.parquet", columns=["category"]) for part in SPLITS])
    return {str(name): int(count) for name, count in found["category"].fill_null("").value_counts().rows()}
