"""Row layouts: how a raw row of a file becomes a chat, and what is wrong with one that can't.

Told by the names of a row's fields, whatever their case: ``messages`` (also chat logs with ``customer_name``, which is
left out, and ``order_state``), ShareGPT's ``conversations``, ``instruction`` / ``input`` / ``output``, ``prompt`` /
``completion`` and ``question`` / ``answer``. A :class:`FieldMapping` names the columns of files that call them
something else.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Annotated, Any, Literal, NamedTuple

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from tollgate.dataset.schema import ROLES, SPLITS, Example, Message, Metadata
from tollgate.errors import BadInputError, Problem

# Question and answer under the names that datasets give them, the first that fit.
_PAIRS = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("q", "a"),
    ("질문", "답변"),
)
_CONTEXTS = ("input", "context")
_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
}
# Other tools' names for a speaker: safe to show in a message, where any other text might be a person's name.
_FOREIGN_ROLES = {"tool", "function", "function_call", "observation", "developer", "human", "gpt", "bot", "model"}
_KNOWN_LAYOUTS = (
    "messages, conversations, instruction and output, prompt and completion, or question and answer; "
    "a field mapping can name other columns"
)


def _names(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class FieldMapping(BaseModel):
    """Which columns of a file mean what, where they don't have the names that the layouts know them by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        (), description="Column of the user's text; several are put below each other, with a blank line between."
    )
    answer: str | None = Field(None, description="Column of the assistant's text.")
    system: str | None = Field(None, description="Column of the system message; ``system`` unless told.")
    category: str | None = Field(None, description="Column of the category; ``category`` unless told.")
    source: str | None = Field(None, description="Column that says where the row is from; ``source`` unless told.")
    split: str | None = Field(None, description="Column of the part the row belongs to; ``split`` unless told.")
    system_text: str | None = Field(None, description="System message of every row that has none.")
    order_state: Literal["final", "every", "ignore"] = Field(
        "final",
        description="Chat logs with an order: put its last state, as JSON, below the last answer; or every state below "
        "its own answer; or leave it out.",
    )

    @model_validator(mode="after")
    def _question_with_answer(self) -> FieldMapping:
        if bool(self.question) != (self.answer is not None):
            raise ValueError("question and answer are mapped together or not at all")
        return self

    @field_validator("system_text")
    @classmethod
    def _clean_text(cls, value: str | None) -> str | None:
        try:
            return None if value is None else text_of(value, "system_text")
        except RowError as error:
            raise ValueError(error.reason) from None

    def named(self) -> dict[str, str]:
        """The columns that the mapping names, each with what it stands for."""
        single = ("answer", "system", "category", "source", "split")
        columns = {column: name for name in single if (column := getattr(self, name)) is not None}
        return {**dict.fromkeys(self.question, "question"), **columns}


DEFAULT_MAPPING = FieldMapping()


class Row(NamedTuple):
    """A valid row: its turns' roles and texts (as many of each), in NFC, and its metadata."""

    roles: tuple[str, ...]
    contents: list[str]
    category: str | None
    source: str | None
    declared: str | None


class RowError(Exception):
    """A row can't become an example."""

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}" if field else reason)


Turn = tuple[str, str]


class _Label(NamedTuple):
    """A part of the metadata: its name, the key it has in the file, and its column where it stands beside the turns."""

    name: str
    key: str
    column: str | None


@dataclass(frozen=True)
class _Layout:
    """What the columns of a row with certain field names mean."""

    turns: Callable[[Mapping[str, Any]], list[Turn]]
    columns: tuple[str, ...]
    system: str | None
    metadata: str | None
    labels: tuple[_Label, _Label, _Label]


