"""A checkpoint's files, without weights worth the name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tollgate.training.checkpoint_files import RESUME_STATE, write_manifest


def write_checkpoint(folder: Path, step: int, *, manifest: bool = True, **resume_state: Any) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "adapter_model.safetensors").write_bytes(bytes(1000 + step))
    (checkpoint / "optimizer.pt").write_bytes(bytes(2000))
    history = [{"step": step - 1, "loss": 2.0, "learning_rate": 1e-4}, {"step": step, "eval_loss": 1.5}]
    state = {"global_step": step, "epoch": step / 10, "log_history": history}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    (checkpoint / RESUME_STATE).write_text(json.dumps(resume_state))
    if manifest:
        write_manifest(checkpoint)
    return checkpoint
