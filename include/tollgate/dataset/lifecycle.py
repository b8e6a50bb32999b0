"""The life of versions after they were written: tags, deprecated, archived; who decided it, when, and why.

Versions never change, so what is said about them later stands in one file beside their folders,
``<root>/<name>/lifecycle.json``: a list of events, the oldest first, from which state and tags follow. The file is
replaced as a whole under the dataset's lock.

    active -> deprecated   still usable, but ``name@latest`` no longer means it
    active, deprecated -> archived   kept for the record; no new training starts from it
    deprecated, archived -> active   by ``restore``
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tollgate.dataset.locks import locked, sync
from tollgate.errors import BadInputError, Problem

State = Literal["active", "deprecated", "archived"]
Action = Literal["tag", "untag", "deprecate", "archive", "restore"]

FILE = "lifecycle.json"
_STATES: dict[str, State] = {"deprecate": "deprecated", "archive": "archived", "restore": "active"}
_ALLOWED: dict[State, tuple[Action, ...]] = {
    "active": ("deprecate", "archive"),
    "deprecated": ("archive", "restore"),
    "archived": ("restore",),
}
_TAG = re.compile(r"(?!latest$)(?!v\d)[a-z0-9][a-z0-9._-]{0,49}")
_MAX_REASON = 500


class Version(Protocol):
    """What the history asks of a version of a dataset."""

    @property
    def folder(self) -> Path:
        """Its folder, beside those of the dataset's other versions."""

    @property
    def name(self) -> str:
        """Name of the dataset."""

    @property
    def number(self) -> int:
        """Number of the version, from 1."""

    @property
    def reference(self) -> str:
        """The version as text: ``name@v<number>``."""


_Version = TypeVar("_Version", bound=Version)


class Event(BaseModel):
    """One thing that was decided about a version."""

    model_config = ConfigDict(frozen=True)

    at: dt.datetime = Field(description="When, in UTC.")
    by: str = Field(description="Who.")
    action: Action
    version: int = Field(ge=1)
    tag: str | None = Field(None, description="The tag given or taken; None for the other actions.")
    reason: str | None = Field(None, description="Why, in the words of who decided it.")


class Standing(BaseModel):
    """What is said about one version now."""

    model_config = ConfigDict(frozen=True)

    state: State = "active"
    tags: tuple[str, ...] = ()
    reason: str | None = Field(None, description="Why it is no longer active; None for an active version.")
    by: str | None = Field(None, description="Who changed its state last.")
    at: dt.datetime | None = Field(None, description="When its state changed last.")


class History(BaseModel):
    """All that was decided about the versions of one dataset, the oldest first."""

    model_config = ConfigDict(frozen=True)

    events: tuple[Event, ...] = ()

    def tags(self) -> dict[str, int]:
        """Every tag and the number of the version that bears it."""
        found: dict[str, int] = {}
        for event in self.events:
            if event.action == "tag" and event.tag:
                found[event.tag] = event.version
            elif event.action == "untag" and event.tag:
                found.pop(event.tag, None)
        return dict(sorted(found.items()))

    def standing(self, number: int) -> Standing:
        """What is said about a version now."""
        tags = tuple(tag for tag, version in self.tags().items() if version == number)
        changes = [event for event in self.events if event.version == number and event.action in _STATES]
        if not changes:
            return Standing(tags=tags)
        last = changes[-1]
        state = _STATES[last.action]
        return Standing(
            state=state, tags=tags, reason=None if state == "active" else last.reason, by=last.by, at=last.at
        )

    def of(self, number: int) -> tuple[Event, ...]:
        """What was decided about one version, the oldest first."""
        return tuple(event for event in self.events if event.version == number)


def read(folder: Path) -> History:
    """The history of a dataset; empty where nothing was decided yet.

    Args:
        folder: The dataset's folder, which holds its versions.

    Raises:
        BadInputError: The file is there, but is no history.
    """
    path = folder / FILE
    try:
        return History.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return History()
    except (OSError, ValidationError) as error:
        problem = Problem(str(path), type(error).__name__, "the events that tollgate dataset tag, deprecate … wrote")
        raise BadInputError("The history of the dataset's versions can't be read", [problem]) from error


def standing(version: Version) -> Standing:
    """What is said about a version now."""
    return read(version.folder.parent).standing(version.number)