def to_row(value: object, mapping: FieldMapping = DEFAULT_MAPPING) -> Row:
    """Turn one raw row of any known layout into a valid one, its texts in NFC.

    ``metadata`` may stand beside each layout; ``source``, ``category`` and ``split`` count also at the top of the row,
    and so does ``system``, unless the turns begin with a system message of their own.

    Raises:
        RowError: The row has no known layout, or its turns, roles, contents or metadata are wrong.
    """
    if not isinstance(value, Mapping):
        raise RowError("", f"found {kind_of(value)}, expected an object with named fields")
    layout = _layout(tuple(value), mapping)
    turns = _with_system(layout, value, mapping, layout.turns(value))
    category, source, declared = _labels(layout, value)
    if declared is not None and declared not in SPLITS:
        raise RowError("metadata.split", f"an unknown part, expected one of {', '.join(SPLITS)}, or none")
    return Row(tuple([role for role, _ in turns]), [text for _, text in turns], category, source, declared)


def to_example(value: object, mapping: FieldMapping = DEFAULT_MAPPING) -> Example:
    """Turn one raw row into an example; see :func:`to_row`."""
    row = to_row(value, mapping)
    turns = zip(row.roles, row.contents, strict=True)
    return Example(
        messages=tuple(Message.model_validate({"role": role, "content": content}) for role, content in turns),
        metadata=Metadata.model_validate({"source": row.source, "category": row.category, "split": row.declared}),
    )


def needed_columns(names: Sequence[str], mapping: FieldMapping, where: str) -> list[str]:
    """Columns of a table that its rows are made of, in the table's order.

    Args:
        names: The table's columns.
        mapping: What was said about them.
        where: File and line, for the error.

    Raises:
        BadInputError: A mapped column is missing, or the columns are of no known layout.
    """
    shown = ", ".join(repr(name) for name in names[:20]) or "no columns"
    missing = [
        Problem(where, shown, f"column {name!r} ({use})") for name, use in mapping.named().items() if name not in names
    ]
    if missing:
        raise BadInputError("A mapped column is missing", missing)
    try:
        layout = _layout(tuple(names), mapping)
    except RowError as error:
        raise BadInputError("The columns are of no known layout", [Problem(where, shown, _KNOWN_LAYOUTS)]) from error
    needed = {*layout.columns, *(label.column for label in layout.labels), layout.system, layout.metadata}
    return [name for name in names if name in needed]


@lru_cache(maxsize=256)
def _layout(names: tuple[object, ...], mapping: FieldMapping) -> _Layout:
    columns: dict[str, Any] = {str(name).strip().lower(): name for name in names}
    columns |= {name: name for name in names if isinstance(name, str)}  # the exact name goes before a likeness
    turns, used = _turns_of(columns, mapping)

    def label(name: str, key: str | None) -> _Label:
        return _Label(name, key or name, columns.get(key or name))

    return _Layout(
        turns=turns,
        columns=used,
        system=columns.get(mapping.system or "system"),
        metadata=columns.get("metadata"),
        labels=(
            label("category", mapping.category),
            label("source", mapping.source),
            label("split", mapping.split),
        ),
    )


@lru_cache(maxsize=256)
def is_plain_chat(names: tuple[object, ...]) -> bool:
    """Whether of a row with these fields only ``messages`` and ``metadata`` count, under just these names."""
    try:
        layout = _layout(names, DEFAULT_MAPPING)
    except RowError:
        return False
    others = (layout.system, *(label.column for label in layout.labels))
    return layout.columns == ("messages",) and layout.metadata in {None, "metadata"} and not any(others)


def _turns_of(
    columns: Mapping[str, str], mapping: FieldMapping
) -> tuple[Callable[[Mapping[str, Any]], list[Turn]], tuple[str, ...]]:
    """How the turns are read, and the columns they are read from."""
    if mapping.question and mapping.answer is not None:
        for name in (*mapping.question, mapping.answer):
            if name not in columns:
                raise RowError(name, "found nothing, expected the mapped column")
        questions, answer = tuple(columns[name] for name in mapping.question), columns[mapping.answer]
        return partial(_pair, questions, answer), (*questions, answer)
    if "messages" in columns:
        order = columns.get("order_state")
        used = [columns["messages"], *([order] if order else [])]
        return partial(_chat, columns["messages"], order, mapping.order_state), tuple(used)
    if "conversations" in columns:
        return partial(_conversation, columns["conversations"]), (columns["conversations"],)
    for question, answer in _PAIRS:
        if question in columns and answer in columns:
            context = [columns[name] for name in _CONTEXTS if name in columns and question == "instruction"][:1]
            used = [columns[question], *context, columns[answer]]
            return partial(_pair, (columns[question],), columns[answer], optional=tuple(context)), tuple(used)
    raise RowError("", f"no known layout, expected {_KNOWN_LAYOUTS}")


