"""Order forms: what the dialogues of a task have to cover, and whether those at hand do.

A form names slots with their values (the dinner, the serving style), the steps of a complete dialogue in their order,
situations that must occur, and categories, each with the fewest dialogues that will do. A dialogue covers something if
one of its words stands in it; spaces and case don't count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Annotated, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tollgate.dataset.schema import Example, Message
from tollgate.errors import BadInputError, Problem

Speaker = Literal["user", "assistant", "anyone"]
Words = Annotated[tuple[str, ...], Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Slot(_Part):
    """Something that a customer chooses: its values, and the words that each is known by."""

    values: Annotated[dict[str, Words], Field(min_length=1)]
    said_by: Speaker = "anyone"
    min_each: Count = Field(1, description="Fewest dialogues for each value.")


class Step(_Part):
    """A step of a complete dialogue."""

    name: str
    words: Words
    said_by: Speaker = "anyone"


class Flow(_Part):
    """The steps of a complete dialogue, in their order."""

    steps: Annotated[tuple[Step, ...], Field(min_length=1)]
    min_complete: Count = Field(1, description="Fewest dialogues that go through all steps.")


class Situation(_Part):
    """Something that must happen in some dialogues, such as a wrong input."""

    words: Words
    said_by: Speaker = "anyone"
    min_dialogues: Count = 1


class OrderForm(_Part):
    """What the dialogues of a task have to cover."""

    title: str = ""
    min_dialogues: Count = Field(50, description="Fewest dialogues in all.")
    slots: dict[str, Slot] = {}
    cross: tuple[tuple[str, str], ...] = Field((), description="Pairs of slots of which every combination must occur.")
    flow: Flow | None = None
    situations: dict[str, Situation] = {}
    categories: dict[str, Count] = Field({}, description="Fewest dialogues of each category.")

    @model_validator(mode="after")
    def _crosses_known_slots(self) -> Self:
        unknown = {name for pair in self.cross for name in pair} - set(self.slots)
        if unknown:
            raise ValueError(f"cross names slots that the form doesn't have: {', '.join(sorted(unknown))}")
        return self


class Item(_Part):
    """One line of the checklist."""

    subject: Literal["dialogues", "slot", "combination", "flow", "situation", "category"]
    name: str
    found: int
    needed: int

    @property
    def covered(self) -> bool:
        """Whether there are enough."""
        return self.found >= self.needed


class Coverage(_Part):
    """The checklist of an order form, filled in."""

    title: str
    dialogues: int
    unreadable: int = Field(description="Rows of the file that are no dialogue.")
    items: tuple[Item, ...]

    @property
    def missing(self) -> tuple[Item, ...]:
        """What there is too little of."""
        return tuple(item for item in self.items if not item.covered)


def example() -> OrderForm:
    """The form that comes with Tollgate: the dinner service of requirement 001."""
    return parse(example_text())


def example_text() -> bytes:
    """The same as the file that a user would write."""
    return resources.files("tollgate.dataset").joinpath("order_form.json").read_bytes()


def read(path: Path) -> OrderForm:
    """Read a form from a JSON file.

    Raises:
        BadInputError: It can't be read, or says something a form can't say; names the fields.
    """
    try:
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        problem = Problem(str(path), str(error.strerror), "a JSON file")
        raise BadInputError("The order form can't be read", [problem]) from error


def parse(text: bytes, where: str = "order form") -> OrderForm:
    """Make a form of JSON.

    Raises:
        BadInputError: It says something a form can't say; names the fields.
    """
    try:
        return OrderForm.model_validate(orjson.loads(text))
    except orjson.JSONDecodeError as error:
        problem = Problem(f"{where}, line {error.lineno}", error.msg, "a JSON object")
        raise BadInputError("The order form is no JSON", [problem]) from error
    except ValidationError as error:
        problems = [
            Problem(f"{where}, {'.'.join(map(str, one['loc'])) or 'the form'}", repr(one["input"])[:80], one["msg"])
            for one in error.errors()
        ]
        raise BadInputError("The order form is wrong", problems) from error


def check(form: OrderForm, dialogues: Iterable[Example | None]) -> Coverage:
    """Fill in the checklist.

    Args:
        form: What has to be covered.
        dialogues: The dialogues; None for each row that is none.

    Returns:
        Every line of the checklist, in the form's order.
    """
    counts: Counter[tuple[str, str]] = Counter()
    unreadable = 0
    for dialogue in dialogues:
        if dialogue is None:
            unreadable += 1
        else:
            counts.update(set(_covered(form, dialogue)))
    items = [
        Item.model_validate({"subject": subject, "name": name, "found": counts[subject, name], "needed": needed})
        for subject, name, needed in _needed(form)
    ]
    total = counts["dialogues", "dialogues"]
    return Coverage(title=form.title, dialogues=total, unreadable=unreadable, items=tuple(items))


def _needed(form: OrderForm) -> Iterator[tuple[str, str, int]]:
    """The lines of the checklist: subject, name, and how many dialogues are needed."""
    yield "dialogues", "dialogues", form.min_dialogues
    for category, least in form.categories.items():
        yield "category", category, least
    for name, slot in form.slots.items():
        for value in slot.values:
            yield "slot", f"{name}: {value}", slot.min_each
    for one, other in form.cross:
        for pair in product(form.slots[one].values, form.slots[other].values):
            yield "combination", " × ".join(pair), 1
    if form.flow:
        yield "flow", " → ".join(step.name for step in form.flow.steps), form.flow.min_complete
    for name, situation in form.situations.items():
        yield "situation", name, situation.min_dialogues


def _covered(form: OrderForm, dialogue: Example) -> Iterator[tuple[str, str]]:
    """The lines of the checklist that a dialogue counts for."""
    turns = [(turn.role, _fold(turn.content)) for turn in dialogue.messages if turn.role != "system"]
    yield "dialogues", "dialogues"
    if dialogue.metadata.category is not None:
        yield "category", dialogue.metadata.category
    chosen = {
        name: [value for value, words in slot.values.items() if _first(turns, words, slot.said_by) is not None]
        for name, slot in form.slots.items()
    }
    yield from (("slot", f"{name}: {value}") for name, values in chosen.items() for value in values)
    for one, other in form.cross:
        yield from (("combination", " × ".join(pair)) for pair in product(chosen[one], chosen[other]))
    if form.flow and _runs_through(turns, form.flow.steps):
        yield "flow", " → ".join(step.name for step in form.flow.steps)
    for name, situation in form.situations.items():
        if _first(turns, situation.words, situation.said_by) is not None:
            yield "situation", name


def _runs_through(turns: Sequence[tuple[str, str]], steps: Sequence[Step]) -> bool:
    """Whether the steps occur in their order; two steps may be taken in one turn."""
    start = 0
    for step in steps:
        found = _first(turns, step.words, step.said_by, start)
        if found is None:
            return False
        start = found
    return True


def _first(turns: Sequence[tuple[str, str]], words: Iterable[str], said_by: Speaker, start: int = 0) -> int | None:
    """The first turn, from ``start`` on, in which a speaker says one of the words."""
    folded = [_fold(word) for word in words]
    for place in range(start, len(turns)):
        role, text = turns[place]
        if said_by in {"anyone", role} and any(word in text for word in folded):
            return place
    return None


def _fold(text: str) -> str:
    return "".join(text.lower().split())


def messages_of(example: Example) -> list[Mapping[str, str]]:
    """A dialogue's turns as JSON values."""

    def value(turn: Message) -> Mapping[str, str]:
        return {"role": turn.role, "content": turn.content}

    return [value(turn) for turn in example.messages]
