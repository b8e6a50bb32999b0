"""The libraries that can run a training, and which fields of a specification each of them honours.

Everything is honoured that this table does not limit. A value outside of a limit is refused before anything starts;
``docs/backends.md`` says why each limit is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tollgate.errors import Problem

if TYPE_CHECKING:
    from tollgate.training.spec import TrainingSpec

BackendName = Literal["trl", "axolotl", "llamafactory"]
DEFAULT: BackendName = "trl"


class Limit(NamedTuple):
    """What a backend does with a field: which values it honours, and how people are told."""

    honours: Callable[[Any], bool]
    expected: str


_ONE_PROCESS: Mapping[str, Limit] = {
    "processes": Limit(lambda count: count == 1, "1"),
    "distribution": Limit(lambda way: way == "none", "none"),
}

LIMITS: Mapping[BackendName, Mapping[str, Limit]] = {
    "trl": {},
    "axolotl": {**_ONE_PROCESS, "packing": Limit(lambda packed: not packed, "false")},
    "llamafactory": {
        "distribution": Limit(lambda way: way in {"none", "ddp"}, "none or ddp"),
        "target_modules": Limit(
            lambda named: named == "all-linear" or isinstance(named, list), "all-linear, or a list of layer names"
        ),
    },
}
"""By backend, the fields of which it honours some values only."""


def not_honoured(spec: TrainingSpec, wrong: frozenset[str] = frozenset()) -> list[Problem]:
    """Fields whose values the specification's backend cannot honour.

    Args:
        spec: The specification.
        wrong: Fields that are not looked at, as what was given is wrong by itself.

    Returns:
        One problem for each such field, with what the backend allows.
    """
    if "backend" in wrong:
        return []
    return [
        Problem(field, repr(value), f"{limit.expected} with the backend {spec.backend}; trl honours every value")
        for field, limit in LIMITS[spec.backend].items()
        if field not in wrong and not limit.honours(value := getattr(spec, field))
    ]
