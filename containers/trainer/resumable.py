"""A trainer that loses nothing: whole checkpoints, exact resumption, and a stop that cuts an evaluation short.

Transformers' trainer restores weights, optimizer, schedule, place in the data and random states. What it forgets is
kept beside its state in ``resume_state.json``: losses that were added up since the last line of progress, counters, an
evaluation that was cut, early stopping. With it the lines of a resumed run equal those of an uninterrupted one.
"""

from __future__ import annotations

import errno
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tollgate.training.checkpoint_files import RESUME_STATE, resume_state
from trainer.checkpoints import WRITING, checkpoint_of_step, publish, rotate, seal
from trainer.early_stopping import EarlyStopping
from trainer.failures import is_disk_full
from trainer.stop import Stop


class EvaluationCutError(Exception):
    """A stop came in the middle of an evaluation."""


class RandomStates:
    """All random states of this process, captured now."""

    def __init__(self) -> None:
        self._python, self._numpy = random.getstate(), numpy.random.get_state()
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restore(self) -> None:
        """Set them again."""
        random.setstate(self._python)
        numpy.random.set_state(self._numpy)
        torch.set_rng_state(self._cpu)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)


class Resumable(Trainer):  # type: ignore[misc]
    """The above, for any library's trainer that is one of transformers: ``class Mine(Resumable, TheirTrainer)``.

    Args:
        job_folder: The job; checkpoints go to ``checkpoints/`` in it.
        stop: Whether to stop.
        early_stopping: Where the validation loss decides about the end; None: it does not.
        checkpoints_kept: How many checkpoints stay, 1 or more; the best one of early stopping stays as well.
        *args: As for the library's trainer.
        **kwargs: As for the library's trainer.
    """

    def __init__(
        self,
        *args: Any,
        job_folder: Path,
        stop: Stop,
        early_stopping: EarlyStopping | None,
        checkpoints_kept: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.early_stopping = early_stopping
        self._job_folder = job_folder
        self._stop = stop
        self._stopped = False
        self._kept = checkpoints_kept
        self._is_writing = False
        self._resumed_from: Path | None = None
        self._missed_evaluation = False
        self._states_after_catching_up: RandomStates | None = None
        if early_stopping is not None:
            self.add_callback(early_stopping)
        self.add_callback(_Watch(self))

    def stop_requested(self) -> bool:
        """Whether any process of this training was asked to stop; all processes get the same answer."""
        asked = self._stop.requested
        if self.args.world_size > 1:
            answer = torch.tensor([int(asked)], device=self.args.device)
            torch.distributed.all_reduce(answer, op=torch.distributed.ReduceOp.MAX)
            asked = bool(answer.item())
        self._stopped = self._stopped or asked
        return asked

    @property
    def is_over(self) -> bool:
        """Whether no step is left to train."""
        ended = self.early_stopping is not None and self.early_stopping.reason is not None
        return ended or self.state.global_step >= self.state.max_steps

    @property
    def was_cut_short(self) -> bool:
        """Whether a stop left something to train or to measure."""
        return self._stopped and (self._missed_evaluation or not self.is_over)

    # Checkpoints: written aside, sealed, renamed; only then are older ones deleted.

    def _get_output_dir(self, trial: Any) -> str:
        folder = Path(super()._get_output_dir(trial))
        return str(folder / WRITING if self._is_writing else folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial))
        written = folder / WRITING / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(folder / WRITING, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._is_writing = True
        try:
            super()._save_checkpoint(model, trial)
            self._write_resume_state(written)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                seal(written)
        except Exception as error:
            full = is_disk_full(error, folder)
            shutil.rmtree(folder / WRITING, ignore_errors=True)
            if full:
                text = f"No space left for checkpoint-{self.state.global_step} in {folder}"
                raise OSError(errno.ENOSPC, text) from error
            raise
        finally:
            self._is_writing = False
        if self.args.should_save:
            publish(written, folder / written.name)
            best = self.early_stopping.best_step if self.early_stopping else None
            rotate(folder, self._kept, () if best is None else (best,))
        self.accelerator.wait_for_everyone()

    def _write_resume_state(self, written: Path) -> None:
        since_logged = self.accelerator.gather(self._tr_loss.reshape(1)).tolist()
        if not self.args.should_save:
            return
        state = {
            "loss_since_logged": since_logged,
            "last_logged_step": self._globalstep_last_logged,
            "total_loss": self._total_loss_scalar,
            "train_tokens": getattr(self, "_total_train_tokens", 0),
            "train_metrics": dict(getattr(self, "_metrics", {}).get("train", {})),  # TRL's alone
            "missed_evaluation": self._missed_evaluation,
            "early_stopping": self.early_stopping.state() if self.early_stopping else None,
        }
        (written / RESUME_STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

    # Resumption.

    def _init_training_state(self, max_steps: int, *args: Any, **kwargs: Any) -> tuple[int, int]:
        place: tuple[int, int] = super()._init_training_state(max_steps, *args, **kwargs)
        # The state of a checkpoint carries the intervals of its time; those of the specification count.
        self.state.compute_steps(self.args, max_steps)
        return place

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        types = self._trained_types()
        super()._load_from_checkpoint(*args, **kwargs)
        self._keep_types(types)

    def _trained_types(self) -> dict[str, torch.dtype]:
        return {name: weight.dtype for name, weight in self.model.named_parameters() if weight.requires_grad}

    def _keep_types(self, types: dict[str, torch.dtype]) -> None:
        """TRL trains adapters over 4-bit weights in bf16; PEFT loads them in fp32, which would train differently."""
        for name, weight in self.model.named_parameters():
            if name in types and weight.dtype != types[name]:
                weight.data = weight.data.to(types[name])

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """As ``Trainer.train``, but exact where it resumes."""
        self._resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def restore_what_was_forgotten(self) -> None:
        """Take up ``resume_state.json`` of the checkpoint; called when the rest is restored."""
        kept = resume_state(self._resumed_from) if self._resumed_from else {}
        if not kept:
            return
        losses, rank = kept["loss_since_logged"], self.args.process_index
        mine = losses[rank] if len(losses) == self.args.world_size else sum(losses) / len(losses)
        self._tr_loss = torch.tensor(mine, device=self.args.device)
        self._globalstep_last_logged = kept["last_logged_step"]
        self._total_loss_scalar = kept["total_loss"]
        if hasattr(self, "_metrics"):
            self._total_train_tokens = kept["train_tokens"]
            self._metrics["train"].update({name: list(values) for name, values in kept["train_metrics"].items()})
        self._missed_evaluation = kept["missed_evaluation"]
        self._restore_early_stopping(kept["early_stopping"])

    def _restore_early_stopping(self, remembered: dict[str, Any] | None) -> None:
        if self.early_stopping is None or not remembered:
            return
        self.early_stopping.restore(remembered)
        best = self.early_stopping.best_step
        if best is not None and checkpoint_of_step(self._job_folder, best) is None:
            self.early_stopping.forget_best()

    def _run_epoch(self, **kwargs: Any) -> None:
        self._catch_up(**kwargs)
        if self.is_over:  # resumed at the very end; the trainer would train one step too many
            self.control.should_training_stop = True
            return
        super()._run_epoch(**kwargs)

    def _finalize_training(self, trial: Any, num_train_samples: Any, start_time: float) -> Any:
        self._catch_up(model=self.model_wrapped, trial=trial, epoch=0, ignore_keys_for_eval=None, start_time=start_time)
        return super()._finalize_training(trial, num_train_samples, start_time)

    def _catch_up(
        self, *, model: Any, trial: Any, epoch: int, ignore_keys_for_eval: Any, start_time: float, **_: Any
    ) -> None:
        """Make up for the evaluation that a stop cut, with the random states it would have had."""
        if not self._missed_evaluation or self._resumed_from is None:
            return
        super()._load_rng_state(str(self._resumed_from))
        self._missed_evaluation = False
        self.control.should_evaluate, self.control.should_save, self.control.should_log = True, False, False
        self._maybe_log_save_evaluate(
            self._tr_loss, None, model, trial, epoch, ignore_keys_for_eval, start_time, learning_rate=None
        )
        self.control.should_evaluate = self.control.should_save = False
        self._states_after_catching_up = RandomStates()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self._states_after_catching_up is None:
            super()._load_rng_state(checkpoint)
        else:
            self._states_after_catching_up.restore()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the trainer's, but the summary at the end is that of all steps, and a stop is no end."""
        if "train_loss" in logs and self.was_cut_short:
            return
        if "train_loss" in logs and self.state.global_step:
            logs["train_loss"] = self._total_loss_scalar / self.state.global_step
        super().log(logs, start_time)

    # Evaluation.

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        before = RandomStates()
        try:
            metrics: dict[str, float] = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        except EvaluationCutError:
            before.restore()
            self._missed_evaluation = True
            self.control.should_save = self.control.should_training_stop = True
            return {}
        return metrics

    def evaluated(self, step: int) -> dict[str, float] | None:
        """What was measured on the validation part at a step, where it was."""
        lines = (line for line in reversed(self.state.log_history) if line["step"] == step and "eval_loss" in line)
        return next(lines, None)

    def load_best(self) -> int | None:
        """With early stopping, go back to the weights of the lowest validation loss.

        Returns:
            Their step; None where the present weights stay.
        """
        best = self.early_stopping.best_step if self.early_stopping else None
        folder = None if best is None else checkpoint_of_step(self._job_folder, best)
        if best is None or folder is None:
            return None
        if best != self.state.global_step:
            self.state.best_model_checkpoint = str(folder)
            types = self._trained_types()
            self._load_best_model()
            self._keep_types(types)
        return best


class _Watch(TrainerCallback):
    """Tells the trainer when its turn has come, and looks whether to stop."""

    def __init__(self, trainer: Resumable) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Weights, optimizer and state are restored; now the rest."""
        self._trainer.restore_what_was_forgotten()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop, if asked to."""
        if self._trainer.stop_requested():
            control.should_save = control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A stop that came while a checkpoint was written needs no further step."""
        if self._trainer.stop_requested():
            control.should_training_stop = True

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """An evaluation may take longer than the grace between SIGTERM and SIGKILL: cut it."""
        if self._trainer.stop_requested():
            raise EvaluationCutError
