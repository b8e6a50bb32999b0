"""The contract: what must hold of a dataset before it becomes a version, as a suite of Great Expectations.

Great Expectations takes 11 seconds and 2 GB for ten expectations on a million rows. So polars counts the rows that
break a term, and the suite judges one table of one row: the metrics. No text of a row is shown to it, so its Data Docs
hold none.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from tollgate.dataset.schema import SPLITS

if TYPE_CHECKING:
    import great_expectations as gx
    import polars as pl
    from great_expectations.expectations.expectation import Expectation

SHARE_OF = "category_share: "
"""The metric of a category's share is named so, then by the category."""


class Terms(BaseModel):
    """The thresholds that a contract holds a dataset to. None means that a term is not asked for."""

    model_config = ConfigDict(frozen=True)

    min_rows: int
    max_duplicate_share: float
    max_broken_share: float
    min_quality: float
    max_toxicity: float
    max_bias: float = 1.0
    max_residual_personal_data: int | None
    max_contaminated: int | None = None
    max_question_characters: int = 32_768
    max_answer_characters: int = 32_768
    min_category_shares: dict[str, float] = {}
    max_category_drift: float | None = None


class Found(BaseModel):
    """What was measured elsewhere."""

    model_config = ConfigDict(frozen=True)

    residual_personal_data: int = Field(ge=0, description="Pieces of personal data that a search still finds.")
    contaminated: int = Field(ge=0, description="Rows for training that overlap with a test set.")
    broken_share: float = Field(ge=0, le=1, description="Share of the source's rows that are in quarantine.")
    reference_categories: dict[str, int] | None = Field(
        None, description="Rows by category in the version that the mix of categories is held against."
    )


class Check(BaseModel):
    """One expectation and what became of it."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="What is expected, in words.")
    expectation: str = Field(description="Great Expectations' name of it.")
    column: str = Field(description="The metric that it is about.")
    passed: bool
    observed: str = Field(description="The metric's value.")


class Judge(Protocol):
    """Whoever can say what :func:`judge` says."""

    def __call__(self, measured: Mapping[str, float], terms: Terms, docs: Path | None = None) -> Judgement:
        """Judge a dataset."""
        ...


class Judgement(BaseModel):
    """The contract's answer: passed only if every check passed."""

    model_config = ConfigDict(frozen=True)

    passed: bool
    checks: list[Check]
    metrics: dict[str, float]


def metrics(rows: pl.DataFrame, found: Found, terms: Terms) -> dict[str, float]:
    """Measure a dataset that is about to be written.

    Args:
        rows: Rows with ``content`` (the same number for the same folded content), ``cluster``, ``category``, ``part``,
            ``takes_turns`` (whether the roles alternate as they must), ``question_characters``,
            ``answer_characters``, ``quality_score``, ``toxicity`` and ``bias``.
        found: What was measured elsewhere.
        terms: The thresholds that rows are counted by.

    Returns:
        Numbers and shares of rows by name; those named ``rows_…`` count rows that break a term.
    """
    import polars as pl

    counted = rows.select(
        pl.len().alias("rows"),
        *[(pl.col("part") == part).sum().alias(f"{part}_rows") for part in SPLITS],
        (1 - pl.col("content").n_unique() / pl.len()).fill_nan(0).alias("duplicate_share"),
        (~pl.col("takes_turns")).sum().alias("rows_out_of_turn"),
        (~pl.col("part").is_in(SPLITS)).fill_null(value=True).sum().alias("rows_without_part"),
        (pl.min_horizontal("question_characters", "answer_characters") < 1).sum().alias("rows_with_an_empty_side"),
        (pl.col("question_characters") > terms.max_question_characters).sum().alias("rows_with_long_question"),
        (pl.col("answer_characters") > terms.max_answer_characters).sum().alias("rows_with_long_answer"),
        (~pl.col("quality_score").is_between(terms.min_quality, 1)).sum().alias("rows_of_low_quality"),
        (~pl.col("toxicity").is_between(0, terms.max_toxicity)).sum().alias("rows_too_toxic"),
        (~pl.col("bias").is_between(0, terms.max_bias)).sum().alias("rows_too_biased"),
    ).row(0, named=True)
    crossing = rows.group_by("cluster").agg(pl.col("part").n_unique()).filter(pl.col("part") > 1).height
    return {
        **{name: float(value) for name, value in counted.items()},
        "clusters_across_parts": float(crossing),
        "residual_personal_data": float(found.residual_personal_data),
        "contaminated_rows": float(found.contaminated),
        "broken_share": found.broken_share,
        **_categories(rows, found, terms),
    }


