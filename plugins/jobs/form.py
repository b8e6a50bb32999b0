"""The training specification as fields of Airflow's trigger form, so that form and validation can't drift apart."""

from __future__ import annotations

import json
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


def optional_params(fields: Iterable[str], section: str) -> dict[str, Param]:
    """Form fields that start empty and, left so, mean the specification's default, which their description tells.

    An empty one is no part of the request, so that the same field may stand in ``more_hyperparameters``.

    Args:
        fields: Names of fields with a default.
        section: The form's section that they stand in.
    """
    properties = TrainingSpec.model_json_schema()["properties"]
    return {name: _optional(name, properties[name], section) for name in fields}


def _param(name: str, schema: dict[str, Any], section: str, defaults: dict[str, Any]) -> Param:
    return Param(defaults.get(name, schema["default"]), title=_title(name), section=section, **_limits(schema))


def _optional(name: str, schema: dict[str, Any], section: str) -> Param:
    limits = _limits(schema)
    default = schema["default"]
    if default is not None:
        said = json.dumps(default).strip('"')
        limits["description"] = f"{schema['description'].rstrip('.')}; empty: {said}."
    limits["type"] = ["null", *([limits["type"]] if isinstance(limits["type"], str) else limits["type"])]
    limits["type"] = list(dict.fromkeys(limits["type"]))
    if "enum" in limits:
        limits["enum"] = [None, *limits["enum"]]
    return Param(None, title=_title(name), section=section, **limits)


def _limits(schema: dict[str, Any]) -> dict[str, Any]:
    """What the form keeps of a field's schema; of an optional field, what its one kind of value may be."""
    kinds = schema.get("anyOf", [])
    inner = {key: value for kind in kinds for key, value in kind.items() if key in _KEPT and key != "type"}
    types = {"type": [kind["type"] for kind in kinds]} if kinds else {}
    return {**inner, **types, **{key: value for key, value in schema.items() if key in _KEPT}}


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize().replace("Lora", "LoRA")
