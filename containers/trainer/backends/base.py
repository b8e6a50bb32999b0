"""What a backend must do, and what all that read a configuration file have in common."""

from __future__ import annotations

import importlib.util
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tollgate.errors import BadInputError, Problem
from tollgate.training.checkpoint_files import CHECKPOINTS
from tollgate.training.spec import TrainingSpec
from trainer.scratch import scratch_folder

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from trainer.resumable import Resumable
    from trainer.stop import Stop


class Backend(ABC):
    """A library that trains.

    ``train.py`` does the rest, alike for all: it trains, stops, resumes, saves the weights and writes the result.

    Attributes:
        name: The value of ``TrainingSpec.backend``, and the name of the backend's file.
    """

    name: str

    @abstractmethod
    def build_trainer(self, spec: TrainingSpec, callbacks: list[TrainerCallback], stop: Stop) -> Resumable:
        """Put together model, data and settings, ready for ``train()``.

        Args:
            spec: The job.
            callbacks: Called back while training.
            stop: Whether to stop.

        Raises:
            BadInputError: It cannot train so, here.
        """


class ConfiguredBackend(Backend):
    """A library that is told what to do by a configuration file.

    The file stays in the job folder as ``<name>.yaml``: it says how the library was asked, and the library's own
    command line can read it.
    """

    @abstractmethod
    def render(self, spec: TrainingSpec, *, on_gpu: bool, cache: Path) -> dict[str, Any]:
        """The specification as the library's configuration; needs no library.

        Args:
            spec: The job.
            on_gpu: Whether the training computes on a GPU.
            cache: A folder for tokenized rows, which is gone after the training.
        """

    @abstractmethod
    def check(self, configuration: Path) -> Any:
        """Read a configuration file by the library's own validator.

        Returns:
            The configuration, as the library holds it.

        Raises:
            BadInputError: The validator refuses it.
        """

    @abstractmethod
    def build(self, spec: TrainingSpec, checked: Any, callbacks: list[TrainerCallback], stop: Stop) -> Resumable:
        """Load model and rows with the library, and make its trainer of it.

        Args:
            spec: The job.
            checked: What :meth:`check` returned.
            callbacks: Called back while training.
            stop: Whether to stop.
        """

    def build_trainer(self, spec: TrainingSpec, callbacks: list[TrainerCallback], stop: Stop) -> Resumable:
        """Render, check, build; then make sure that the library read the rows as they are."""
        import torch

        from trainer.backends.rows import check_rows
        from trainer.packing import check_batch_is_separate

        self._check_installed()
        cache = scratch_folder(spec.output) / "rows"
        cache.mkdir(parents=True, exist_ok=True)
        configuration = spec.output / f"{self.name}.yaml"
        rendered = self.render(spec, on_gpu=torch.cuda.is_available(), cache=cache)
        write_configuration(configuration, rendered)
        trainer = self.build(spec, self.check(configuration), callbacks, stop)
        trainer.args.include_num_input_tokens_seen = "non_padding"  # for the tokens of a second
        check_rows(spec, trainer)
        if spec.packing:
            check_batch_is_separate(trainer)
        return trainer

    def _check_installed(self) -> None:
        if importlib.util.find_spec(self.name) is None:
            expected = f"a backend of this environment; {self.name} is not installed in it (docs/backends.md)"
            raise BadInputError("The training cannot run here.", [Problem("backend", self.name, expected)])


def write_configuration(path: Path, values: dict[str, Any]) -> None:
    """Write a configuration as YAML, all of it or nothing."""
    _write(path, yaml.safe_dump(values, allow_unicode=True, sort_keys=False))


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a file that a configuration names as JSON, all of it or nothing."""
    _write(path, json.dumps(values, ensure_ascii=False, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def read_configuration(path: Path) -> dict[str, Any]:
    """Read a configuration that :func:`write_configuration` wrote."""
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return values


def refused(backend: str, configuration: Path, problems: list[Problem]) -> BadInputError:
    """The error for a configuration that a library's own validator refuses."""
    return BadInputError(f"The validator of {backend} refuses {configuration.name}.", problems)


def gradient_checkpointing(spec: TrainingSpec, *, on_gpu: bool) -> bool:
    """Whether activations are computed twice: as the specification says, else on a GPU."""
    return on_gpu if spec.gradient_checkpointing is None else spec.gradient_checkpointing


def checkpoint_folder(spec: TrainingSpec) -> str:
    """Where the library is told to write."""
    return str(spec.output / CHECKPOINTS)


def resumption(spec: TrainingSpec, stop: Stop) -> dict[str, Any]:
    """The arguments that :class:`trainer.resumable.Resumable` takes beside those of the library's trainer."""
    from trainer.early_stopping import EarlyStopping

    early = None
    if spec.early_stopping_patience is not None:
        early = EarlyStopping(spec.early_stopping_patience, spec.early_stopping_minimum_gain)
    return {
        "job_folder": spec.output,
        "stop": stop,
        "early_stopping": early,
        "checkpoints_kept": spec.checkpoints_kept,
    }
