"""The gates in their order, each a step of its own that a task can run and retry.

    ingest -> mask_personal_data -> drop_duplicates -> score_quality -> split_rows -> check_contract -> write_version

A step reads the rows that the step before left in the work folder and writes its own (to a temporary name, then
renamed), with a small result beside them: run again after a crash it does the same again. Every step accounts for
every row: rows in are rows kept, dropped by reason, or quarantined, or the step fails. Results hold counts and masked
excerpts, never personal data.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from tollgate.dataset import readers, split, statistics, versions
from tollgate.dataset.schema import SPLITS, Example, RowProblem, Split
from tollgate.dataset.versions import DatasetVersion, Source
from tollgate.errors import BadInputError, GateRefusedError, Problem
from tollgate.gates import contract, dedup, pii, quality, toxicity, workfolder
from tollgate.gates.gate_settings import GateSettings
from tollgate.gates.results import STAGES, Stage, StageResult, summarise
from tollgate.settings import settings as process_settings

if TYPE_CHECKING:
    import polars as pl

_SAMPLES = 5
_PREVIEW = 60
_PROBLEMS_SHOWN = 10


Progress = Callable[[Stage, StageResult | None], None]
"""Called with a step's name when it begins, and again with its result when it has ended."""


def ingest(source: Path, workdir: Path, settings: GateSettings) -> StageResult:
    """Read a source into rows; what can't be read goes to ``quarantine.jsonl`` with its line, field and reason.

    Raises:
        BadInputError: The source can't be read, holds no row, or more of its rows are broken than the settings allow.
    """
    examples: list[tuple[int, Example]] = []
    problems: list[RowProblem] = []
    for line, outcome in readers.read(source):
        if isinstance(outcome, RowProblem):
            problems.append(outcome)
        else:
            examples.append((line, outcome))
    _check_share(source, len(examples), problems, settings.max_broken_share)
    workfolder.make(workdir)
    workfolder.write_text(
        workdir / "quarantine.jsonl", "".join(f"{problem.model_dump_json()}\n" for problem in problems)
    )
    workfolder.write_rows(workdir, "ingest", _frame(source, examples))
    file = Source(path=str(source), sha256=readers.sha256(source), size=source.stat().st_size)
    return workfolder.finish(
        workdir,
        StageResult(
            stage="ingest",
            rows_in=len(examples) + len(problems),
            rows_kept=len(examples),
            quarantined=len(problems),
            details={
                "source": file.model_dump(),
                "problems": [problem.model_dump() for problem in problems[:_PROBLEMS_SHOWN]],
            },
        ),
    )


def _check_share(source: Path, good: int, problems: Sequence[RowProblem], allowed: float) -> None:
    total = good + len(problems)
    if total == 0:
        raise BadInputError("The source holds no rows", [Problem(str(source), "0 rows", "at least one row")])
    if good and len(problems) <= allowed * total:
        return
    shown = [
        Problem(
            f"{source}, line {problem.line}" + (f", {problem.field}" if problem.field else ""),
            problem.reason,
            "a usable row",
        )
        for problem in problems[:_PROBLEMS_SHOWN]
    ]
    summary = f"{len(problems)} of {total} rows can't be used, more than the {allowed:.0%} allowed; the first of them:"
    raise BadInputError(summary, shown)


def _frame(source: Path, examples: Sequence[tuple[int, Example]]) -> pl.DataFrame:
    import polars as pl

    message = pl.Struct({"role": pl.String, "content": pl.String})
    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        "row": pl.Int64,
        "line": pl.Int64,
        "messages": pl.List(message),
        "category": pl.String,
        "source": pl.String,
        "declared": pl.String,
    }
    rows = [
        (
            number,
            line,
            [turn.model_dump() for turn in example.messages],
            example.metadata.category,
            example.metadata.source or source.name,
            example.metadata.split,
        )
        for number, (line, example) in enumerate(examples)
    ]
    return pl.DataFrame(rows, schema=schema, orient="row")


