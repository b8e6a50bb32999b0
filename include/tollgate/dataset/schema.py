"""The example: one chat with its metadata, and what makes a raw row a valid one.

Every layout that people keep training data in becomes this; everything after the readers sees only this.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Role = Literal["system", "user", "assistant"]
Split = Literal["train", "validation", "test"]
ROLES: tuple[str, ...] = get_args(Role)
SPLITS: tuple[Split, ...] = get_args(Split)

_QUESTION_ANSWER_COLUMNS = {
    "question": ("question", "q", "질문"),
    "answer": ("answer", "a", "답변"),
}


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

    line: int = Field(ge=1, description="Line of the file where the row begins; for Parquet the number of the row.")
    field: str = Field(description="Field of the row, for example ``messages[1].role``; empty for the whole row.")
    reason: str = Field(description="What was found and what was expected.")


class RowError(Exception):
    """A row can't become an example."""

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}" if field else reason)


def to_example(row: object) -> Example:
    """Turn one raw row of any known layout into an example, its text in NFC.

    Layouts, told by the row's keys: ``messages``; ``instruction`` / ``input`` / ``output``; ``prompt`` /
    ``completion``; ``question`` / ``answer`` (also ``Q`` / ``A`` and ``질문`` / ``답변``). ``metadata`` may stand
    beside each of them; ``source``, ``category`` and ``split`` count also at the top of the row.

    Raises:
        RowError: The row has no known layout, or its turns, roles, contents or metadata are wrong.
    """
    if not isinstance(row, Mapping):
        raise RowError("", f"found {_kind(row)}, expected an object with named fields")
    return Example(messages=tuple(_messages(row)), metadata=_metadata(row))


def _messages(row: Mapping[str, Any]) -> Sequence[Message]:
    columns = {str(key).strip().lower(): key for key in row}
    if "messages" in columns:
        return _chat(row[columns["messages"]])
    if "instruction" in columns and "output" in columns:
        return _instruction(row, columns)
    if "prompt" in columns and "completion" in columns:
        return _pair(row, columns["prompt"], columns["completion"])
    question = _first(columns, _QUESTION_ANSWER_COLUMNS["question"])
    answer = _first(columns, _QUESTION_ANSWER_COLUMNS["answer"])
    if question and answer:
        return _pair(row, question, answer)
    raise RowError(
        "",
        "no known layout: expected messages, instruction and output, prompt and completion, or question and answer",
    )


def _first(columns: Mapping[str, str], names: Sequence[str]) -> str | None:
    return next((columns[name] for name in names if name in columns), None)


def _chat(value: object) -> list[Message]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise RowError("messages", f"found {_kind(value)}, expected a list of messages")
    if not value:
        raise RowError("messages", "found an empty list, expected at least a user and an assistant message")
    messages = [_message(entry, f"messages[{index}]") for index, entry in enumerate(value)]
    _check_turns(messages)
    return messages


def _message(value: object, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise RowError(where, f"found {_kind(value)}, expected an object with role and content")
    role = value.get("role")
    if role not in ROLES:
        raise RowError(f"{where}.role", f"unknown role, expected one of {', '.join(ROLES)}")
    return Message(role=role, content=_text(value.get("content"), f"{where}.content"))


def _check_turns(messages: Sequence[Message]) -> None:
    offset = 1 if messages[0].role == "system" else 0
    for index, message in enumerate(messages[offset:]):
        expected = "assistant" if index % 2 else "user"
        if message.role != expected:
            where = f"messages[{index + offset}].role"
            if message.role == "user":
                raise RowError(where, "a second user turn, expected the assistant's answer to the turn before")
            raise RowError(where, f"found {message.role}, expected {expected}: user and assistant take turns")
    if messages[-1].role != "assistant":
        raise RowError(f"messages[{len(messages) - 1}]", f"a {messages[-1].role} turn at the end, without an answer")


def _instruction(row: Mapping[str, Any], columns: Mapping[str, str]) -> list[Message]:
    question = _text(row[columns["instruction"]], columns["instruction"])
    context = row[columns["input"]] if "input" in columns else None
    if context is not None and not isinstance(context, str):
        raise RowError(columns["input"], f"found {_kind(context)}, expected text")
    if context and context.strip():
        question = f"{question}\n\n{_text(context, columns['input'])}"
    answer = _text(row[columns["output"]], columns["output"])
    return [Message(role="user", content=question), Message(role="assistant", content=answer)]


def _pair(row: Mapping[str, Any], question: str, answer: str) -> list[Message]:
    return [
        Message(role="user", content=_text(row[question], question)),
        Message(role="assistant", content=_text(row[answer], answer)),
    ]


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise RowError(where, f"found {_kind(value)}, expected text")
    if not value.strip():
        raise RowError(where, "found an empty text, expected at least one character")
    return _normalised(value, where)


def _normalised(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(where, "holds bytes that are no valid text in the file's encoding") from None
    return unicodedata.normalize("NFC", value)


def _metadata(row: Mapping[str, Any]) -> Metadata:
    declared = row.get("metadata")
    if declared is None:
        declared = {}
    if not isinstance(declared, Mapping):
        raise RowError("metadata", f"found {_kind(declared)}, expected an object")
    values = {name: _metadata_text(declared.get(name, row.get(name)), name) for name in ("source", "category", "split")}
    if values["split"] is not None and values["split"] not in SPLITS:
        raise RowError("metadata.split", f"an unknown part, expected one of {', '.join(SPLITS)}, or none")
    return Metadata.model_validate(values)


def _metadata_text(value: object, name: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool | int | float):
        return str(value)
    if not isinstance(value, str):
        raise RowError(f"metadata.{name}", f"found {_kind(value)}, expected text")
    return _normalised(value.strip(), f"metadata.{name}") or None


def _kind(value: object) -> str:
    names = {type(None): "nothing", str: "text", bool: "true or false", int: "a number", float: "a number"}
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    return names.get(type(value), type(value).__name__)