def _chat(column: str, order_column: str | None, orders: str, row: Mapping[str, Any]) -> list[Turn]:
    entries = _list(row[column], "messages")
    turns = [_message(entry, f"messages[{index}]") for index, entry in enumerate(entries)]
    _check_turns([role for role, _ in turns], "messages", "role")
    if orders == "ignore":
        return turns
    states = [_order(entry.get("order_state"), f"messages[{index}].order_state") for index, entry in enumerate(entries)]
    final = _order(row[order_column], "order_state") if order_column else None
    if orders == "final":
        final = final or next((state for state in reversed(states) if state), None)
        states = [None] * len(states)
    states[-1] = final or states[-1]
    return [
        (role, f"{content}\n\n```json\n{state}\n```" if state and role == "assistant" else content)
        for (role, content), state in zip(turns, states, strict=True)
    ]


def _order(state: object, where: str) -> str | None:
    """The order as compact JSON; nothing where there is none."""
    if state is None:
        return None
    if not isinstance(state, Mapping):
        raise RowError(where, f"found {kind_of(state)}, expected an object")
    if not state:
        return None
    try:
        return _clean(orjson.dumps(state).decode(), where)
    except (TypeError, ValueError):  # nested too deep, or a value of Parquet that JSON doesn't know
        raise RowError(where, "found a value that JSON can't hold, expected a flat object") from None


def _message(value: object, where: str) -> Turn:
    if not isinstance(value, Mapping):
        raise RowError(where, f"found {kind_of(value)}, expected an object with role and content")
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise RowError(f"{where}.role", f"unknown role{_shown(role)}, expected one of {', '.join(ROLES)}")
    return role, text_of(value.get("content"), f"{where}.content")


def _shown(role: object) -> str:
    return f" {role!r}" if isinstance(role, str) and role in _FOREIGN_ROLES else ""


def _conversation(column: str, row: Mapping[str, Any]) -> list[Turn]:
    """ShareGPT's turns, ``from`` and ``value``; files that call them ``role`` and ``content`` there are read too."""
    turns = []
    for index, entry in enumerate(_list(row[column], "conversations")):
        where = f"conversations[{index}]"
        if not isinstance(entry, Mapping):
            raise RowError(where, f"found {kind_of(entry)}, expected an object with from and value")
        speaker, text = ("from", "value") if "from" in entry or "role" not in entry else ("role", "content")
        said = entry.get(speaker)
        role = _SHAREGPT_ROLES.get(said) if isinstance(said, str) else None
        if role is None:
            expected = ", ".join(_SHAREGPT_ROLES)
            raise RowError(f"{where}.{speaker}", f"unknown speaker{_shown(said)}, expected one of {expected}")
        turns.append((role, text_of(entry.get(text), f"{where}.{text}")))
    _check_turns([role for role, _ in turns], "conversations", "from")
    return turns