def mask_personal_data(workdir: Path, settings: GateSettings) -> StageResult:
    """Mask personal data in all messages, categories and sources, or drop or only report the rows that hold it."""
    import polars as pl

    rows = workfolder.read_rows(workdir, "ingest")
    counts: Counter[str] = Counter()
    samples: dict[str, list[dict[str, Any]]] = {}
    touched: list[bool] = []
    cleaned: list[dict[str, Any]] = []
    for row in rows.iter_rows(named=True):
        clean, found = _masked_row(row, settings)
        cleaned.append(clean)
        touched.append(bool(found))
        counts.update(found)
        for kind in found:
            if len(samples.setdefault(kind, [])) < _SAMPLES:
                samples[kind].append({"line": row["line"], "excerpt": _excerpt(clean, kind)})
    masked = pl.DataFrame(cleaned, schema=rows.schema)
    kept = {"mask": masked, "drop": rows.filter(pl.Series(touched, dtype=pl.Boolean).not_()), "report": rows}[
        settings.personal_data
    ]
    dropped = {"personal_data": rows.height - kept.height} if kept.height < rows.height else {}
    found_counts = dict(sorted(counts.items()))
    workfolder.write_rows(workdir, "personal_data", kept)
    return workfolder.finish(
        workdir,
        StageResult(
            stage="personal_data",
            rows_in=rows.height,
            rows_kept=kept.height,
            dropped=dropped,
            masked=found_counts if settings.personal_data == "mask" else {},
            details={"found": found_counts, "rows_with_personal_data": sum(touched), "samples": samples},
        ),
    )


def _masked_row(row: dict[str, Any], settings: GateSettings) -> tuple[dict[str, Any], Counter[str]]:
    found: Counter[str] = Counter()

    def clean(text: str | None) -> str | None:
        if text is None:
            return None
        masked = pii.mask(text, settings.personal_data_kinds, settings.personal_data_allowed)
        found.update(masked.counts)
        return masked.text

    messages = [{"role": turn["role"], "content": clean(turn["content"])} for turn in row["messages"]]
    return {**row, "messages": messages, "category": clean(row["category"]), "source": clean(row["source"])}, found


def _excerpt(row: dict[str, Any], kind: str) -> str:
    texts = [turn["content"] for turn in row["messages"]]
    excerpts = (pii.excerpt(text, one) for one in pii.KINDS if one == kind for text in texts)
    return next((excerpt for excerpt in excerpts if excerpt), "")


def drop_duplicates(workdir: Path, settings: GateSettings) -> StageResult:
    """Drop exact and near duplicates, the best row of each group kept; mark every row's near-duplicate cluster.

    Where the rows declare their parts, the row of the most held-out part is kept before one of better quality, so that
    a test set loses no row to training.
    """
    import polars as pl

    rows = workfolder.read_rows(workdir, "personal_data")
    questions, answers = _sides(rows)
    asked, answered = ["\n".join(turns) for turns in questions], ["\n".join(turns) for turns in answers]
    held_out = (
        [SPLITS.index(part) for part in rows["declared"]] if _declares_parts(rows, settings) else [0] * rows.height
    )
    scores = [quality.score(*sides)[0] for sides in zip(questions, answers, strict=True)]
    ranks = list(zip(held_out, scores, strict=True))
    found = dedup.find_duplicates(asked, answered, ranks, settings.duplicate_threshold)
    numbers = rows["row"].to_list()
    rows = rows.with_columns(pl.Series("cluster", [numbers[first] for first in found.cluster], dtype=pl.Int64))
    repeated = {one.row for one in found.duplicates} if settings.duplicates == "drop" else set()
    kept = rows.filter(pl.Series([row not in repeated for row in range(rows.height)], dtype=pl.Boolean))
    counts = Counter("exact_duplicate" if one.exact else "near_duplicate" for one in found.duplicates)
    workfolder.write_rows(workdir, "duplicates", kept)
    return workfolder.finish(
        workdir,
        StageResult(
            stage="duplicates",
            rows_in=rows.height,
            rows_kept=kept.height,
            dropped=dict(counts) if settings.duplicates == "drop" else {},
            details={"found": dict(counts), **_duplicate_details(found, rows["line"].to_list(), asked, settings)},
        ),
    )


def _duplicate_details(
    found: dedup.Duplicates, lines: Sequence[int], asked: Sequence[str], settings: GateSettings
) -> dict[str, Any]:
    sizes = Counter(found.cluster)
    near = [one for one in found.duplicates if not one.exact] or found.duplicates
    return {
        "clusters": sum(size > 1 for size in sizes.values()),
        "largest_cluster": max(sizes.values(), default=0),
        "conflicting_questions": len(found.conflicts),
        "samples": [
            {
                "line": lines[one.row],
                "kept_line": lines[one.kept],
                "jaccard": round(one.jaccard, 3),
                "text": _preview(asked[one.row], settings),
                "kept_text": _preview(asked[one.kept], settings),
            }
            for one in near[:_SAMPLES]
        ],
        "conflicts": [
            {"lines": [lines[row] for row in group[:_SAMPLES]], "text": _preview(asked[group[0]], settings)}
            for group in found.conflicts[:_SAMPLES]
        ],
    }


