"""Versions of a dataset: immutable folders ``<root>/<name>/v<number>``, addressed by their content.

A version is written to a temporary folder beside its place and renamed, so it is there as a whole or not at all. The
content hash covers rows, gate settings and the sources' hashes: preparing the same again gives the version that is
there already.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tollgate import __version__
from tollgate.dataset import lifecycle
from tollgate.dataset.locks import locked, sync
from tollgate.dataset.report import REPORT_PAGE, render
from tollgate.dataset.schema import SPLITS, Split
from tollgate.errors import BadInputError, Problem
from tollgate.gates.text_buffers import buffers, text_column
from tollgate.settings import settings as process_settings

if TYPE_CHECKING:
    import polars as pl

COLUMNS = ("id", "messages", "category", "source", "quality_score", "cluster")
"""Columns of ``train.parquet``, ``validation.parquet`` and ``test.parquet``."""

_HASHED_ROWS = 65_536  # at a time; part of the content hash's definition
_WRITTEN_ROWS = 65_536  # of a row group

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_FOLDER = re.compile(r"v([1-9]\d*)")
_REFERENCE = re.compile(
    r"(?P<name>[^@]+)@(?:v(?P<number>[1-9]\d*)|(?P<latest>latest)|(?P<tag>(?!v\d)[a-z0-9][a-z0-9._-]{0,49}))"
)


class Source(BaseModel):
    """A file that a version was made from."""

    model_config = ConfigDict(frozen=True)

    path: str = Field(description="Where the file was when it was read.")
    sha256: str = Field(description="SHA-256 of its bytes, in hexadecimal.")
    size: int = Field(ge=0, description="Its size in bytes.")


class Manifest(BaseModel):
    """What a version is and where it comes from."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: int = Field(ge=1)
    content_hash: str = Field(description="SHA-256 over rows, gate settings and the sources' hashes, in hexadecimal.")
    parent: str | None = Field(None, description="The version before this one, as ``name@v<number>``.")
    sources: list[Source]
    gate_settings: dict[str, Any] = Field(description="The settings that every gate ran with.")
    counts: dict[str, Any] = Field(description="Rows in, dropped by reason, masked by kind, and rows of each part.")
    quality_score: float | None = Field(None, description="Mean quality of the kept rows, 0 to 1.")
    code_version: str = Field(description="Version of Tollgate that made it.")
    created_at: dt.datetime = Field(description="When it was written, in UTC.")


class DatasetVersion(BaseModel):
    """A version of a dataset on disk."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    manifest: Manifest
    created: bool = Field(False, description="Whether this call wrote it; False where it was there already.")

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.manifest.name

    @property
    def number(self) -> int:
        """Number of the version, from 1."""
        return self.manifest.version

    @property
    def reference(self) -> str:
        """The version as text: ``name@v<number>``."""
        return f"{self.name}@v{self.number}"

    @property
    def rows(self) -> dict[Split, int]:
        """Number of rows of each part."""
        return {part: int(self.manifest.counts["splits"][part]) for part in SPLITS}

    def file(self, part: Split) -> Path:
        """The Parquet file of one part."""
        return self.folder / f"{part}.parquet"

    def read(self, part: Split) -> pl.DataFrame:
        """The rows of one part, with the columns in :data:`COLUMNS`."""
        import polars as pl

        return pl.read_parquet(self.file(part))

    def report(self) -> dict[str, Any]:
        """What every gate found and took, as written beside the data."""
        return orjson.loads((self.folder / "report.json").read_bytes())


@dataclass(frozen=True)
class Draft:
    """Rows that are about to become a version.

    Attributes:
        content_hash: What :func:`content_hash` says of them.
        files: The rows of each part as a Parquet file, which the version takes over.
    """

    content_hash: str
    files: Mapping[Split, Path]


def draft(
    parts: Mapping[Split, pl.DataFrame], gate_settings: Mapping[str, Any], sources: Sequence[Source], folder: Path
) -> Draft:
    """Do what takes long in :func:`write` beforehand, while something else is decided.

    Args:
        parts: As in :func:`write`, like the next two.
        gate_settings: Settings of the gates.
        sources: The files that the rows come from.
        folder: Where to put the files, on the disk of the datasets.
    """
    return Draft(content_hash(parts, gate_settings, sources), _write_rows(parts, folder))


def _write_rows(parts: Mapping[Split, pl.DataFrame], folder: Path) -> dict[Split, Path]:
    files = {part: folder / f"{part}.parquet" for part in SPLITS}
    for part, path in files.items():
        _write_parquet(parts[part].select(COLUMNS), path)
    return files


def _write_parquet(rows: pl.DataFrame, path: Path) -> None:
    """Write rows block by block, a row group each: polars takes six times the memory for a frame as a whole."""
    import polars as pl

    starts = range(0, max(rows.height, 1), _WRITTEN_ROWS)
    blocks = [rows[start : start + _WRITTEN_ROWS].lazy() for start in starts]
    pl.concat(blocks).sink_parquet(path, compression_level=1, row_group_size=_WRITTEN_ROWS)


def content_hash(
    parts: Mapping[Split, pl.DataFrame], gate_settings: Mapping[str, Any], sources: Sequence[Source]
) -> str:
    """SHA-256 over rows (in order), gate settings and the sources' hashes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    head = {"settings": gate_settings, "sources": sorted(source.sha256 for source in sources)}
    digest.update(orjson.dumps(head, option=orjson.OPT_SORT_KEYS))
    for part in SPLITS:
        digest.update(orjson.dumps([part, parts[part].height]))
        for column in _flat_columns(parts[part]):
            _add_texts(digest, column)
    return digest.hexdigest()


