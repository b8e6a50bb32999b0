"""What ``retrain`` starts ``finetune`` with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def parameters(dataset: str, finetune: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Parameters for one run of ``finetune``.

    Args:
        dataset: The dataset that is retrained on, for example ``highway@latest``.
        finetune: Parameters of ``finetune`` that differ from its defaults.
        events: What the events that started the run say: each the ``dataset`` reference of a new version. Empty when
            the clock started it.

    Returns:
        The parameters; null where there are new versions, but of other datasets only.
    """
    if not events:
        return {**finetune, "dataset": dataset}
    name = dataset.partition("@")[0]
    ours = [str(event["dataset"]) for event in events if str(event.get("dataset", "")).partition("@")[0] == name]
    if not ours:
        return None
    newest = max(ours, key=lambda reference: int(reference.rpartition("@v")[2]))
    return {**finetune, "dataset": newest}
