"""The training specification as fields of Airflow's trigger form, so that form and validation can't drift apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from airflow.sdk import Param

from tollgate.training.spec import TrainingSpec

_KEPT = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "pattern", "description")


def training_params(fields: Iterable[str], section: str, **defaults: Any) -> dict[str, Param]:
    """Form fields for some fields of :class:`TrainingSpec`, with its limits and descriptions.

    Args:
        fields: Names of fields with a default.
        section: The form's section that they stand in.
        **defaults: Defaults that differ from the specification's, by field.
    """
    properties = TrainingSpec.model_json_schema()["properties"]
    return {name: _param(name, properties[name], section, defaults) for name in fields}


def _param(name: str, schema: dict[str, Any], section: str, defaults: dict[str, Any]) -> Param:
    limits = {key: value for key, value in schema.items() if key in _KEPT}
    default = defaults.get(name, schema["default"])
    title = name.replace("_", " ").capitalize().replace("Lora", "LoRA")
    return Param(default, title=title, section=section, **limits)