def _list(value: object, where: str) -> Sequence[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise RowError(where, f"found {kind_of(value)}, expected a list of messages")
    if not value:
        raise RowError(where, "found an empty list, expected at least a user and an assistant message")
    return value


def _pair(questions: Sequence[str], answer: str, row: Mapping[str, Any], *, optional: Sequence[str] = ()) -> list[Turn]:
    texts = [text_of(row[column], column) for column in questions]
    for column in optional:
        if row[column] is not None and not isinstance(row[column], str):
            raise RowError(column, f"found {kind_of(row[column])}, expected text")
        if row[column] and not row[column].isspace():
            texts.append(text_of(row[column], column))
    return [("user", "\n\n".join(texts)), ("assistant", text_of(row[answer], answer))]


def _with_system(layout: _Layout, row: Mapping[str, Any], mapping: FieldMapping, turns: list[Turn]) -> list[Turn]:
    if turns[0][0] == "system":
        return turns
    text = row[layout.system] if layout.system else None
    if text is not None and not isinstance(text, str):
        raise RowError(str(layout.system), f"found {kind_of(text)}, expected text")
    if text and not text.isspace():
        return [("system", text_of(text, str(layout.system))), *turns]
    return [("system", mapping.system_text), *turns] if mapping.system_text else turns


def _check_turns(roles: Sequence[str], where: str, speaker: str) -> None:
    if problem := turn_problem(tuple(roles)):
        turn = f"{where}[{problem.turn}]"
        raise RowError(turn if problem.unanswered else f"{turn}.{speaker}", problem.reason)


class TurnProblem(NamedTuple):
    """What is wrong with the order of a chat's turns."""

    turn: int
    reason: str
    unanswered: bool = False


@lru_cache(maxsize=1024)
def turn_problem(roles: tuple[str, ...]) -> TurnProblem | None:
    """The first turn that is out of order; nothing if user and assistant take turns to the assistant's last.

    Args:
        roles: Who speaks, one for each turn.
    """
    offset = 1 if roles[:1] == ("system",) else 0
    for index, role in enumerate(roles[offset:], offset):
        expected = "assistant" if (index - offset) % 2 else "user"
        if role == expected:
            continue
        if role == "user":
            return TurnProblem(index, "a second user turn, expected the assistant's answer to the turn before")
        return TurnProblem(index, f"found {role}, expected {expected}: user and assistant take turns")
    if roles[-1:] != ("assistant",):
        last = roles[-1] if roles else "missing"
        return TurnProblem(max(len(roles) - 1, 0), f"a {last} turn at the end, without an answer", unanswered=True)
    return None


def text_of(value: object, where: str) -> str:
    """A text that holds something, in NFC.

    Raises:
        RowError: It is no text, is empty, or holds what no text can.
    """
    if not isinstance(value, str):
        raise RowError(where, f"found {kind_of(value)}, expected text")
    if not value or value.isspace():
        raise RowError(where, "found an empty text, expected at least one character")
    return _clean(value, where)


def _clean(value: str, where: str) -> str:
    if "\x00" in value:
        raise RowError(where, "holds a zero character (U+0000), expected text")
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(where, "holds bytes that are no valid text in the file's encoding") from None
    return unicodedata.normalize("NFC", value)


def _labels(layout: _Layout, row: Mapping[str, Any]) -> tuple[str | None, str | None, str | None]:
    declared = row[layout.metadata] if layout.metadata is not None else None
    if declared is None:
        declared = {}
    if not isinstance(declared, Mapping):
        raise RowError("metadata", f"found {kind_of(declared)}, expected an object")
    category, source, split = [
        label_of(
            declared[label.key] if label.key in declared else row[label.column] if label.column else None, label.name
        )
        for label in layout.labels
    ]
    return category, source, split


def label_of(value: object, name: str) -> str | None:
    """A value of the metadata as text in NFC without spaces around it; nothing for an empty one.

    Raises:
        RowError: It is neither text nor a number.
    """
    if value is None:
        return None
    if isinstance(value, bool | int | float):
        return str(value)
    if not isinstance(value, str):
        raise RowError(f"metadata.{name}", f"found {kind_of(value)}, expected text")
    return _clean(value.strip(), f"metadata.{name}") or None


def kind_of(value: object) -> str:
    """What a value is, in words; never the value itself."""
    names = {type(None): "nothing", str: "text", bool: "true or false", int: "a number", float: "a number"}
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    return names.get(type(value), type(value).__name__)