def _flat_columns(rows: pl.DataFrame) -> Iterator[pl.Series]:
    """What a version's rows say, as columns of text; how many turns a row has comes before its turns."""
    import polars as pl

    yield from (rows["id"], rows["category"], rows["source"])
    yield rows["messages"].list.len().cast(pl.String)
    turns = rows["messages"].explode().struct
    yield from (turns.field("role"), turns.field("content"))


def _add_texts(digest: hashlib._Hash, column: pl.Series) -> None:
    """Add the length in bytes of each text (nothing has -1) and all bytes, block by block, however they are stored."""
    import polars as pl

    for start in range(0, len(column), _HASHED_ROWS):
        block = column[start : start + _HASHED_ROWS].cast(pl.String)
        lengths = block.str.len_bytes().cast(pl.Int64).fill_null(-1)
        digest.update(lengths.to_numpy().astype("<i8").tobytes())
        offsets, data = buffers(text_column(block.to_arrow()))
        digest.update(data[offsets[0] : offsets[-1]].data)


def write(
    name: str,
    parts: Mapping[Split, pl.DataFrame],
    *,
    gate_settings: Mapping[str, Any],
    sources: Sequence[Source],
    counts: Mapping[str, Any],
    report: Mapping[str, Any],
    attachments: Sequence[Path] = (),
    root: Path | None = None,
    drafted: Draft | None = None,
) -> DatasetVersion:
    """Write the next version of a dataset, or find the one with the same content.

    Args:
        name: Name of the dataset: small letters, digits, ``.``, ``_`` and ``-``.
        parts: Rows of train, validation and test, with the columns in :data:`COLUMNS`.
        gate_settings: Settings of the gates, as JSON values.
        sources: The files that the rows come from.
        counts: Rows in, dropped, masked; the rows of each part are added as ``splits``.
        report: What goes into ``report.json``, together with the manifest as ``version``, and is shown as a page.
        attachments: Files and folders to keep with the version.
        root: Folder of all datasets; the settings' unless told.
        drafted: What :func:`draft` made of the same rows, settings and sources, if it was called already.

    Raises:
        BadInputError: The name can't be a folder's.
    """
    check_name(name)
    folder = (root or process_settings().datasets) / name
    folder.mkdir(parents=True, exist_ok=True)
    digest = drafted.content_hash if drafted else content_hash(parts, gate_settings, sources)
    with locked(folder):
        existing = list_versions(name, root)
        for version in existing:
            if version.manifest.content_hash == digest:
                return version
        manifest = Manifest(
            name=name,
            version=existing[-1].number + 1 if existing else 1,
            content_hash=digest,
            parent=existing[-1].reference if existing else None,
            sources=list(sources),
            gate_settings=dict(gate_settings),
            counts={**counts, "splits": {part: parts[part].height for part in SPLITS}},
            quality_score=_mean_quality(parts),
            code_version=__version__,
            created_at=dt.datetime.now(dt.UTC),
        )
        whole = {**report, "version": manifest.model_dump(mode="json")}
        with tempfile.TemporaryDirectory(prefix=".report-", dir=folder) as scratch:
            page = Path(scratch) / REPORT_PAGE
            page.write_text(render(whole), encoding="utf-8")
            files = drafted.files if drafted else _write_rows(parts, Path(scratch))
            return _place(folder, manifest, [*files.values(), page], attachments, whole)


