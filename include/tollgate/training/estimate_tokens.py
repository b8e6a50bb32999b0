"""How many tokens a training really computes: the rows through the base model's own template and tokenizer."""

from __future__ import annotations

import bisect
import datetime as dt
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from tollgate.errors import BadInputError, Problem
from tollgate.training.spec import TrainingSpec

SAMPLE = 20_000
"""Rows that are tokenized; of larger parts an even sample, and the longest by their characters."""

_LONGEST = 64


@dataclass(frozen=True)
class RowLengths:
    """Tokens of the rows of one part.

    Args:
        rows: How many rows the part has.
        tokens: Tokens of each row that was counted.
        longest: Tokens of the longest row.
    """

    rows: int
    tokens: npt.NDArray[np.int64]
    longest: int

    @property
    def counted(self) -> int:
        """How many rows were tokenized."""
        return int(self.tokens.size)


@dataclass(frozen=True)
class Epoch:
    """One pass over the training part, as one process computes it.

    Args:
        tokens: Tokens of all rows, cut at ``max_length``, over all processes.
        batches: Forward passes of one process.
        steps: Optimiser steps.
        computed: Tokens of one forward pass on the average, padding included.
        squares: Sum over the rows of a pass of their squared length, on the average; attention is paid for by it.
    """

    tokens: int
    batches: int
    steps: int
    computed: float
    squares: float


def row_lengths(file: Path, base_model: Path) -> RowLengths:
    """Count the tokens of a part's rows.

    Args:
        file: ``train.parquet`` or ``validation.parquet`` of a dataset version.
        base_model: Folder with ``tokenizer.json`` and a chat template.

    Raises:
        BadInputError: The file, the tokenizer or the template cannot be read.
    """
    import polars as pl

    try:
        messages = pl.read_parquet(file, columns=["messages"])["messages"]
    except (OSError, pl.exceptions.PolarsError) as error:
        problem = Problem("dataset", f"unreadable {file}", "a part of a dataset version")
        raise BadInputError("The dataset cannot be read.", [problem]) from error
    every = max(1, math.ceil(len(messages) / SAMPLE))
    render = _renderer(base_model)
    tokenizer = _tokenizer(base_model)
    counts = _count(tokenizer, [render(row) for row in messages.gather_every(every).to_list()])
    longest = int(counts.max(initial=0))
    if every > 1:
        characters = messages.list.eval(pl.element().struct.field("content").str.len_chars()).list.sum()
        candidates = characters.arg_sort(descending=True)[:_LONGEST]
        longest = max(
            longest, int(_count(tokenizer, [render(row) for row in messages.gather(candidates).to_list()]).max())
        )
    return RowLengths(rows=len(messages), tokens=counts, longest=longest)


def _count(tokenizer: Any, texts: Sequence[str]) -> npt.NDArray[np.int64]:
    encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return np.fromiter((len(one) for one in encoded), np.int64, len(texts))


def _tokenizer(base_model: Path) -> Any:
    from tokenizers import Tokenizer

    path = base_model / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more exact
        problem = Problem("base_model", f"unreadable {path}", "a tokenizer of the library tokenizers")
        raise BadInputError("The base model's tokenizer cannot be read.", [problem]) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _renderer(base_model: Path) -> Any:
    """The base's chat template, with what transformers gives a template (``utils/chat_template_utils.py``)."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks the assistant's words, which changes no text."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 wants it so

        def parse(self, parser: Parser) -> nodes.Scope:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: dt.datetime.now().strftime(form)}
    source, special = _template(base_model)
    try:
        template = environment.from_string(source)
    except TemplateError as error:
        problem = Problem("base_model", f"a chat template with: {error}", "a template that jinja2 reads")
        raise BadInputError("The base model's chat template cannot be used.", [problem]) from error

    def render(messages: list[dict[str, Any]]) -> str:
        try:
            return template.render(messages=messages, add_generation_prompt=False, **special)
        except TemplateError as error:
            problem = Problem("dataset", f"a row that the base's chat template refuses: {error}", "rows that it takes")
            raise BadInputError("The rows do not fit the base model.", [problem]) from error

    return render


def _template(base_model: Path) -> tuple[str, dict[str, str]]:
    """The template and the special tokens that it may use."""
    try:
        config = json.loads((base_model / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    special = {
        name: value["content"] if isinstance(value, dict) else value
        for name in ("bos_token", "eos_token", "pad_token", "unk_token")
        if (value := config.get(name))
    }
    file = base_model / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    if isinstance(source, list):  # several, by name
        source = next((entry["template"] for entry in source if entry.get("name") == "default"), None)
    if not source:
        problem = Problem("base_model", f"no chat template in {base_model}", "chat_template.jinja")
        raise BadInputError("The base model has no chat template.", [problem])
    return source, special


def epoch(spec: TrainingSpec, lengths: RowLengths) -> Epoch:
    """What one pass over the rows computes, by the way the trainer batches: shuffled, padded to the longest or packed.

    Raises:
        BadInputError: The part has no rows.
    """
    if not lengths.counted:
        raise BadInputError("Nothing to train on.", [Problem("dataset", "no rows in its train part", "at least 1")])
    cut = np.minimum(lengths.tokens, spec.max_length)
    scale = lengths.rows / lengths.counted
    if spec.packing:
        packed = packed_lengths(cut, spec.max_length)
        sequences, computed = len(packed) * scale, spec.batch_size * float(packed.mean())
        squares = computed**2  # one sequence of all rows, under a mask that hides them from each other
    else:
        sequences, (computed, squares) = lengths.rows, _padded(cut, spec.batch_size, spec.seed)
    batches = max(1, math.ceil(sequences / (spec.batch_size * spec.processes)))
    steps = max(1, math.ceil(batches / spec.gradient_accumulation))
    return Epoch(round(float(cut.sum()) * scale), batches, steps, computed, squares)


def total_steps(spec: TrainingSpec, of_epoch: Epoch) -> int:
    """Optimiser steps of the whole training: ``max_steps`` where given, else epochs (transformers' Trainer)."""
    return spec.max_steps or math.ceil(spec.epochs * of_epoch.steps)


def packed_lengths(lengths: npt.NDArray[np.int64], capacity: int) -> npt.NDArray[np.int64]:
    """Fill sequences by best fit decreasing, as TRL does (``packing_strategy="bfd"``).

    Args:
        lengths: Tokens of the rows, at most ``capacity`` each.
        capacity: Tokens of a sequence.

    Returns:
        Tokens of each sequence.
    """
    rooms: list[int] = []  # what is left in each open sequence, in ascending order
    closed = 0
    for length in sorted(lengths.tolist(), reverse=True):
        place = bisect.bisect_left(rooms, length)
        left = (rooms.pop(place) if place < len(rooms) else capacity) - length
        if left:
            bisect.insort(rooms, left)
        else:
            closed += 1
    return capacity - np.array([0] * closed + rooms, dtype=np.int64)


def _padded(lengths: npt.NDArray[np.int64], batch: int, seed: int) -> tuple[float, float]:
    """Mean tokens and mean sum of squares of a batch that is padded to its longest row, over shuffles."""
    draws = np.random.default_rng(seed)
    size = min(batch, lengths.size)
    rounds = max(1, math.ceil(2_000 / max(1, lengths.size // size)))
    longest = np.concatenate(
        [draws.permutation(lengths)[: lengths.size // size * size].reshape(-1, size).max(axis=1) for _ in range(rounds)]
    ).astype(np.float64)
    return float(longest.mean()) * size, float((longest**2).mean()) * size
