"""The example: one chat with its metadata, as one object or as a row of an Arrow batch.

Every layout that people keep training data in becomes this; everything after the readers sees only this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import pyarrow as pa

    ROW_SCHEMA: pa.Schema

Role = Literal["system", "user", "assistant"]
Split = Literal["train", "validation", "test"]
ROLES: tuple[str, ...] = get_args(Role)
SPLITS: tuple[Split, ...] = get_args(Split)


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(frozen=True)

    role: Role
    content: str


class Metadata(BaseModel):
    """Where a chat comes from and what it is about."""

    model_config = ConfigDict(frozen=True)

    source: str | None = Field(None, description="Document, system or file that the chat comes from.")
    category: str | None = Field(None, description="Subject that the split is stratified by.")
    split: Split | None = Field(None, description="Part of the dataset that the row declares it belongs to.")


class Example(BaseModel):
    """One chat: an optional system message, then user and assistant in turn, ending with the assistant."""

    model_config = ConfigDict(frozen=True)

    messages: tuple[Message, ...]
    metadata: Metadata = Metadata()


class RowProblem(BaseModel):
    """Why one row of a source can't be used. Holds nothing of the row's text."""

    model_config = ConfigDict(frozen=True)

    line: int = Field(
        ge=1,
        description="Line of the file where the row begins; the number of the row in Parquet and in an array that "
        "stands on one line.",
    )
    field: str = Field(description="Field of the row, for example ``messages[1].role``; empty for the whole row.")
    reason: str = Field(description="What was found and what was expected.")


def __getattr__(name: str) -> Any:
    """``ROW_SCHEMA``, made when first asked for: pyarrow takes half a second to import.

    Columns: ``line`` int64 (as in :class:`RowProblem`), ``messages`` (role and content), ``category``, ``source`` and
    ``declared`` (the part that the row declares, one of :data:`SPLITS`); the last three may be null.
    """
    if name != "ROW_SCHEMA":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema(
        [
            ("line", pa.int64()),
            ("messages", pa.list_(message)),
            ("category", pa.string()),
            ("source", pa.string()),
            ("declared", pa.string()),
        ]
    )
    globals()[name] = schema
    return schema
