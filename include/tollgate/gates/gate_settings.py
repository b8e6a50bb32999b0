"""The settings of all gates in one place, and reading them from what a user gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tollgate.dataset.layouts import DEFAULT_MAPPING, FieldMapping
from tollgate.errors import BadInputError, Problem
from tollgate.gates import pii


class GateSettings(BaseModel):
    """What the gates look for and how strict they are. The defaults are requirement 004's where it names one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fields: FieldMapping = Field(
        DEFAULT_MAPPING, description="Which columns of the source mean what, where they don't have the usual names."
    )
    max_broken_share: float = Field(
        0.1, ge=0, le=1, description="Share of the source's rows that may be broken; more, and the source is refused."
    )
    personal_data: Literal["mask", "drop", "report"] = Field(
        "mask", description="Rows with personal data: mask it, drop the row, or only report it."
    )
    personal_data_kinds: tuple[pii.Kind, ...] = Field(pii.KINDS, description="Kinds of personal data to look for.")
    personal_data_allowed: tuple[str, ...] = Field(
        (), description="Texts that are no personal data, for example the company's own telephone number."
    )
    personal_data_names: Literal["fast", "accurate", "off"] = Field(
        "fast", description="Names of persons: by the fast model, by the accurate one, or not at all."
    )
    personal_data_pseudonyms: bool = Field(
        False, description="Number the labels, so that within a dialogue the same person or number has the same one."
    )
    duplicates: Literal["drop", "report"] = Field("drop", description="Duplicates: drop them, or only report them.")
    duplicate_threshold: float = Field(
        0.8, gt=0, le=1, description="Jaccard similarity of character 5-grams from which on texts are near-duplicates."
    )
    against: tuple[str, ...] = Field(
        (), description="Earlier versions, such as name@v2: rows that repeat one of theirs count as duplicates."
    )
    quality: Literal["drop", "report"] = Field("drop", description="Rows of low quality: drop, or only report.")
    min_quality: float = Field(0.7, ge=0, le=1, description="Least quality score of a row that is kept.")
    toxicity: Literal["drop", "report"] = Field("drop", description="Toxic rows: drop, or only report.")
    toxic_from: Literal["offensive", "hate"] = Field(
        "offensive", description="What counts as toxic: offensive and hateful rows, or hateful ones only."
    )
    max_toxicity: float = Field(0.5, ge=0, le=1, description="Toxicity score from which on a row counts as toxic.")
    bias: Literal["drop", "report", "off"] = Field(
        "report", description="Rows biased against a group of people: drop, only report, or don't look for them."
    )
    max_bias: float = Field(0.5, ge=0, le=1, description="Bias score from which on a row counts as biased.")
    contamination: Literal["drop", "report"] = Field(
        "drop", description="Training rows that overlap with a test set: drop, or only report."
    )
    contamination_tests: tuple[str, ...] = Field(
        (), description="Files of the test sets that training rows must not overlap with."
    )
    min_rows: int = Field(10, ge=3, description="Fewest rows that make a dataset.")
    max_duplicate_share: float = Field(0.0, ge=0, le=1, description="Share of exact duplicates that may remain.")
    max_question_characters: int = Field(32_768, ge=1, description="Most characters of a row's user turns together.")
    max_answer_characters: int = Field(32_768, ge=1, description="Most characters of a row's answers together.")
    min_category_shares: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        {}, description="Least share of the rows that categories must have, by name."
    )
    category_reference: str | None = Field(
        None, description="Version, such as name@v2, from whose mix of categories the rows may not drift."
    )
    max_category_drift: float = Field(
        0.2, ge=0, le=1, description="Share of the rows that may be of other categories than in that version."
    )
    validation_share: float = Field(0.1, gt=0, lt=0.5, description="Share of the rows for validation.")
    test_share: float = Field(0.1, gt=0, lt=0.5, description="Share of the rows for the test.")
    declared_split: Literal["honour", "ignore"] = Field(
        "honour", description="If every row declares its part (metadata.split): take it, or split anew all the same."
    )
    seed: int = Field(0, ge=0, description="Seed of the split.")

    def personal_data_settings(self) -> pii.PersonalDataSettings:
        """What the search for personal data needs to know."""
        return pii.PersonalDataSettings(
            kinds=self.personal_data_kinds,
            allow=self.personal_data_allowed,
            names=self.personal_data_names,
            pseudonyms=self.personal_data_pseudonyms,
        )


def read_settings(values: Mapping[str, Any]) -> GateSettings:
    """Make settings of JSON values; what is not named keeps its default.

    Raises:
        BadInputError: A name is unknown or a value out of its limits; says which, and what was expected.
    """
    try:
        return GateSettings.model_validate(values)
    except ValidationError as error:
        known = ", ".join(GateSettings.model_fields)
        problems = [
            Problem(
                ".".join(map(str, one["loc"])),
                repr(one["input"])[:80],
                f"one of {known}" if one["type"] == "extra_forbidden" else one["msg"],
            )
            for one in error.errors()
        ]
        raise BadInputError("The gate settings are wrong", problems) from error
