"""Heads that a run does not train: their scores before and after training, and how far their predictions drift.

Notable: a head is not trained if its task is only scored or the head is frozen. It is scored twice on the same rows, so
the run itself shows whether its predictions changed. A head without weights is scored twice, too: the score of the
untrained encoder is the baseline of its task.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..data.rows import EncodedSplit
from ..saved.start import listed
from ..training.trainer import MultiTaskTrainer

logger = logging.getLogger(__name__)


@dataclass
class Answered:
    """Scores, answers and logits of a split.

    Attributes:
        results: The result of `metrics.score`.
        answers: Source → task → `metrics.Answers`.
        logits: Source → task → the logits of its head, one array per row.
    """

    results: dict[str, Any]
    answers: dict[str, Any]
    logits: dict[str, dict[str, list[np.ndarray]]]


def score_before(trainer: MultiTaskTrainer, splits: Mapping[str, EncodedSplit]) -> Answered | None:
    """Score every head that is not trained or has no weights; None if there is no such head or no row to score.

    Args:
        trainer: The trainer, before training: also in a resumed run it still has the initial weights.
        splits: Source → encoded rows with their gold labels.
    """
    untrained = trainer.frozen_heads
    heads = trainer.model.heads
    bare = [name for name in trainer.tasks if name not in untrained and not [*heads[name].parameters()]]

    def rows_of(names: list[str]) -> dict[str, EncodedSplit]:
        gold = {source: {name: split.gold[name] for name in names if name in split.gold}
                for source, split in splits.items()}  # fmt: skip
        return {source: replace(splits[source], gold=found) for source, found in gold.items() if found}

    if trainer.is_fsdp_enabled:
        if rows_of(untrained):
            raise ValueError(
                f"the head of task {untrained[0]!r} is not trained (`train: false`, or it is in `freeze`), which FSDP"
                " does not support: use configs/accelerate/multi_gpu.yaml."
            )
        if rows_of(bare):
            logger.warning("Under FSDP %s cannot be scored before training.", listed("head", bare))
        return None
    chosen = rows_of([*untrained, *bare])
    if not chosen:
        return None
    logger.info("Scoring %s before training.", listed("head", [*untrained, *bare]))
    answers: dict[str, Any] = {}
    logits: dict[str, dict[str, list[np.ndarray]]] = {}
    results = trainer.score(chosen, keep_answers=answers, keep_logits=logits)
    return Answered(results, answers, logits)


def add_before(results: dict[str, Any], before: Answered, after: Answered) -> None:
    """Add the scores before training to the tasks in `results`, in place.

    Adds:
        `before` (metric → number) and, if the head was not trained, `unchanged` (whether all predictions are the same)
        and `drift`: `rows`, `changed` (rows with another prediction) and `logits` (the largest absolute difference of a
        logit; 0 means equal bit for bit).
    """
    for name, numbers in before.results["tasks"].items():
        results["tasks"][name]["before"] = {key: value for key, value in numbers.items() if isinstance(value, float)}
        rows = changed = 0
        largest = 0.0
        sources = [source for source, found in before.logits.items() if name in found]
        for source in sources:
            was, now = (found.answers[source][name].predicted for found in (before, after))
            rows += len(now)
            changed += sum(old != new for old, new in zip(was, now, strict=True))
            for old, new in zip(before.logits[source][name], after.logits[source][name], strict=True):
                largest = max(largest, float(np.abs(new.astype(float) - old.astype(float)).max(initial=0.0)))
        if sources:
            results["tasks"][name] |= {
                "unchanged": not changed,
                "drift": {"rows": rows, "changed": changed, "logits": largest},
            }


def warn_of_drift(trainer: MultiTaskTrainer) -> None:
    """Warn about heads that are not trained but whose predictions will change, because the encoder is trained."""
    untrained, heads = trainer.frozen_heads, trainer.model.config.heads
    others = {f"adapters.{spec['adapter']}" for spec in heads.values() if "adapter" in spec}
    others -= {f"adapters.{heads[name].get('adapter')}" for name in untrained}
    moving = [
        part.name
        for part in trainer.parts
        if not part.name.startswith("heads.") and part.name not in others and not part.frozen
    ]
    if untrained and moving:
        inside = ("encoder" if name == "embeddings" or name.startswith("encoder.") else name for name in moving)
        logger.warning(
            "The encoder is trained (%s), so the predictions of %s will drift; to keep them, set `training.freeze:"
            " [%s]`.", f"{moving[0]} to {moving[-1]}" if len(moving) > 1 else moving[0],
            listed("head", untrained),
            ", ".join(dict.fromkeys(inside)),
        )  # fmt: skip
