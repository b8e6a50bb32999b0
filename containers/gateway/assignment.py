"""Which version a user gets: in an experiment by its salt and what was assigned before, else by the route's shares."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol, TypeVar

from tollgate.experiments.assignment import assign, bucket

Served = TypeVar("Served")


class Split(Protocol):
    """What must be known of a running experiment."""

    @property
    def experiment_id(self) -> int:
        """Which experiment."""
        ...

    @property
    def salt(self) -> str:
        """The experiment's own."""
        ...

    @property
    def split(self) -> Mapping[str, float]:
        """Share of each arm."""
        ...

    @property
    def versions(self) -> Mapping[str, object]:
        """What is behind each arm."""
        ...


class Assignments:
    """The arms that users were given. A user keeps an arm when the split changes and when the gateway restarts.

    Args:
        record: Called once for each new assignment with experiment, user and arm; keeps it in the database.
    """

    def __init__(self, record: Callable[[int, str, str], None]) -> None:
        self._record = record
        self._known: dict[int, dict[str, str]] = {}

    def arm(self, arms: Split, user: str) -> str:
        """The user's arm, assigned now if it is the first time."""
        known = self._known.setdefault(arms.experiment_id, {})
        variant = known.get(user)
        if variant is None or variant not in arms.versions:
            variant = known[user] = assign(arms.salt, user, arms.split)
            self._record(arms.experiment_id, user, variant)
        return variant

    def learn(self, experiment_id: int, assigned: Mapping[str, str]) -> None:
        """Take over assignments from the database; where they differ from what is known here, the database is right."""
        self._known.setdefault(experiment_id, {}).update(assigned)

    def keep_only(self, experiments: Collection[int]) -> None:
        """Forget experiments that no longer run."""
        for experiment_id in self._known.keys() - set(experiments):
            self._known.pop(experiment_id, None)


def share_of(route: str, shares: tuple[tuple[Served, float], ...], user: str) -> Served:
    """The version that a user gets outside of experiments; the same user gets the same one while the shares stay.

    Args:
        route: Name of the route; users fall differently on different routes.
        shares: Versions and their shares, in a fixed order, at least one.
        user: The user's pseudonym, or the request's id where there is no user.
    """
    position = bucket(route, user) * sum(share for _, share in shares)
    for version, share in shares:
        position -= share
        if position < 0:
            return version
    return shares[-1][0]
