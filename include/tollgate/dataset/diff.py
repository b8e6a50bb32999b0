"""What differs between two versions: rows added, removed, changed and moved, and the settings and sources behind it.

Rows are compared by what they say. The same messages are the same row; the same user turns with anything else in the
other turns are a changed row; all others are added or removed. Rows that say the same several times are matched one to
one, so that the counts add up: rows of the old version = unchanged + changed + removed, rows of the new version =
unchanged + changed + added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from tollgate.dataset.schema import SPLITS
from tollgate.gates import pii

if TYPE_CHECKING:
    import polars as pl

    from tollgate.dataset.versions import DatasetVersion, Source

_PREVIEW = 80
_BEFORE_DIFFERENCE = 20


class RowSample(BaseModel):
    """One row that stands for its kind; its texts are shortened and without personal data."""

    model_config = ConfigDict(frozen=True)

    part: str
    category: str | None
    question: str
    answer: str


class ChangedSample(BaseModel):
    """A question and its two answers; the previews begin shortly before the first difference."""

    model_config = ConfigDict(frozen=True)

    part: str
    question: str
    before: str
    after: str


class Change(BaseModel):
    """A setting, a source or a count that differs; None where one side has none."""

    model_config = ConfigDict(frozen=True)

    name: str
    before: Any = None
    after: Any = None


class Difference(BaseModel):
    """What differs between two versions."""

    model_config = ConfigDict(frozen=True)

    old: str
    new: str
    identical: bool = Field(description="Whether both hold the same rows in the same parts.")
    rows: tuple[int, int] = Field(description="Rows of the old and of the new version.")
    unchanged: int
    added: int
    removed: int
    changed: int
    moved: dict[str, int] = Field(description="Unchanged rows that changed their part, by ``train -> test``.")
    categories: list[Change] = Field(description="Categories whose number of rows differs.")
    settings: list[Change] = Field(description="Gate settings that differ.")
    sources: list[Change] = Field(description="Source files that only one of the two was made from, by SHA-256.")
    quality: tuple[float | None, float | None]
    added_samples: list[RowSample]
    removed_samples: list[RowSample]
    changed_samples: list[ChangedSample]


def compare(old: DatasetVersion, new: DatasetVersion, samples: int = 5) -> Difference:
    """Compare two versions, of the same dataset or of two.

    Args:
        old: The version to start from.
        new: The version to compare it with.
        samples: Most samples of each kind.

    Returns:
        Counts, samples, and what differs in settings and sources.
    """
    import polars as pl

    before, after = _keys(old), _keys(new)
    same = before.join(after, on=["content", "content_number"], suffix="_new")
    rest = [
        one.join(other, on=["content", "content_number"], how="anti").with_columns(_number("question"))
        for one, other in ((before, after), (after, before))
    ]
    key = ["question", "question_number"]
    changed = rest[0].join(rest[1], on=key, suffix="_new", maintain_order="left")
    removed = rest[0].join(rest[1], on=key, how="anti", maintain_order="left")
    added = rest[1].join(rest[0], on=key, how="anti", maintain_order="left")
    moved = same.filter(pl.col("part") != pl.col("part_new"))
    return Difference(
        old=old.reference,
        new=new.reference,
        identical=not (len(changed) or len(removed) or len(added) or len(moved)),
        rows=(before.height, after.height),
        unchanged=same.height,
        added=added.height,
        removed=removed.height,
        changed=changed.height,
        moved=_moves(moved),
        categories=_count_changes(before, after),
        settings=changes(old.manifest.gate_settings, new.manifest.gate_settings),
        sources=_source_changes(old.manifest.sources, new.manifest.sources),
        quality=(old.manifest.quality_score, new.manifest.quality_score),
        added_samples=_samples(new, added.head(samples)),
        removed_samples=_samples(old, removed.head(samples)),
        changed_samples=_changed_samples(old, new, changed.head(samples)),
    )


def _keys(version: DatasetVersion) -> pl.DataFrame:
    """One line a row: part, place in it, category, and 64-bit hashes of what it asks and of all it says."""
    import polars as pl

    turn = pl.element().struct
    spoken = pl.concat_str(turn.field("role"), pl.lit("\x1f"), turn.field("content"))
    asked = pl.element().filter(turn.field("role") == "user").struct.field("content")
    frames = [
        pl.scan_parquet(version.file(part))
        .select(
            pl.lit(part).alias("part"),
            pl.int_range(pl.len(), dtype=pl.Int64).alias("place"),
            "category",
            pl.col("messages").list.eval(asked).list.join("\x1e").hash(seed=1).alias("question"),
            pl.col("messages").list.eval(spoken).list.join("\x1e").hash(seed=1).alias("content"),
        )
        .collect()
        for part in SPLITS
    ]
    return pl.concat(frames).with_columns(_number("content"))


def _number(column: str) -> pl.Expr:
    """How many rows before this one have the same value: tells equal rows apart."""
    import polars as pl

    return pl.int_range(pl.len(), dtype=pl.UInt32).over(column).alias(f"{column}_number")


def _moves(moved: pl.DataFrame) -> dict[str, int]:
    import polars as pl

    counted = moved.group_by("part", "part_new").agg(pl.len()).sort("part", "part_new")
    return {f"{one} -> {other}": count for one, other, count in counted.iter_rows()}


def _count_changes(before: pl.DataFrame, after: pl.DataFrame) -> list[Change]:
    counts = [
        {str(name or ""): count for name, count in frame["category"].value_counts().rows()} for frame in (before, after)
    ]
    return [
        Change(name=name, before=counts[0].get(name, 0), after=counts[1].get(name, 0))
        for name in sorted({*counts[0], *counts[1]})
        if counts[0].get(name) != counts[1].get(name)
    ]


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Values that differ between two objects, by name; those of inner objects as ``outer.inner``."""
    one, other = dict(_flat(before)), dict(_flat(after))
    return [
        Change(name=name, before=one.get(name), after=other.get(name))
        for name in sorted({*one, *other})
        if one.get(name) != other.get(name)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _source_changes(before: Iterable[Source], after: Iterable[Source]) -> list[Change]:
    old, new = ({source.sha256: source.path for source in sources} for sources in (before, after))
    gone = [Change(name=digest, before=path) for digest, path in old.items() if digest not in new]
    return gone + [Change(name=digest, after=path) for digest, path in new.items() if digest not in old]


def _samples(version: DatasetVersion, keys: pl.DataFrame) -> list[RowSample]:
    return [
        RowSample(
            part=part,
            category=_masked(category) if category else None,
            question=preview(_side(messages, "user")),
            answer=preview(_side(messages, "assistant")),
        )
        for part, category, messages in zip(
            keys["part"], keys["category"], _messages(version, keys["part"], keys["place"]), strict=True
        )
    ]


def _changed_samples(old: DatasetVersion, new: DatasetVersion, keys: pl.DataFrame) -> list[ChangedSample]:
    before = _messages(old, keys["part"], keys["place"])
    after = _messages(new, keys["part_new"], keys["place_new"])
    samples = []
    for part, one, other in zip(keys["part_new"], before, after, strict=True):
        first, second = _masked(_others(one)), _masked(_others(other))
        start = _first_difference(first, second) - _BEFORE_DIFFERENCE
        samples.append(
            ChangedSample(
                part=part,
                question=preview(_side(one, "user")),
                before=_cut(first, start),
                after=_cut(second, start),
            )
        )
    return samples


def _messages(version: DatasetVersion, parts: pl.Series, places: pl.Series) -> list[list[dict[str, str]]]:
    import polars as pl

    wanted = list(zip(parts, places, strict=True))
    found: dict[tuple[str, int], list[dict[str, str]]] = {}
    for part in SPLITS:
        rows = sorted(place for one, place in wanted if one == part)
        if rows:
            frame = pl.scan_parquet(version.file(part), row_index_name="place").select("place", "messages")
            found |= {
                (part, place): value for place, value in frame.filter(pl.col("place").is_in(rows)).collect().rows()
            }
    return [found[key] for key in wanted]


def _side(messages: Iterable[Mapping[str, str]], role: str) -> str:
    return " / ".join(turn["content"] for turn in messages if turn["role"] == role)


def _others(messages: Iterable[Mapping[str, str]]) -> str:
    """All but the user's turns; the system's first words count as well as the answers."""
    return " / ".join(turn["content"] for turn in messages if turn["role"] != "user")


def _first_difference(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))


def preview(text: str) -> str:
    """The beginning of a text in one line, its personal data masked."""
    return _cut(_masked(text), 0)


def _masked(text: str) -> str:
    return " ".join(pii.mask(text).text.split())


def _cut(text: str, start: int) -> str:
    start = max(0, start)
    end = start + _PREVIEW
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