def _mean_quality(parts: Mapping[Split, pl.DataFrame]) -> float | None:
    import polars as pl

    scores = pl.concat([parts[part]["quality_score"] for part in SPLITS])
    return round(float(scores.sum()) / len(scores), 4) if len(scores) else None


def _place(
    folder: Path,
    manifest: Manifest,
    files: Sequence[Path],
    attachments: Sequence[Path],
    report: Mapping[str, Any],
) -> DatasetVersion:
    """Put a version together and in its place: files are moved there, attachments copied."""
    temporary = folder / ".writing"  # one writer at a time holds the lock: what is there was left by a killed one
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for path in files:
        shutil.move(path, temporary / path.name)
    for path in attachments:
        copy = shutil.copytree if path.is_dir() else shutil.copyfile
        copy(path, temporary / path.name)
    (temporary / "report.json").write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    (temporary / "manifest.json").write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
    for path in (*temporary.iterdir(), temporary):
        sync(path)
    target = folder / f"v{manifest.version}"
    temporary.rename(target)
    sync(folder)
    return DatasetVersion(folder=target, manifest=manifest, created=True)


def check_name(name: str) -> None:
    """Refuse a name that can't be a folder's.

    Raises:
        BadInputError: With the name and what a name may be.
    """
    if not _NAME.fullmatch(name):
        expected = "1-100 small letters, digits, '.', '_', '-', beginning with a letter or digit"
        raise BadInputError("The dataset's name can't be used", [Problem("name", repr(name[:120]), expected)])


def list_names(root: Path | None = None) -> list[str]:
    """Names of all datasets that have a version, in alphabetical order."""
    folder = root or process_settings().datasets
    if not folder.is_dir():
        return []
    return sorted(
        path.name for path in folder.iterdir() if _NAME.fullmatch(path.name) and list_versions(path.name, root)
    )


def list_versions(name: str, root: Path | None = None) -> list[DatasetVersion]:
    """All versions of a dataset, the oldest first; none where there is no such dataset."""
    check_name(name)
    folder = (root or process_settings().datasets) / name
    if not folder.is_dir():
        return []
    numbers = sorted(int(match[1]) for path in folder.iterdir() if (match := _FOLDER.fullmatch(path.name)))
    return [_read(folder / f"v{number}") for number in numbers]


def _read(folder: Path) -> DatasetVersion:
    path = folder / "manifest.json"
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadInputError(
            "A version's manifest can't be read", [Problem(str(path), type(error).__name__, "a manifest")]
        ) from error
    return DatasetVersion(folder=folder, manifest=manifest)


def resolve(reference: str, root: Path | None = None) -> DatasetVersion:
    """Find the version that a reference names: ``name@v<number>``, ``name@<tag>``, or ``name@latest``.

    The latest is the newest version that is neither deprecated nor archived.

    Raises:
        BadInputError: The reference is malformed, or there is no such version; says which ones there are.
    """
    match = _REFERENCE.fullmatch(reference)
    if not match:
        problem = Problem("dataset", repr(reference[:120]), "name@v3, name@tag or name@latest")
        raise BadInputError("No reference to a dataset", [problem])
    versions = list_versions(match["name"], root)
    if not versions:
        known = ", ".join(list_names(root)) or "none yet"
        raise BadInputError("There is no such dataset", [Problem("dataset", repr(match["name"]), f"one of: {known}")])
    if match["latest"]:
        return _latest(match["name"], versions)
    tags = lifecycle.read(versions[0].folder.parent).tags()
    number = int(match["number"]) if match["number"] else tags.get(match["tag"])
    for version in versions:
        if version.number == number:
            return version
    known = ", ".join([*(version.reference for version in versions), *(f"{match['name']}@{tag}" for tag in tags)])
    raise BadInputError("There is no such version", [Problem("dataset", reference, f"one of: {known}")])


def _latest(name: str, versions: Sequence[DatasetVersion]) -> DatasetVersion:
    newest = lifecycle.newest_active(versions)
    if newest is None:
        problem = Problem("dataset", f"{name}@latest", "a version that is neither deprecated nor archived")
        raise BadInputError("No version of the dataset is active", [problem])
    return newest
