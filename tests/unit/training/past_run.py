"""Job folders of runs that measured themselves, whose steps take what a made-up device would take."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tollgate.training.memory import Device
from tollgate.training.model_shape import read_shape
from tollgate.training.rates import operations
from tollgate.training.spec import TrainingSpec

PER_PASS, PER_FLOP = 0.02, 1e-9
FRAMEWORK = 500_000_000


def write_run(
    jobs: Path,
    spec: TrainingSpec,
    name: str,
    device: Device = "cpu",
    *,
    busy: float = 1.0,
    ended: int = 0,
    **measured: Any,
) -> Path:
    """Steps of 1 to 4 passes over rows of 20 to 80 tokens; ``busy`` seconds of the processor in one on the clock."""
    folder = jobs / name
    folder.mkdir(parents=True)
    shape = read_shape(spec.base_model)
    samples = []
    for number in range(12):
        passes, length = 1 + number % 4, 20 + 20 * (number // 3)
        tokens = passes * spec.batch_size * length
        flops = operations(shape, spec, tokens, tokens * length, device)
        cpu = PER_PASS * passes + PER_FLOP * flops
        samples.append([passes, tokens, tokens * length, cpu / busy, cpu])
    seconds, cpu_seconds = (sum(sample[place] for sample in samples) for place in (3, 4))
    result = {
        "status": "succeeded",
        "measured": {
            "device": device,
            "device_name": "made-up",
            "threads": 1,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "samples": samples,
            "framework_bytes": FRAMEWORK,
            **measured,
        },
    }
    (folder / "spec.json").write_text(spec.model_dump_json())
    (folder / "result.json").write_text(json.dumps(result))
    os.utime(folder / "result.json", (ended, ended))
    return folder
