"""The contract: what must hold of a dataset before it becomes a version, as a suite of Great Expectations.

Great Expectations is slow on many rows, so polars computes the metrics, and the suite judges a table of one row of
them and cheap columns of the rows (the order of roles, lengths, scores). No text of a row is shown to it, so its Data
Docs hold none.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from tollgate.dataset.schema import SPLITS
from tollgate.dataset.statistics import characters_of
from tollgate.gates.dedup import fold

if TYPE_CHECKING:
    import great_expectations as gx
    import polars as pl
    from great_expectations.expectations.expectation import Expectation

_ROLES = "^s?(ua)+$"


class Terms(BaseModel):
    """The thresholds that a contract holds a dataset to."""

    model_config = ConfigDict(frozen=True)

    min_rows: int
    max_duplicate_share: float
    max_broken_share: float
    min_quality: float
    max_toxicity: float
    max_residual_personal_data: int | None


class Check(BaseModel):
    """One expectation and what became of it."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="What is expected, in words.")
    expectation: str = Field(description="Great Expectations' name of it.")
    column: str
    passed: bool
    observed: str = Field(description="The value of a metric, or how many rows broke the expectation.")


class Judgement(BaseModel):
    """The contract's answer: passed only if every check passed."""

    model_config = ConfigDict(frozen=True)

    passed: bool
    checks: list[Check]
    metrics: dict[str, float]


def metrics(rows: pl.DataFrame, residual_personal_data: int, broken_share: float) -> dict[str, float]:
    """Measure a dataset that is about to be written.

    Args:
        rows: Rows with ``messages``, ``cluster`` and ``part`` (train, validation or test).
        residual_personal_data: Pieces of personal data that a search of the rows still finds.
        broken_share: Share of the source's rows (0 to 1) that are in quarantine.

    Returns:
        Rows in all and by part, share of exact duplicates, clusters that stand in several parts, and the two given.
    """
    import polars as pl

    contents = [hashlib.sha256("\x00".join(map(fold, row)).encode()).digest() for row in _contents(rows)]
    crossing = rows.group_by("cluster").agg(pl.col("part").n_unique()).filter(pl.col("part") > 1).height
    by_part = {f"{part}_rows": float(rows.filter(pl.col("part") == part).height) for part in SPLITS}
    return {
        "rows": float(rows.height),
        **by_part,
        "duplicate_share": 1 - len(set(contents)) / len(contents) if contents else 0.0,
        "clusters_across_parts": float(crossing),
        "residual_personal_data": float(residual_personal_data),
        "broken_share": broken_share,
    }


def _contents(rows: pl.DataFrame) -> list[list[str]]:
    return [
        [turn["content"] for turn in messages if turn["role"] != "system"] for messages in rows["messages"].to_list()
    ]


def judge(rows: pl.DataFrame, measured: dict[str, float], terms: Terms, docs: Path | None = None) -> Judgement:
    """Judge a dataset.

    Args:
        rows: Rows with ``messages``, ``quality_score``, ``toxicity`` and ``part``.
        measured: What :func:`metrics` found.
        terms: The thresholds.
        docs: Folder for Great Expectations' Data Docs (replaced); none are written unless told.

    Returns:
        Every check with its outcome.
    """
    import pandas as pd

    columns = _row_columns(rows)
    with _quiet():
        import great_expectations as gx

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False, "metric_calculations": False}  # type: ignore[assignment]
        source = context.data_sources.add_pandas("dataset")
        checks: list[Check] = []
        frames = {"metrics": pd.DataFrame([measured]), "rows": pd.DataFrame(columns.to_dict(as_series=False))}
        for name, frame in frames.items():
            expectations = _metric_expectations(terms) if name == "metrics" else _row_expectations(terms)
            batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
            suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
            definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
            checks += _run(context, context.validation_definitions.add(definition), frame, docs, measured)
    return Judgement(passed=all(check.passed for check in checks), checks=checks, metrics=measured)


