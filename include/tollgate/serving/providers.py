"""Who may answer requests at the gateway: providers, their keys, and the order in which a route tries them.

The tables hold where a key is found, never the key: ``env:NAME_API_KEY`` or ``file:NAME`` in the folder of keys. Both
are confined, so that a row in the database cannot send another secret of the gateway to a stranger's address.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from tollgate.errors import BadInputError, Problem
from tollgate.settings import Settings, settings
from tollgate.store.tables import Provider, RouteProvider

OWN = "vllm"
"""The provider of the servers that the settings name."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_ENVIRONMENT_NAME = re.compile(r"[A-Z][A-Z0-9_]*_API_KEY")


class ProviderForm(BaseModel):
    """A provider as a person describes it.

    Attributes:
        addresses: Base addresses, with or without ``/v1``; none: those of the settings.
        model: Name that the provider knows the model by; none: the version's own name is sent, and answers count as
            that version's.
        key_source: ``env:NAME_API_KEY`` or ``file:NAME``.
        prompt_price: Price of a million prompt tokens.
        completion_price: Price of a million tokens of answers.
        timeout_seconds: Longest wait for a whole answer, or for a stream's beginning, before the next one is tried.
        stream_usage: Whether streams may be asked for their tokens (``stream_options.include_usage``).
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    addresses: list[str] = []
    model: str | None = Field(None, min_length=1, max_length=255)
    key_source: str | None = None
    prompt_price: float | None = Field(None, ge=0, allow_inf_nan=False)
    completion_price: float | None = Field(None, ge=0, allow_inf_nan=False)
    timeout_seconds: float | None = Field(None, gt=0, le=3600)
    stream_usage: bool = True

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("a name of small letters, digits, '.', '_' and '-'")
        return name

    @field_validator("addresses")
    @classmethod
    def _whole_addresses(cls, addresses: list[str]) -> list[str]:
        for address in addresses:
            parts = urlsplit(address)
            if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query:
                raise ValueError("an address such as https://api.example.com/v1, without user, password or query")
        return [address.rstrip("/").removesuffix("/v1") for address in addresses]

    @field_validator("key_source")
    @classmethod
    def _known_source(cls, source: str | None) -> str | None:
        if source is not None:
            _check_source(source)
        return source


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A provider ready for use: addresses known, key read."""

    name: str
    addresses: tuple[str, ...]
    model: str | None = None
    key: str | None = field(default=None, repr=False)
    prompt_price: float | None = None
    completion_price: float | None = None
    timeout_seconds: float | None = None
    stream_usage: bool = True


@dataclass(frozen=True, slots=True)
class ProviderView:
    """All that is known of one provider, but its key."""

    name: str
    addresses: list[str]
    model: str | None
    key_source: str | None
    prompt_price: float | None
    completion_price: float | None
    timeout_seconds: float | None
    stream_usage: bool
    enabled: bool
    problem: str | None


def _check_source(source: str) -> tuple[str, str]:
    kind, _, name = source.partition(":")
    if kind == "env" and _ENVIRONMENT_NAME.fullmatch(name):
        return kind, name
    if kind == "file" and _NAME.fullmatch(name.lower()):
        return kind, name
    raise ValueError("env:<NAME>_API_KEY, or file:<name> in the folder of keys")


def keys_folder(configuration: Settings | None = None) -> Path:
    """Folder of providers' keys, a file each."""
    chosen = configuration or settings()
    return chosen.provider_keys or chosen.home / "provider-keys"


def read_key(source: str | None, folder: Path) -> str | None:
    """The key at ``source``; null where the provider needs none.

    Raises:
        BadInputError: It is not there, or the source is not of a known kind. The text never holds a key.
    """
    if source is None:
        return None
    try:
        kind, name = _check_source(source)
    except ValueError as error:
        raise BadInputError("A provider's key cannot be found.", [Problem("key_source", source, str(error))]) from None
    if kind == "env":
        found = os.environ.get(name, "").strip()
        place = f"environment variable {name}"
    else:
        path = folder / name
        found = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
        place = str(path)
    if not found or not found.isascii() or not found.isprintable():
        what = "nothing" if not found else "characters that no key has"
        raise BadInputError("A provider's key cannot be found.", [Problem(place, what, "the key")])
    return found


def write_key(name: str, key: str, folder: Path) -> str:
    """Keep a key in a file (0600) and return its source.

    Raises:
        BadInputError: The name or the key cannot be one.
    """
    if not _NAME.fullmatch(name) or not key.strip() or not key.strip().isascii():
        problem = Problem("key", "an empty or odd one", "a name of small letters, and a key in ASCII")
        raise BadInputError("The key cannot be kept.", [problem])
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = folder / f".{name}.writing"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(key.strip() + "\n")
    part.rename(folder / name)
    return f"file:{name}"


