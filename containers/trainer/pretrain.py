"""Pre-train the demo's base model from scratch: a tokenizer and a Qwen3 of about 1.3 million parameters, in 2 minutes.

Usage: ``python pretrain.py FOLDER [--seed N] [--threads N]``. Writes a Hugging Face model folder. Where the folder
already holds the model of the same recipe and seed nothing is done.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tollgate.demo import documents as document_source
from tollgate.demo import grammar as grammar_source
from tollgate.demo import messages as message_source
from tollgate.demo.documents import Document, DocumentStream
from tollgate.demo.grammar import load_grammar
from tollgate.demo.recipe import BASE_MODEL, BaseModelRecipe

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message.role == 'assistant' %}"
    "{{- '<|im_start|>assistant\n' }}"
    # The end of the turn lies inside the generation block: the loss must cover it, or the model never learns to stop.
    "{%- generation %}{{- message.content + '<|im_end|>' }}{%- endgeneration %}"
    "{{- '\n' }}"
    "{%- else %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

_FINGERPRINT_FILE = "pretraining.json"
_TOKENIZER_DOCUMENTS = 5000
_POOL = 400
_FEWEST_ROWS = 4
_PROGRESS_STEPS = 20


def main(arguments: list[str] | None = None) -> None:
    """Pre-train into the folder given on the command line, unless it is already there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="where the model goes")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    parser.add_argument("--threads", type=int, default=None, help="threads of PyTorch (default: its own choice)")
    options = parser.parse_args(arguments)
    pretrain(options.folder, BASE_MODEL, options.seed, options.threads)