def _row_columns(rows: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    initials = pl.element().struct.field("role").str.slice(0, 1)
    return rows.select(
        pl.col("messages").list.eval(initials).list.join("").alias("roles"),
        characters_of("user").alias("question_characters"),
        characters_of("assistant").alias("answer_characters"),
        "quality_score",
        "toxicity",
        "part",
    )


def _between(column: str, words: str, low: float | None = None, high: float | None = None) -> Expectation:
    from great_expectations.expectations.core.expect_column_values_to_be_between import ExpectColumnValuesToBeBetween

    return ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high, meta={"words": words})


def _metric_expectations(terms: Terms) -> list[Expectation]:
    expected = [
        _between("rows", f"at least {terms.min_rows} rows", low=terms.min_rows),
        *[_between(f"{part}_rows", f"at least one row for {part}", low=1) for part in SPLITS],
        _between("duplicate_share", "hardly any exact duplicates", high=terms.max_duplicate_share),
        _between("clusters_across_parts", "no near-duplicate cluster in several parts", high=0),
        _between("broken_share", "few broken rows in the source", high=terms.max_broken_share),
    ]
    if terms.max_residual_personal_data is not None:
        words = "no personal data left"
        expected.append(_between("residual_personal_data", words, high=terms.max_residual_personal_data))
    return expected


def _row_expectations(terms: Terms) -> list[Expectation]:
    from great_expectations.expectations.core.expect_column_values_to_be_in_set import ExpectColumnValuesToBeInSet
    from great_expectations.expectations.core.expect_column_values_to_match_regex import ExpectColumnValuesToMatchRegex

    turns = "user and assistant take turns, the assistant last"
    return [
        ExpectColumnValuesToMatchRegex(column="roles", regex=_ROLES, meta={"words": turns}),
        ExpectColumnValuesToBeInSet(column="part", value_set=list(SPLITS), meta={"words": "every row in a part"}),
        _between("question_characters", "no empty question", low=1),
        _between("answer_characters", "no empty answer", low=1),
        _between("quality_score", f"quality of at least {terms.min_quality}", low=terms.min_quality, high=1),
        _between("toxicity", f"toxicity of at most {terms.max_toxicity}", low=0, high=terms.max_toxicity),
    ]


def _run(
    context: Any, definition: gx.ValidationDefinition, frame: Any, docs: Path | None, measured: dict[str, float]
) -> list[Check]:
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction, ValidationAction

    actions: list[ValidationAction] = []
    if docs is not None:
        if definition.name == "metrics":
            shutil.rmtree(docs, ignore_errors=True)
            context.add_data_docs_site("local", _docs_site(docs))
        actions = [UpdateDataDocsAction(name="docs", site_names=["local"])]
    checkpoint = gx.Checkpoint(name=definition.name, validation_definitions=[definition], actions=actions)
    result = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": frame})
    (validation,) = result.run_results.values()
    return [_check(one, measured) for one in validation.results]


def _docs_site(folder: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
    }


def _check(result: Any, measured: dict[str, float]) -> Check:
    configuration = result.expectation_config
    column = configuration.kwargs["column"]
    if column in measured:
        observed = f"{measured[column]:g}"
    else:
        observed = (
            f"{result.result.get('unexpected_count', 'all')} of {result.result.get('element_count', 0)} rows break it"
        )
    return Check(
        name=configuration.meta["words"],
        expectation=configuration.type,
        column=column,
        passed=bool(result.success),
        observed=observed,
    )


@contextmanager
def _quiet() -> Generator[None]:
    """Keep Great Expectations from reporting its use to its maker, and from filling the log of a task."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    logger = logging.getLogger("great_expectations")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def failures(judgement: Judgement) -> Sequence[str]:
    """What was not met, a line each, for the error that ends the task."""
    return [f"{check.name}: {check.observed} ({check.column})" for check in judgement.checks if not check.passed]