def save(session: Session, form: ProviderForm, by: str) -> Provider:
    """Write a provider, new or changed.

    Raises:
        BadInputError: Only ``vllm`` may be without addresses.
    """
    if not form.addresses and form.name != OWN:
        problem = Problem("addresses", "none", "an address such as https://api.example.com/v1")
        raise BadInputError(f"The provider {form.name} cannot be used.", [problem])
    row = session.scalar(select(Provider).where(Provider.name == form.name)) or Provider(name=form.name)
    for name, value in form.model_dump(exclude={"name"}).items():
        setattr(row, name, value)
    row.enabled = True
    row.updated_by = by
    session.add(row)
    session.flush()
    return row


def find(session: Session, name: str) -> Provider:
    """The provider of that name.

    Raises:
        BadInputError: There is none.
    """
    row = session.scalar(select(Provider).where(Provider.name == name))
    if row is None:
        names = ", ".join(session.scalars(select(Provider.name).order_by(Provider.name)))
        raise BadInputError("There is no such provider.", [Problem("provider", repr(name), f"one of {names}")])
    return row


def remove(session: Session, name: str) -> None:
    """Delete a provider that no route uses.

    Raises:
        BadInputError: A route uses it, or it is ``vllm``.
    """
    row = find(session, name)
    routes = list(session.scalars(select(RouteProvider.route).where(RouteProvider.provider_id == row.id)))
    if routes or name == OWN:
        used = ", ".join(sorted(routes)) or "every route without providers of its own"
        problem = Problem("provider", repr(name), f"one that is not used; this one is used by {used}")
        raise BadInputError("The provider cannot be removed.", [problem])
    session.delete(row)


def set_chain(session: Session, route: str, names: Sequence[str]) -> None:
    """Let a route try these providers in this order; none: the servers of the settings alone.

    Raises:
        BadInputError: There is no such provider, or one is named twice.
    """
    if len(set(names)) < len(names):
        raise BadInputError("A provider is named twice.", [Problem("providers", " ".join(names), "each one once")])
    rows = [find(session, name) for name in names]
    session.execute(delete(RouteProvider).where(RouteProvider.route == route))
    session.add_all(
        RouteProvider(route=route, position=position, provider_id=row.id) for position, row in enumerate(rows)
    )
    session.flush()


def chains(session: Session) -> dict[str, tuple[str, ...]]:
    """Every route that has providers of its own, with their names in order."""
    rows = session.execute(
        select(RouteProvider.route, Provider.name)
        .join(Provider, Provider.id == RouteProvider.provider_id)
        .where(Provider.enabled)
        .order_by(RouteProvider.route, RouteProvider.position)
    )
    return {route: tuple(row.name for row in group) for route, group in groupby(rows, key=attrgetter("route"))}


def endpoints(
    session: Session, own_addresses: Sequence[str], folder: Path
) -> tuple[dict[str, Endpoint], Mapping[str, str]]:
    """All enabled providers ready for use, and why others are not.

    Args:
        own_addresses: What ``vllm`` stands for.
        folder: The folder of keys.

    Returns:
        Endpoints by name, and problems by name.
    """
    found, problems = {}, {}
    for row in session.scalars(select(Provider).where(Provider.enabled)):
        try:
            found[row.name] = endpoint(row, own_addresses, folder)
        except (BadInputError, OSError, UnicodeDecodeError) as error:
            problems[row.name] = str(error) if isinstance(error, BadInputError) else type(error).__name__
    return found, problems


def endpoint(row: Provider, own_addresses: Sequence[str], folder: Path) -> Endpoint:
    """One provider ready for use.

    Raises:
        BadInputError: Its key is not there.
    """
    return Endpoint(
        name=row.name,
        addresses=tuple(row.addresses or own_addresses),
        model=row.model,
        key=read_key(row.key_source, folder),
        prompt_price=row.prompt_price,
        completion_price=row.completion_price,
        timeout_seconds=row.timeout_seconds,
        stream_usage=row.stream_usage,
    )


def views(session: Session, own_addresses: Sequence[str], folder: Path) -> list[ProviderView]:
    """All providers, by name, for people."""
    _, problems = endpoints(session, own_addresses, folder)
    return [
        ProviderView(
            name=row.name,
            addresses=list(row.addresses or own_addresses),
            model=row.model,
            key_source=row.key_source,
            prompt_price=row.prompt_price,
            completion_price=row.completion_price,
            timeout_seconds=row.timeout_seconds,
            stream_usage=row.stream_usage,
            enabled=row.enabled,
            problem=problems.get(row.name),
        )
        for row in session.scalars(select(Provider).order_by(Provider.name))
    ]
