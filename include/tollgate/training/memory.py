"""How much memory a training needs at most on one device, by part, from the shape of the model alone.

Bytes of a parameter and of what the optimiser keeps follow Rajbhandari et al. 2020 (ZeRO, arXiv:1910.02054, section 3),
activations the way of counting of Korthikanti et al. 2022 (arXiv:2205.05198, section 4) for the blocks of Llama and
Qwen. What autograd keeps of such a block was counted with ``torch.autograd.graph.saved_tensors_hooks`` (PyTorch 2.13,
transformers 5.19, PEFT 0.21) over 12 random shapes for each method and precision; the table below met the counts within
0.1 % where no row is padded.

On a CPU resident memory was compared with runs of the trainer (``tests/unit/training/test_memory.py``), by phase. 4-bit
weights took what ``_states`` says within 1 %; their unpacking is small beside the rest. What counts for qlora is the
validation: it comes when the training has left its freed activations behind, and its batches are larger.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from tollgate.training.model_shape import ModelShape
from tollgate.training.spec import TrainingSpec

Device = Literal["cpu", "gpu"]
Phase = Literal["training", "evaluation", "loading"]

CPU_FRAMEWORK_BYTES = 600 * 10**6
"""Resident beside the model when training begins: Python, PyTorch, transformers, TRL, PEFT, the rows."""

CPU_GROWTH_BYTES = 60 * 10**6
"""What libraries need more once they compute: code that is read from disk, thread-local buffers. Measured."""

CPU_SPREAD = 1.15
"""Resident over what tensors hold, as glibc keeps freed blocks below 32 MB. Measured."""

GPU_FRAMEWORK_BYTES = 10**9
"""CUDA's context and the libraries' workspaces, which PyTorch's allocator does not see. Not measured here."""

GPU_FRAGMENTATION = 1.05
"""Reserved by PyTorch's caching allocator over what is in use. Not measured here."""

EVALUATION_ROWS = 32
"""Rows of a validation batch at the least (containers/trainer/sft.py)."""

LOSS_TOKENS, LOSS_VOCABULARY = 4096, 32768
"""Size of a tile of logits: TRL 1.16 never holds all of them (trl/kernels/chunked_logprob.py)."""

_LOSS_COPIES_ON_CPU = 7
"""Tiles of float32 that the loss's backward holds at once without Triton (``_backward_tile`` there)."""

_QUANTIZED_BITS = 4 + 0.127
"""Bits of a weight in NF4 with double quantisation (Dettmers et al. 2023, arXiv:2305.14314, section 3)."""


@dataclass(frozen=True)
class _Kept:
    """Bytes that autograd keeps of one block for a token: by unit of width, of heads, and of the adapter's rank."""

    hidden: float
    query: float
    key_value: float
    intermediate: float
    rank: float = 0.0
    heads: float = 8.0

    def of(self, shape: ModelShape, rank: int) -> float:
        return (
            self.hidden * shape.hidden
            + self.query * shape.query
            + self.key_value * shape.key_value
            + self.intermediate * shape.intermediate
            + self.heads * (shape.heads + shape.key_value_heads)
            + self.rank * rank
        )


_KEPT = {
    ("full", "fp32"): _Kept(24, 16, 16, 16),
    ("full", "bf16"): _Kept(16, 10, 10, 8),
    ("lora", "fp32"): _Kept(16, 12, 12, 16, rank=28),
    ("lora", "bf16"): _Kept(18, 10, 8, 8, rank=14),
    ("qlora", "fp32"): _Kept(18, 14, 12, 14, rank=14),
    ("qlora", "bf16"): _Kept(12, 8, 8, 8, rank=14),
}


_REPACKED_BYTES = 8
"""Of each weight of a layer while bitsandbytes 0.50 changes its 4 bits between the forms of training and of validation
on a CPU: 4 in int32, and copies in uint8 (``_convert_weight_packed_for_cpu`` and its inverse in functional.py)."""


