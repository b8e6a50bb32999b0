"""The libraries that can run a training, and which fields of a specification each of them honours.

Everything is honoured that this table does not limit. A value outside of a limit is refused before anything starts;
``docs/backends.md`` says why each limit is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

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
