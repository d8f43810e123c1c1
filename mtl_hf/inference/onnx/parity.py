"""Whether an exported model computes what the model computes: on real texts, and on batches of all sizes.

Notable: a graph can be exported without an error and still have a constant in it that should depend on the input, so
batches of many shapes are tried, from one token to the largest length.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...command import quiet
from ...modeling.encoding import FORMS, KINDS, SINGLE, kind_of
from ...modeling.modeling_multitask import MultiTaskModel
from ...modeling.texts import Batch, Readers, encode_texts, padded_batches
from .model import OnnxModel

TOLERANCE = 1e-4  # of outputs, absolute; relative to the largest output where that is above 1
BATCH = 16


def compare(model: MultiTaskModel, exported: OnnxModel, texts: Sequence[Any]) -> dict[str, Any]:
    """Compare the outputs for texts and for batches of random tokens, and the answers for the texts.

    Args:
        model: The model, in float32 and evaluation mode.
        exported: The exported model.
        texts: Texts of all kinds that heads read.

    Returns:
        `texts`, their number; `largest_difference`, head → its largest difference, relative where outputs are above 1
        (`text_embedding` for the embedding); and `answered_alike`, head → percentage of texts with the same answer.
    """
    largest: dict[str, float] = {}
    for batch, readers in _batches(model, exported.readers, texts):
        ours, theirs = model.outputs(batch, readers), exported.outputs(batch, readers)
        for name in readers:
            key = name or "text_embedding"
            largest[key] = max(largest.get(key, 0.0), _difference(ours[name], theirs[name], batch))
    alike: dict[str, list[bool]] = {}
    heads = list(exported.heads)
    if heads and texts:
        with quiet("mtl_hf.modeling.texts"):  # which warns of truncated texts
            own, other = model.predict(texts, heads=heads), exported.predict(texts, heads=heads)
        for one, two in zip(own, other, strict=True):
            for head in one.keys() & set(heads):
                alike.setdefault(head, []).append(same_answer(one[head], two.get(head)))
    return {
        "texts": len(texts),
        "largest_difference": largest,
        "answered_alike": {name: 100 * float(np.mean(alike[name])) for name in heads if name in alike},
    }


def check(report: dict[str, Any]) -> None:
    """Raise `ValueError` if a difference is above `TOLERANCE`."""
    if far := {name: found for name, found in report["largest_difference"].items() if not found <= TOLERANCE}:
        shown = ", ".join(f"{name} {found:.2g}" for name, found in far.items())
        raise ValueError(
            f"the exported graph does not compute what the model computes: the largest differences are {shown}, and at"
            f" most {TOLERANCE:g} is allowed. Nothing was written; serve the model itself (`--backend torch`)."
        )


def same_answer(ours: Any, theirs: Any) -> bool:
    """Whether two answers are the same but for numbers."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same_answer(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same_answer, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs) <= 1e-3 * max(1.0, abs(ours))
    return bool(ours == theirs)


def text_batches(model: MultiTaskModel, names: Readers, texts: Sequence[Any]) -> Iterator[tuple[Batch, Readers]]:
    """Batches of the texts in the form of each head, with the heads that read them."""
    for form in FORMS:
        readers = [
            name
            for name in names
            if form in (("string", "pair") if name is None else (model.config.heads[name]["text"],))
        ]
        own = [text for text in texts if kind_of(text) == KINDS[form]]
        if not readers or not own:
            continue
        if form in ("string", "words"):
            own = [text if isinstance(text, str) else " ".join(text) for text in own]
            own = [text.split() for text in own] if form == "words" else own
        encoded = encode_texts(model, own, form, readers)
        for _, batch in padded_batches(model, encoded, BATCH):
            yield batch, readers


def _batches(model: MultiTaskModel, names: Readers, texts: Sequence[Any]) -> Iterator[tuple[Batch, Readers]]:
    """Batches of the texts in the form of each head, and batches of random tokens for all single-text heads."""
    yield from text_batches(model, names, texts)
    whole = [name for name in names if name is None or KINDS[model.config.heads[name]["text"]] == SINGLE]
    # Heads of pairs have the same graph for any segment; their grouping of segments needs texts.
    random, longest = np.random.default_rng(13), model.config.max_length
    known = np.flatnonzero(np.arange(len(model.tokenizer)) != (model.tokenizer.pad_token_id or 0))
    for rows, most in ((1, 1), (1, 2), (2, 5), (7, 33), (2, longest)):
        length = min(most, longest)
        lengths = random.integers(1, length + 1, rows)
        lengths[0] = length
        mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
        ids = np.where(mask, random.choice(known, (rows, length)), model.tokenizer.pad_token_id or 0)
        batch = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in model.tokenizer.model_input_names:
            batch["token_type_ids"] = np.zeros_like(ids)
        batch["word_ids"] = np.where(mask, (np.arange(length) + 1) // 2, -1)
        if whole:
            yield batch, whole


def _difference(ours: np.ndarray, theirs: np.ndarray, batch: Batch) -> float:
    """The largest difference of two outputs, without padding; infinite for other shapes, or where one is no number."""
    if ours.shape != theirs.shape:
        return float("inf")
    if ours.ndim > 2 and ours.shape[:2] == batch["attention_mask"].shape and "num_segments" not in batch:
        real = batch["attention_mask"].astype(bool)
        ours, theirs = ours[real], theirs[real]
    both = np.isneginf(ours) & np.isneginf(theirs)  # choices that a row does not have
    ours, theirs = np.where(both, 0, ours), np.where(both, 0, theirs)
    if not np.isfinite(theirs).all():
        return float("inf")
    scale = np.maximum(1.0, np.abs(ours))
    return float((np.abs(ours.astype(np.float64) - theirs) / scale).max(initial=0.0))
