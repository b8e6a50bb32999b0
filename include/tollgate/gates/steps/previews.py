"""Short excerpts of rows for results and reports: masked whatever the mode, on one line."""

from __future__ import annotations

from tollgate.gates import pii
from tollgate.gates.gate_settings import GateSettings

SAMPLES = 5
"""How many rows stand for all those of their kind."""

_CHARACTERS = 60


def preview(text: str, settings: GateSettings) -> str:
    """The beginning of a text."""
    accurate = settings.personal_data_names == "accurate"
    masked = " ".join(pii.mask(text, pii.KINDS, settings.personal_data_allowed, accurate).text.split())
    return masked if len(masked) <= _CHARACTERS else masked[:_CHARACTERS] + "…"