def tag(version: Version, name: str, by: str, *, move: bool = False) -> Standing:
    """Give a version a tag; the same tag on the same version changes nothing.

    Args:
        version: The version.
        name: The tag: small letters, digits, ``.``, ``_``, ``-``; neither ``latest`` nor beginning like ``v3``.
        by: Who gives it.
        move: Take it from the version that bears it now.

    Raises:
        BadInputError: The tag can't be one, or another version bears it and ``move`` is not set.
    """
    if not _TAG.fullmatch(name):
        expected = "1-50 small letters, digits, '.', '_', '-'; not 'latest' and not beginning like 'v3'"
        raise BadInputError("The tag can't be used", [Problem("tag", repr(name[:80]), expected)])
    folder = version.folder.parent
    with locked(folder):
        history = read(folder)
        bearer = history.tags().get(name)
        if bearer is not None and bearer != version.number and not move:
            problem = Problem("tag", f"{name!r} on {version.name}@v{bearer}", "a free tag, or --move to take it")
            raise BadInputError("Another version bears this tag", [problem])
        if bearer != version.number:
            history = _append(folder, history, _event(version, "tag", by, tag=name))
        return history.standing(version.number)


def untag(version: Version, name: str, by: str) -> Standing:
    """Take a tag from a version.

    Raises:
        BadInputError: The version doesn't bear it.
    """
    folder = version.folder.parent
    with locked(folder):
        history = read(folder)
        if history.tags().get(name) != version.number:
            borne = ", ".join(history.standing(version.number).tags) or "none"
            raise BadInputError(
                f"{version.reference} doesn't bear this tag", [Problem("tag", repr(name[:80]), f"one of: {borne}")]
            )
        return _append(folder, history, _event(version, "untag", by, tag=name)).standing(version.number)


def change(version: Version, action: Literal["deprecate", "archive", "restore"], by: str, reason: str) -> Standing:
    """Deprecate, archive or restore a version; the version itself stays as it is.

    Args:
        version: The version.
        action: What to do with it.
        by: Who decided it.
        reason: Why; must not be empty.

    Returns:
        Where it stands now. A version that stands there already stays as it is, with its first reason.

    Raises:
        BadInputError: There is no reason, or the version's state doesn't allow the action.
    """
    reason = reason.strip()
    if not reason or len(reason) > _MAX_REASON:
        found = f"{len(reason)} characters"
        raise BadInputError("A reason is needed", [Problem("reason", found, f"1 to {_MAX_REASON} characters")])
    folder = version.folder.parent
    with locked(folder):
        history = read(folder)
        now = history.standing(version.number)
        if now.state == _STATES[action]:
            return now
        if action not in _ALLOWED[now.state]:
            allowed = " or ".join(_ALLOWED[now.state])
            raise BadInputError(
                f"{version.reference} can't be changed so",
                [Problem("action", f"{action} of a version {now.state}", allowed)],
            )
        return _append(folder, history, _event(version, action, by, reason=reason)).standing(version.number)


def newest_active(found: Sequence[_Version]) -> _Version | None:
    """The newest of a dataset's versions that is neither deprecated nor archived; None where there is none.

    Args:
        found: All versions of one dataset, the oldest first.
    """
    if not found:
        return None
    history = read(found[0].folder.parent)
    return next((one for one in reversed(found) if history.standing(one.number).state == "active"), None)


def check_usable(version: Version) -> None:
    """Refuse an archived version as the start of something new.

    Raises:
        BadInputError: It is archived; says by whom, when and why.
    """
    now = standing(version)
    if now.state == "archived":
        found = f"{version.reference}, archived by {now.by} on {now.at:%Y-%m-%d}: {now.reason}"
        expected = f"another version, or first tollgate dataset restore {version.reference} --reason …"
        raise BadInputError("The dataset version is archived", [Problem("dataset", found, expected)])


def _event(version: Version, action: Action, by: str, *, tag: str | None = None, reason: str | None = None) -> Event:
    now = dt.datetime.now(dt.UTC)
    return Event(at=now, by=by, action=action, version=version.number, tag=tag, reason=reason)


def _append(folder: Path, history: History, event: Event) -> History:
    changed = History(events=(*history.events, event))
    temporary = folder / f".{FILE}.writing"
    temporary.write_text(changed.model_dump_json(indent=2), encoding="utf-8")
    sync(temporary)
    temporary.replace(folder / FILE)
    sync(folder)
    return changed
