"""Clients' keys of the gateway. A key is shown once, when it is made; the table holds its SHA-256 digest.

A plain digest suffices, for a key is 256 random bits: nobody can try them all, as one could with passwords.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tollgate.errors import BadInputError, Problem
from tollgate.store.tables import GatewayKey

_PREFIX = "tg-"


def digest(key: str) -> str:
    """SHA-256 of a key, 64 hexadecimal digits."""
    return hashlib.sha256(key.encode()).hexdigest()


def create(session: Session, name: str, by: str, requests_per_minute: int | None = None) -> str:
    """Make a key and return it; it can't be read again.

    Args:
        name: What it is for; names are given once.
        by: Who made it.
        requests_per_minute: Its own limit, at least 1; none: the gateway's.

    Raises:
        BadInputError: The name is taken or empty, or the limit is below 1.
    """
    problems = []
    if not 0 < len(name) <= 255 or session.scalar(select(GatewayKey.id).where(GatewayKey.name == name)):
        problems.append(Problem("name", repr(name[:60]), "a name of 1 to 255 characters that no other key had"))
    if requests_per_minute is not None and requests_per_minute < 1:
        problems.append(Problem("requests_per_minute", str(requests_per_minute), "at least 1"))
    if problems:
        raise BadInputError("The key cannot be made.", problems)
    key = _PREFIX + secrets.token_urlsafe(32)
    session.add(GatewayKey(name=name, key_hash=digest(key), requests_per_minute=requests_per_minute, created_by=by))
    session.flush()
    return key


def revoke(session: Session, name: str) -> None:
    """Take a key out of use; gateways follow within a second. Revoking again changes nothing.

    Raises:
        BadInputError: There is no such key.
    """
    row = session.scalar(select(GatewayKey).where(GatewayKey.name == name))
    if row is None:
        raise BadInputError("There is no such key.", [Problem("name", repr(name), "a name from tollgate keys list")])
    if row.revoked_at is None:
        row.revoked_at = session.scalar(select(func.now())) or dt.datetime.now(dt.UTC)


def active(session: Session) -> dict[str, int | None]:
    """Digests of all keys in use, with their own limits."""
    rows = session.execute(
        select(GatewayKey.key_hash, GatewayKey.requests_per_minute).where(GatewayKey.revoked_at.is_(None))
    )
    return dict(rows.tuples().all())