def _categories(rows: pl.DataFrame, found: Found, terms: Terms) -> dict[str, float]:
    counted = rows["category"].fill_null("").value_counts(name="rows").rows()
    shares = {str(name): count / rows.height for name, count in counted}
    measured = {f"{SHARE_OF}{name}": shares.get(name, 0.0) for name in terms.min_category_shares}
    if found.reference_categories is not None:
        measured["category_drift"] = drift(shares, found.reference_categories)
    return measured


def drift(shares: Mapping[str, float], reference: Mapping[str, int]) -> float:
    """Total variation distance between two mixes of categories: the share of rows that would have to change theirs."""
    total = sum(reference.values()) or 1
    return sum(abs(shares.get(name, 0.0) - reference.get(name, 0) / total) for name in {*shares, *reference}) / 2


def judge(measured: Mapping[str, float], terms: Terms, docs: Path | None = None) -> Judgement:
    """Judge a dataset.

    Args:
        measured: What :func:`metrics` found.
        terms: The thresholds.
        docs: Folder for Great Expectations' Data Docs (replaced); none are written unless told.

    Returns:
        Every check with its outcome.
    """
    import pandas as pd

    with _quiet():
        import great_expectations as gx

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False, "metric_calculations": False}  # type: ignore[assignment]
        source = context.data_sources.add_pandas("dataset")
        batch = source.add_dataframe_asset("metrics").add_batch_definition_whole_dataframe("all")
        suite = context.suites.add(gx.ExpectationSuite(name="contract", expectations=_expectations(measured, terms)))
        definition = gx.ValidationDefinition(name="contract", data=batch, suite=suite)
        checks = _run(context, context.validation_definitions.add(definition), pd.DataFrame([measured]), docs, measured)
    return Judgement(passed=all(check.passed for check in checks), checks=checks, metrics=dict(measured))


def prepare_judge() -> None:
    """Import what :func:`judge` needs."""
    with _quiet():
        import great_expectations
        import pandas

        _between("rows", "imports the expectation", low=0)
    _ = (great_expectations, pandas)


def _expectations(measured: Mapping[str, float], terms: Terms) -> list[Expectation]:
    nothing = {
        "clusters_across_parts": "no near-duplicate cluster in several parts",
        "rows_out_of_turn": "user and assistant take turns, the assistant last",
        "rows_without_part": "every row in a part",
        "rows_with_an_empty_side": "no empty question and no empty answer",
        "rows_with_long_question": f"questions of at most {terms.max_question_characters:,} characters",
        "rows_with_long_answer": f"answers of at most {terms.max_answer_characters:,} characters",
        "rows_of_low_quality": f"quality of at least {terms.min_quality:g}",
        "rows_too_toxic": f"toxicity of at most {terms.max_toxicity:g}",
        "rows_too_biased": f"bias of at most {terms.max_bias:g}",
    }
    most: list[tuple[str, str, float | None]] = [
        ("duplicate_share", "hardly any exact duplicates", terms.max_duplicate_share),
        ("broken_share", "few broken rows in the source", terms.max_broken_share),
        *[(column, words, 0) for column, words in nothing.items()],
        ("residual_personal_data", "no personal data left", terms.max_residual_personal_data),
        ("contaminated_rows", "no training row that overlaps with a test set", terms.max_contaminated),
        ("category_drift", "categories mixed as in the version before", terms.max_category_drift),
    ]
    return [
        _between("rows", f"at least {terms.min_rows} rows", low=terms.min_rows),
        *[_between(f"{part}_rows", f"at least one row for {part}", low=1) for part in SPLITS],
        *[
            _between(column, words, high=high)
            for column, words, high in most
            if high is not None and column in measured
        ],
        *[
            _between(f"{SHARE_OF}{name}", f"at least {share:.1%} of the rows are {name}", low=share)
            for name, share in terms.min_category_shares.items()
        ],
    ]


def _between(column: str, words: str, low: float | None = None, high: float | None = None) -> Expectation:
    from great_expectations.expectations.core.expect_column_values_to_be_between import ExpectColumnValuesToBeBetween

    return ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high, meta={"words": words})


def _run(
    context: Any, definition: gx.ValidationDefinition, frame: Any, docs: Path | None, measured: Mapping[str, float]
) -> list[Check]:
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction, ValidationAction

    actions: list[ValidationAction] = []
    if docs is not None:
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


def _check(result: Any, measured: Mapping[str, float]) -> Check:
    configuration = result.expectation_config
    column = configuration.kwargs["column"]
    return Check(
        name=configuration.meta["words"],
        expectation=configuration.type,
        column=column,
        passed=bool(result.success),
        observed=f"{measured[column]:g}",
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