def score_quality(workdir: Path, settings: GateSettings) -> StageResult:
    """Score quality and toxicity of every row, and drop or only report the rows beyond the thresholds."""
    import polars as pl

    rows = workfolder.read_rows(workdir, "duplicates")
    questions, answers = _sides(rows)
    scored = [quality.score(*sides) for sides in zip(questions, answers, strict=True)]
    toxic = [toxicity.worst([*asked, *given]) for asked, given in zip(questions, answers, strict=True)]
    reasons = [
        "toxic" if poison >= settings.max_toxicity else "low_quality" if score < settings.min_quality else None
        for (score, _), poison in zip(scored, toxic, strict=True)
    ]
    modes = {"toxic": settings.toxicity, "low_quality": settings.quality}
    keeps = [reason is None or modes[reason] == "report" for reason in reasons]
    rows = rows.with_columns(
        pl.Series("quality_score", [score for score, _ in scored], dtype=pl.Float64),
        pl.Series("toxicity", toxic, dtype=pl.Float64),
    )
    kept = rows.filter(pl.Series(keeps, dtype=pl.Boolean))
    workfolder.write_rows(workdir, "quality", kept)
    return workfolder.finish(
        workdir,
        StageResult(
            stage="quality",
            rows_in=rows.height,
            rows_kept=kept.height,
            dropped=dict(Counter(str(reason) for reason, keep in zip(reasons, keeps, strict=True) if not keep)),
            details={
                "found": dict(Counter(reason for reason in reasons if reason)),
                "histogram": statistics.histogram(rows["quality_score"]),
                "parts": _mean_parts([parts for _, parts in scored]),
                "samples": _quality_samples(rows, reasons, scored, settings),
            },
        ),
    )


def _mean_parts(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: round(sum(one[name] for one in parts) / len(parts), 3) for name in quality.WEIGHTS} if parts else {}


def _quality_samples(
    rows: pl.DataFrame,
    reasons: Sequence[str | None],
    scored: Sequence[tuple[float, dict[str, float]]],
    settings: GateSettings,
) -> list[dict[str, Any]]:
    samples: dict[str, list[dict[str, Any]]] = {}
    for row, reason, (score, parts) in zip(rows.iter_rows(named=True), reasons, scored, strict=True):
        if reason is None or len(samples.setdefault(reason, [])) >= _SAMPLES:
            continue
        sample = {"line": row["line"], "reason": reason, "quality": score, "toxicity": row["toxicity"]}
        if reason == "low_quality":
            weak = {name: value for name, value in parts.items() if value < 1}
            text = next(turn["content"] for turn in row["messages"] if turn["role"] == "user")
            sample |= {"parts": weak, "text": _preview(text, settings)}
        samples[reason].append(sample)
    return [sample for group in samples.values() for sample in group]


def split_rows(workdir: Path, settings: GateSettings) -> StageResult:
    """Give every row its part, and drop the rows that would leak from training into validation or test.

    The parts that the rows declare are taken if every row declares one and the settings honour them; else the rows are
    split anew, stratified by category, a near-duplicate cluster never cut.
    """
    import polars as pl

    rows = workfolder.read_rows(workdir, "quality")
    rows = rows.with_columns(
        pl.Series("id", _ids(rows), dtype=pl.String), pl.Series("part", _plan(rows, settings), dtype=pl.String)
    )
    kept = rows.filter(pl.col("part").is_not_null())
    leaks = rows.height - kept.height
    workfolder.write_rows(workdir, "split", kept)
    return workfolder.finish(
        workdir,
        StageResult(
            stage="split",
            rows_in=rows.height,
            rows_kept=kept.height,
            dropped={"leak": leaks} if leaks else {},
            details={
                "splits": {part: frame.height for part, frame in _parts(kept).items()},
                "declared": _declares_parts(rows, settings),
            },
        ),
    )


def _plan(rows: pl.DataFrame, settings: GateSettings) -> Sequence[Split | None]:
    if _declares_parts(rows, settings):
        return split.without_leaks(rows["declared"].to_list(), rows["cluster"].to_list())
    shares = split.Shares(validation=settings.validation_share, test=settings.test_share)
    return split.assign(_ids(rows), rows["cluster"].to_list(), rows["category"].to_list(), shares, settings.seed)


def _declares_parts(rows: pl.DataFrame, settings: GateSettings) -> bool:
    return settings.declared_split == "honour" and rows.height > 0 and rows["declared"].null_count() == 0