@dataclass(frozen=True)
class Lengths:
    """The longest batches, in tokens a row: of the training part (cut at max_length) and of the validation part.

    ``evaluation_rows`` are the rows of the validation part: a batch never has more; None where nobody counted them.
    """

    training: int
    evaluation: int
    evaluation_rows: int | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes on one device. Not all parts are there at once: ``peak`` is what is, at most, and ``phase`` when.

    Args:
        framework: The process without a model.
        weights: The base's weights, as they are computed with.
        adapter: The adapter's weights.
        gradients: Of what is trained.
        optimizer: Two moments for each trained parameter, and its master copy where ZeRO keeps one.
        activations: Kept from the forward pass for the backward pass.
        logits: Tile of the logits and gradients of the last layer.
        workspace: Passing values of the computation, gathered and unpacked weights.
        peak: At most at one time.
        phase: When that is.
    """

    framework: int
    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    workspace: int
    peak: int
    phase: Phase

    def parts(self) -> dict[str, int]:
        """The parts by name."""
        return {name: value for name, value in asdict(self).items() if name not in ("peak", "phase")}


def estimate_memory(
    shape: ModelShape, spec: TrainingSpec, lengths: Lengths, device: Device, framework: int | None = None
) -> Memory:
    """What one process of the training holds at most.

    Args:
        shape: The base model.
        spec: The job.
        lengths: The longest rows; a batch is padded to its longest one.
        device: Where it runs.
        framework: Bytes of a process without a model, where that was measured.

    Returns:
        Parts and peak in bytes.
    """
    if framework is None:
        framework = CPU_FRAMEWORK_BYTES if device == "cpu" else GPU_FRAMEWORK_BYTES
    weights, adapter, gradients, optimizer = _states(shape, spec)
    tokens = tokens_at_once(spec, lengths.training)
    logits = _logits(shape, spec, tokens, device)
    activations = _activations(shape, spec, tokens, device)
    workspace = _workspace(shape, spec, tokens)
    evaluated = _evaluation(shape, spec, lengths, device)
    if device == "cpu":
        framework += CPU_GROWTH_BYTES
        activations, logits, workspace, evaluated = (
            CPU_SPREAD * value for value in (activations, logits, workspace, evaluated)
        )
    states = weights + adapter + optimizer
    # Gradients grow while activations go; those of earlier passes of the same step are there from the beginning.
    passing = activations + logits + workspace
    moving = gradients + passing if spec.gradient_accumulation > 1 else max(gradients, passing)
    # What the activations leave stays resident on a CPU: glibc gives back what it has mapped, which are blocks of 32 MB
    # and more, and an activation is smaller. The tiles of the logits of a validation batch come on top. Measured.
    left = activations if device == "cpu" else 0.0
    by_phase: dict[Phase, float] = {
        "training": states + moving,
        "evaluation": states + left + evaluated,
        "loading": weights + (shape.parameters * _width(spec) if device == "cpu" else 0),
    }
    phase = max(by_phase, key=lambda name: by_phase[name])
    spread = GPU_FRAGMENTATION if device == "gpu" else 1.0
    return Memory(
        framework=framework,
        weights=round(weights),
        adapter=round(adapter),
        gradients=round(gradients),
        optimizer=round(optimizer),
        activations=round(activations),
        logits=round(logits),
        workspace=round(workspace),
        peak=round(framework + by_phase[phase] * spread),
        phase=phase,
    )


def tokens_at_once(spec: TrainingSpec, longest: int) -> int:
    """Tokens of the largest batch of one process: rows padded to the longest; packed ones are full."""
    return spec.batch_size * (spec.max_length if spec.packing else min(longest, spec.max_length))


def checkpoints_activations(spec: TrainingSpec, device: Device) -> bool:
    """Whether activations are computed twice: as asked for, and unless told on a GPU."""
    return device == "gpu" if spec.gradient_checkpointing is None else spec.gradient_checkpointing


def trained_parameters(shape: ModelShape, spec: TrainingSpec) -> int:
    """Parameters that the training changes."""
    return shape.parameters if spec.method == "full" else shape.adapter_parameters(spec.lora_rank, spec.target_modules)


def _width(spec: TrainingSpec) -> int:
    return 2 if spec.precision == "bf16" else 4


def _trained_width(spec: TrainingSpec) -> int:
    """Bytes of a trained parameter: PEFT keeps adapters in float32, TRL those over 4 bits in bfloat16."""
    if spec.method == "full":
        return _width(spec)
    if spec.method == "qlora":
        return 2
    return _width(spec) if spec.distribution == "zero3" else 4


def _states(shape: ModelShape, spec: TrainingSpec) -> tuple[float, float, float, float]:
    """Bytes of weights, adapter, gradients and optimiser on one device, as the distribution shares them."""
    width, trained_width = _width(spec), _trained_width(spec)
    weights: float = shape.parameters * width
    if spec.method == "qlora":
        weights = (shape.parameters - shape.linear_parameters) * width + shape.linear_parameters * _QUANTIZED_BITS / 8
    trained = trained_parameters(shape, spec)
    adapter: float = 0 if spec.method == "full" else trained * trained_width
    gradients: float = trained * trained_width
    optimizer: float = 2 * gradients
    devices = spec.processes
    if spec.distribution in ("zero2", "zero3"):  # fp32 master weights and moments: K = 12 there, section 3.1
        optimizer = trained * 12 / devices if trained_width == 2 else optimizer / devices
        gradients /= devices
    elif spec.distribution == "fsdp":
        gradients, optimizer = gradients / devices, optimizer / devices
    elif spec.distribution == "ddp" and devices > 1:
        gradients *= 2  # its buckets are a copy (gradient_as_bucket_view is off)
    if spec.distribution in ("fsdp", "zero3"):
        weights, adapter = weights / devices, adapter / devices
    return weights, adapter, gradients, optimizer


def _activations(shape: ModelShape, spec: TrainingSpec, tokens: int, device: Device) -> float:
    """What autograd keeps: of every block all, or with checkpointing the input of each and all of one."""
    block = _KEPT[spec.method, spec.precision].of(shape, spec.lora_rank)
    if spec.batch_size > 1 and not spec.packing and shape.key_value_heads < shape.heads:
        # Under a padding mask, attention keeps keys and values repeated for every query head.
        block += 2 * _width(spec) * (shape.query - shape.key_value)
    ends = 8 * shape.hidden  # the embedding's output and the last norm, in float32
    if checkpoints_activations(spec, device):
        return tokens * (ends + shape.layers * _width(spec) * shape.hidden + block)
    return tokens * (ends + shape.layers * block)


def _logits(shape: ModelShape, spec: TrainingSpec, tokens: int, device: Device) -> float:
    tile = min(tokens, LOSS_TOKENS) * min(shape.vocabulary, LOSS_VOCABULARY)
    bytes_each = _width(spec) + (4 * _LOSS_COPIES_ON_CPU if device == "cpu" else 0)
    head = shape.vocabulary * shape.hidden * 4 if spec.method == "full" else 0  # its gradient, always in float32
    return tile * bytes_each + tokens * shape.hidden * 4 + head


def _workspace(shape: ModelShape, spec: TrainingSpec, tokens: int) -> float:
    """Gradients passing through the widest part of a block; weights unpacked from 4 bits or gathered for two blocks."""
    passing = tokens * _width(spec) * (3 * shape.intermediate + shape.hidden)
    unpacked = 2 * _largest(shape) * _width(spec) if spec.method == "qlora" else 0
    shared = spec.distribution in ("fsdp", "zero3") and spec.processes > 1
    gathered = 2 * shape.linear_parameters / shape.layers * _width(spec) if shared else 0
    return passing + unpacked + gathered


def _evaluation(shape: ModelShape, spec: TrainingSpec, lengths: Lengths, device: Device) -> float:
    """A validation batch: nothing is kept, and only one block's values are there at a time.

    The largest of what passes in an MLP, in attention and in the loss; over 4 bits on a CPU, a layer that is repacked.
    """
    rows = max(spec.batch_size, EVALUATION_ROWS)
    if lengths.evaluation_rows is not None:
        rows = min(rows, lengths.evaluation_rows)
    tokens = rows * min(lengths.evaluation, spec.max_length)
    width = _width(spec)
    # Over 4 bits PEFT copies what the layer computed before it adds the adapter's share (peft/tuners/lora/bnb.py).
    copies = 4 if spec.method == "qlora" else 3
    block = tokens * width * copies * (shape.intermediate + shape.hidden)
    attention = tokens * width * (4 * shape.query + 2 * shape.hidden)
    tile = min(tokens, LOSS_TOKENS) * min(shape.vocabulary, LOSS_VOCABULARY)
    loss = tile * (width + (20 if device == "cpu" else 0)) + tokens * shape.hidden * width
    repacked = _REPACKED_BYTES * _largest(shape) if spec.method == "qlora" and device == "cpu" else 0
    return max(block, attention, loss, repacked)


def _largest(shape: ModelShape) -> int:
    """Weights of the largest linear layer."""
    return max((layer.inputs * layer.outputs for layer in shape.linear), default=0)