def pretrain(folder: Path, recipe: BaseModelRecipe, seed: int, threads: int | None = None) -> None:
    """Write the base model of a recipe and a seed, all at once, and print a line of progress (JSON) now and then.

    Args:
        folder: The model's folder; one of another recipe or seed is replaced.
        recipe: Shape and training.
        seed: Seed of weights and documents.
        threads: Threads of PyTorch; its own choice if none.
    """
    if is_current(folder, recipe, seed):
        _report(status="cached", folder=str(folder))
        return
    started = time.monotonic()
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        tokenizer, model = train(recipe, seed, threads)
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        record = {"fingerprint": fingerprint(recipe, seed), "seed": seed, "recipe": recipe.model_dump()}
        for file in temporary.iterdir():
            file.chmod(0o644)  # safetensors writes 0600; a container's user must be able to read
        (temporary / _FINGERPRINT_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        _replace(folder, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _report(status="done", folder=str(folder), seconds=round(time.monotonic() - started, 1))


def is_current(folder: Path, recipe: BaseModelRecipe, seed: int) -> bool:
    """Whether a folder holds the finished model of this recipe and seed."""
    try:
        record = json.loads((folder / _FINGERPRINT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("fingerprint") == fingerprint(recipe, seed)


def fingerprint(recipe: BaseModelRecipe, seed: int) -> str:
    """Hash (SHA-256) of all that the model depends on: recipe, seed, phrases, and the code that makes the documents."""
    digest = hashlib.sha256(f"{recipe.model_dump_json()}{seed}{CHAT_TEMPLATE}".encode())
    sources = [Path(str(module.__file__)) for module in (document_source, grammar_source, message_source)]
    phrases = sorted(sources[0].parent.glob("phrases/*.toml"))
    for path in [Path(__file__), *sources, *phrases]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _replace(folder: Path, temporary: Path) -> None:
    if folder.exists():
        old = temporary.with_name(f"{temporary.name}.old")
        folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old)
    else:
        temporary.rename(folder)


def train(
    recipe: BaseModelRecipe, seed: int, threads: int | None = None
) -> tuple[PreTrainedTokenizerFast, Qwen3ForCausalLM]:
    """Train tokenizer and model."""
    # Spinning threads would starve the other processes of a small machine; read when PyTorch starts its threads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    from trainer.muon import Muon

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(recipe)
    model = build_model(recipe, tokenizer)
    named = dict(model.named_parameters())
    matrices = [one for name, one in named.items() if one.ndim == 2 and "embed" not in name]
    others = [one for name, one in named.items() if one.ndim != 2 or "embed" in name]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=recipe.matrix_learning_rate),
        torch.optim.AdamW(others, lr=recipe.other_learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(one, lambda step: _rate(step, recipe.steps)) for one in optimizers]
    _report(status="training", parameters=sum(one.numel() for one in named.values()), max_steps=recipe.steps)
    model.train()
    for step, (tokens, weights) in enumerate(itertools.islice(batches(recipe, tokenizer, seed), recipe.steps), start=1):
        loss = weighted_loss(model(input_ids=tokens).logits, tokens, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(named.values(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        if step % _PROGRESS_STEPS == 0 or step == recipe.steps:
            _report(step=step, max_steps=recipe.steps, loss=round(loss.item(), 4))
    return tokenizer, model.eval()


def _rate(step: int, steps: int) -> float:
    """Share of the peak learning rate: 20 steps up, then down in a straight line to a twentieth."""
    return min(1.0, (step + 1) / 20) * (0.05 + 0.95 * (1 - step / steps))


def weighted_loss(logits: torch.Tensor, tokens: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next token, in nats, each target counting by its weight.

    Args:
        logits: Shape (rows, length, vocabulary).
        tokens: Shape (rows, length).
        weights: Shape (rows, length); 0 for padding.
    """
    from torch.nn.functional import cross_entropy

    targets, counts = tokens[:, 1:], weights[:, 1:]
    losses = cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), reduction="none").view_as(counts)
    return (losses * counts).sum() / counts.sum()


def train_tokenizer(recipe: BaseModelRecipe) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer in which names of roads, directions and up to three digits stay whole."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    names = sorted(_names(), key=len, reverse=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d{1,3}|" + "|".join(names)), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_texts(names), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=TURN_END, pad_token=END_OF_TEXT, model_max_length=recipe.context
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _names() -> list[str]:
    places = load_grammar().places
    return ["고속도로", *places.routes, *places.directions]


def _tokenizer_texts(names: list[str]) -> Iterator[str]:
    """Documents, and on top every syllable, number and name often enough to become one token."""
    texts = []
    for document in itertools.islice(DocumentStream(1, BASE_MODEL.copy_share), _TOKENIZER_DOCUMENTS):
        texts += [document.context, document.target]
    syllables = sorted({character for text in texts for character in text if "가" <= character <= "힣"})
    yield from texts
    for words, times in ((syllables, 60), ([str(number) for number in range(1, 421)], 200), (names, 500)):
        yield from (word for word in words for _ in range(times))


def build_model(recipe: BaseModelRecipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3 with random weights for the tokenizer."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden,
            intermediate_size=recipe.intermediate,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.key_value_heads,
            head_dim=recipe.head_size,
            max_position_embeddings=recipe.context,
            rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    with torch.no_grad():
        # The output layer is tied: from the usual 0.02 a rare token would need long to reach a high logit.
        model.model.embed_tokens.weight.normal_(0.0, recipe.embedding_scale)
    return model


def batches(
    recipe: BaseModelRecipe, tokenizer: PreTrainedTokenizerFast, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of whole documents of like length: tokens and weights, both of shape (rows, length)."""
    import torch

    stream = DocumentStream(seed, recipe.early_copy_share)
    order = random.Random(f"{seed}/batches")  # noqa: S311 - not for secrets
    done = 0
    while True:
        stream.copy_share = recipe.early_copy_share if done < recipe.steps / 5 else recipe.copy_share
        pool = [encode(document, tokenizer, recipe.context_weight) for document in itertools.islice(stream, _POOL)]
        groups = _grouped(sorted(pool, key=lambda row: len(row[0])), recipe.tokens_per_step)
        order.shuffle(groups)
        for group in groups:
            length = max(len(tokens) for tokens, _ in group)
            padding = tokenizer.pad_token_id
            yield (
                torch.tensor([tokens + [padding] * (length - len(tokens)) for tokens, _ in group]),
                torch.tensor([weights + [0.0] * (length - len(weights)) for _, weights in group]),
            )
            done += 1


def _grouped(rows: list[tuple[list[int], list[float]]], size: int) -> list[list[tuple[list[int], list[float]]]]:
    groups: list[list[tuple[list[int], list[float]]]] = [[]]
    for row in rows:
        if groups[-1] and len(row[0]) * (len(groups[-1]) + 1) > size:
            groups.append([])
        groups[-1].append(row)
    return [group for group in groups if len(group) >= _FEWEST_ROWS]


def encode(
    document: Document, tokenizer: PreTrainedTokenizerFast, context_weight: float
) -> tuple[list[int], list[float]]:
    """Tokens of a document and their weights in the loss: 1 for what follows from the context, less for the context."""
    if document.system is None:
        context, target = document.context, document.target
    else:
        turns = [{"role": "system", "content": document.system}, {"role": "user", "content": document.context}]
        context = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        target = document.target + TURN_END
    before, after = tokenizer([context, target], add_special_tokens=False)["input_ids"]
    if document.system is None:
        after = [*after, tokenizer.pad_token_id]
    weight = 1.0 if target else context_weight
    return before + after, [context_weight] * len(before) + [weight] * len(after)


def _report(**values: Any) -> None:
    print(json.dumps(values, ensure_ascii=False), flush=True)  # noqa: T201 - the caller reads progress from here


if __name__ == "__main__":
    # Run as a script, Python puts this folder on its path; the package ``trainer`` is one level up.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    main()
