"""What an answer says about itself: text, tokens, why it ended. And the gateway's own note in its ``usage``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

NOTE = "tollgate"
"""Key of the gateway's note in ``usage``; everything else in the body is the provider's."""

_USAGE = re.compile(rb'"usage"\s*:\s*\{')


@dataclass(slots=True)
class Answer:
    """Text and figures of one answer, as far as known."""

    text: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None

    def add(self, content: Any) -> None:
        """Take over what a completion, or one chunk of it, says."""
        if not isinstance(content, dict):
            return
        usage = content.get("usage")
        if isinstance(usage, dict):
            self.prompt_tokens = _count(usage.get("prompt_tokens"))
            self.completion_tokens = _count(usage.get("completion_tokens"))
        choices = content.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            self._add_choice(choices[0])

    def _add_choice(self, choice: dict[str, Any]) -> None:
        message = choice.get("message") or choice.get("delta")
        part = message.get("content") if isinstance(message, dict) else choice.get("text")
        if isinstance(part, str):
            self.text = (self.text or "") + part
        reason = choice.get("finish_reason")
        if isinstance(reason, str):
            self.finish_reason = reason[:50]


def read_whole(body: bytes) -> tuple[Answer, Any]:
    """An answer that came in one piece, and its parsed body (null if it is not JSON)."""
    answer = Answer()
    content = parse(body)
    answer.add(content)
    return answer, content


def read_stream(events: bytes) -> Answer:
    """An answer that came as server-sent events."""
    answer = Answer()
    for content in _events(events.splitlines()):
        answer.add(content)
    return answer


def with_note(content: Any, body: bytes, note: Mapping[str, Any]) -> bytes:
    """The body with the gateway's note in its ``usage``; as it was if it has none."""
    if not isinstance(content, dict) or not isinstance(content.get("usage"), dict):
        return body
    content["usage"][NOTE] = note
    return orjson.dumps(content)


class StreamNotes:
    """Finds the figures in a stream's events as they pass, and adds the note to them.

    Args:
        note: The gateway's note.
        is_added: Whether the figures were asked for by the gateway and not by the client, who then never sees them.
    """

    def __init__(self, note: Mapping[str, Any], is_added: bool) -> None:
        self._note = note
        self._is_added = is_added
        self.answer = Answer()

    def treat(self, lines: bytes) -> bytes:
        """Whole lines as the client is to get them."""
        if _USAGE.search(lines) is None:
            return lines
        kept = []
        skip_blank = False
        for line in lines.splitlines(keepends=True):
            if skip_blank and not line.strip():
                skip_blank = False
                continue
            skip_blank = False
            treated = self._treat_line(line) if _USAGE.search(line) else line
            skip_blank = not treated
            kept.append(treated)
        return b"".join(kept)

    def _treat_line(self, line: bytes) -> bytes:
        content = parse(line[5:].strip()) if line.startswith(b"data:") else None
        if not isinstance(content, dict) or not isinstance(content.get("usage"), dict):
            return line
        self.answer.add(content)
        if self._is_added:
            if not content.get("choices"):
                return b""
            del content["usage"]
            return b"data: " + orjson.dumps(content) + b"\n"
        content["usage"][NOTE] = self._note
        return b"data: " + orjson.dumps(content) + b"\n"


def question(payload: Mapping[str, Any]) -> str | None:
    """What was asked: the last message's text (of parts, those of text), the prompt, or the text to embed."""
    messages = payload.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        content = messages[-1].get("content")
        if isinstance(content, list):
            texts = [part.get("text") for part in content if isinstance(part, dict)]
            return "\n".join(text for text in texts if isinstance(text, str))
        return content if isinstance(content, str) else None
    asked = payload.get("prompt", payload.get("input"))
    if isinstance(asked, list) and asked and all(isinstance(text, str) for text in asked):
        return "\n".join(asked)
    return asked if isinstance(asked, str) else None


def parse(text: bytes) -> Any:
    """The JSON in a text; null where there is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # "[DONE]", or an event cut where the log's limit was
        return None


def _events(lines: Iterable[bytes]) -> Iterator[Any]:
    for line in lines:
        if line.startswith(b"data:"):
            yield parse(line[5:].strip())


def _count(number: Any) -> int | None:
    return number if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**31 else None
