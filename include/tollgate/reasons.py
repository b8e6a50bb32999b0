"""Why something was decided, in the languages of those who read it."""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """Why something was decided, in English and in Korean; a person's own words stand in both."""

    en: str
    ko: str


def as_reason(why: Reason | str) -> Reason:
    """A reason of the program's, or a person's own words."""
    return Reason(why, why) if isinstance(why, str) else why


def shown(english: str, korean: str | None) -> str:
    """A reason in both languages, a line each; a person's own words, and what has no Korean, stand once."""
    return english if not korean or korean == english else f"{english}\n{korean}"