def _ids(rows: pl.DataFrame) -> list[str]:
    """An id for each row from its content; rows with the same content are told apart by a number."""
    seen: Counter[str] = Counter()
    ids = []
    for messages in rows["messages"].to_list():
        digest = hashlib.sha256(orjson.dumps(messages, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
        seen[digest] += 1
        ids.append(digest if seen[digest] == 1 else f"{digest}-{seen[digest]}")
    return ids


def _parts(rows: pl.DataFrame) -> dict[Split, pl.DataFrame]:
    import polars as pl

    return {part: rows.filter(pl.col("part") == part) for part in SPLITS}


def check_contract(workdir: Path, settings: GateSettings) -> StageResult:
    """Judge the rows that are about to be written. Judgement and Data Docs stay in the work folder, passed or not.

    Raises:
        GateRefusedError: The contract is not met; says which terms, and what was found instead.
    """
    rows = workfolder.read_rows(workdir, "split")
    ingested = workfolder.read_result(workdir, "ingest")
    measured = contract.metrics(rows, _residual(rows, settings), ingested.quarantined / ingested.rows_in)
    judgement = contract.judge(rows, measured, _terms(settings), workdir / "data_docs")
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
        max_residual_personal_data=None if settings.personal_data == "report" else 0,
    )


def _residual(rows: pl.DataFrame, settings: GateSettings) -> int:
    texts = (turn["content"] for messages in rows["messages"].to_list() for turn in messages)
    return sum(len(pii.find(text, settings.personal_data_kinds, settings.personal_data_allowed)) for text in texts)


def write_version(name: str, workdir: Path, settings: GateSettings, root: Path | None = None) -> DatasetVersion:
    """Write what has passed the contract as the next version, with the report, the judgement and the quarantine.

    Args:
        name: Name of the dataset.
        workdir: The work folder in which all steps have ended.
        settings: The same settings that they ran with.
        root: Folder of all datasets; the process's unless told.

    Returns:
        The new version, or the one there already with the same content.
    """
    results = [workfolder.read_result(workdir, stage) for stage in STAGES]
    summary = summarise(results)
    parts = _parts(workfolder.read_rows(workdir, "split"))
    return versions.write(
        name,
        parts,
        gate_settings=settings.model_dump(mode="json"),
        sources=[Source.model_validate(results[0].details["source"])],
        counts=summary,
        report={
            **summary,
            "name": name,
            "stages": [one.model_dump(mode="json") for one in results],
            "statistics": statistics.describe(parts),
        },
        attachments=[workdir / "quarantine.jsonl", workdir / "contract.json", workdir / "data_docs"],
        root=root,
    )


def prepare(
    name: str,
    source: Path,
    settings: GateSettings | None = None,
    progress: Progress | None = None,
    root: Path | None = None,
) -> DatasetVersion:
    """Take a source through all gates to a written version.

    Args:
        name: Name of the dataset.
        source: The file to read.
        settings: What the gates look for and how strict they are; the defaults unless told.
        progress: Told when each step begins and ends.
        root: Folder of all datasets; the process's unless told.

    Returns:
        The new version, or the one there already with the same content.

    Raises:
        BadInputError: The source or the name can't be used.
        GateRefusedError: The rows that are left do not meet the contract.
    """
    chosen = settings or GateSettings()
    versions.check_name(name)
    readers.check_readable(source)
    tell: Progress = progress or (lambda _stage, _result: None)
    folder = root or process_settings().datasets
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".preparing-", dir=folder) as temporary:
        workdir = Path(temporary)
        steps: tuple[tuple[Stage, Callable[[], StageResult]], ...] = (
            ("ingest", lambda: ingest(source, workdir, chosen)),
            ("personal_data", lambda: mask_personal_data(workdir, chosen)),
            ("duplicates", lambda: drop_duplicates(workdir, chosen)),
            ("quality", lambda: score_quality(workdir, chosen)),
            ("split", lambda: split_rows(workdir, chosen)),
            ("contract", lambda: check_contract(workdir, chosen)),
        )
        for stage, step in steps:
            tell(stage, None)
            tell(stage, step())
        return write_version(name, workdir, chosen, root)


def _sides(rows: pl.DataFrame) -> tuple[list[list[str]], list[list[str]]]:
    """The user's and the assistant's turns of each row."""

    def of_role(messages: Iterable[dict[str, str]], role: str) -> list[str]:
        return [turn["content"] for turn in messages if turn["role"] == role]

    chats = rows["messages"].to_list()
    return [of_role(chat, "user") for chat in chats], [of_role(chat, "assistant") for chat in chats]


def _preview(text: str, settings: GateSettings) -> str:
    """The beginning of a text for a report: masked whatever the mode, one line."""
    masked = pii.mask(text, pii.KINDS, settings.personal_data_allowed).text.replace("\n", " ")
    return masked if len(masked) <= _PREVIEW else masked[:_PREVIEW] + "…"
