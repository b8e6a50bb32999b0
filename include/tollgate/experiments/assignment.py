"""Which arm of an experiment a user belongs to: a pure function, the same on every gateway and after every restart."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

_BITS = 53
"""Bits of the digest that are used: so many a float in [0, 1) holds without rounding up to 1."""


def hash_user(user: str, secret: str) -> str:
    """Pseudonym of a user: HMAC-SHA256 with the installation's secret, 64 hexadecimal digits.

    A plain digest could be undone by trying all phone numbers; without the secret this cannot.
    """
    return hmac.new(secret.encode(), user.encode(), hashlib.sha256).hexdigest()


def bucket(salt: str, user: str) -> float:
    """Where a user falls in [0, 1): the first 53 bits of ``SHA-256(salt + user)``, independent between salts.

    Args:
        salt: The experiment's own, so that the users of one experiment's B are not those of the next.
        user: The user's pseudonym (``hash_user``).
    """
    digest = hashlib.sha256((salt + user).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> (64 - _BITS)) / (1 << _BITS)


def assign(salt: str, user: str, split: Mapping[str, float]) -> str:
    """The user's arm. Arms lie in the order of their names, whatever order the mapping has.

    Args:
        salt: The experiment's own.
        user: The user's pseudonym.
        split: Share of each arm, summing to 1.

    Raises:
        ValueError: There is no arm.
    """
    if not split:
        raise ValueError("a split needs at least one arm")
    position = bucket(salt, user)
    *earlier, last = sorted(split)
    for arm in earlier:
        position -= split[arm]
        if position < 0:
            return arm
    return last
