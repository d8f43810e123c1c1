"""Logits → answers a person can read: labels with probabilities, entities with text and offsets, numbers.

Notable: spans are read from BIO tags leniently, as seqeval's default does (an I- without its B- begins a span), so that
what a user sees is what the scores count.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .encoding import NO_TOKEN


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Sigmoid, in float64, in a form that cannot overflow."""
    return (1 + np.tanh(logits.astype(np.float64) / 2)) / 2


def bio_spans(tags: Sequence[str | None]) -> list[tuple[str, int, int]]:
    """Spans of a tag sequence as (type, first word, word after the last); None and tags without a prefix are O."""
    spans: list[tuple[str, int, int]] = []
    open_type, begin = None, 0
    for index, tag in enumerate([*tags, "O"]):
        prefix, _, kind = (tag or "O").partition("-")
        continues = prefix == "I" and kind == open_type
        if open_type is not None and not continues:
            spans.append((open_type, begin, index))
            open_type = None
        if kind and not continues and prefix in ("B", "I"):
            open_type, begin = kind, index
    return spans


def logits_of_words(logits: np.ndarray, starts: Sequence[int]) -> np.ndarray:
    """Logits by token (num_tokens, num_labels) → by word (num_words, num_labels), NaN where a word has no token.

    Args:
        logits: Of one row.
        starts: Position of each word's first token, `NO_TOKEN` where it has none.
    """
    places = np.asarray(starts, dtype=int)
    by_word = logits[places]
    by_word[places == NO_TOKEN] = np.nan
    return by_word


def answer(
    spec: dict[str, Any],
    logits: np.ndarray,
    text: str = "",
    words: Sequence[tuple[int, int]] = (),
    top_k: int | None = 1,
) -> dict[str, Any] | list[dict[str, Any]] | float:
    """One head's answer for one row.

    Args:
        spec: The head's specification (a value of `MultiTaskConfig.heads`).
        logits: (num_labels,), () for regression, (num_words, num_labels) for token classification with NaN for words
            that have no token, (2, H) vectors of length 1 for sentence similarity.
        text: The raw text, for the text of entities.
        words: Character span of each word in `text`.
        top_k: How many labels of a text are wanted, None for all.

    Returns:
        `{"label", "score"}` for classification; a list of them (every label of at least 0.5) for multi-label; for both,
        where `top_k` is not 1, a list of the `top_k` best, best first;
        a number for regression, the cosine for sentence similarity; for token classification a list of entities
        (`{"type", "text", "start", "end", "score"}`, character offsets, score the mean over words) or, where labels are
        not BIO, a list with one `{"label", "text", "start", "end", "score"}` a word (label None and score 0 for a word
        that has no token).
    """
    kind = spec["type"]
    if kind == "regression":
        return float(logits)
    if kind == "sentence_similarity":
        return float(np.clip(logits[0].astype(np.float64) @ logits[1], -1, 1))
    labels = spec["labels"]
    if kind in ("sequence_classification", "multi_label_classification"):
        several = kind == "multi_label_classification"
        scores = sigmoid(logits) if several else softmax(logits)
        chosen = np.argsort(-scores, kind="stable")[:top_k]
        if top_k == 1 and several:
            chosen = np.flatnonzero(scores >= 0.5)
        found = [{"label": labels[index], "score": float(scores[index])} for index in chosen]
        return found if several or top_k != 1 else found[0]

    scores = softmax(logits)
    lost = np.asarray(np.isnan(scores).any(-1))
    tags = [None if missing else labels[int(np.argmax(row))] for row, missing in zip(scores, lost, strict=True)]
    best_scores = np.where(lost, 0.0, scores.max(-1))
    if not is_span_scheme(labels):
        return [
            {"label": tag, "text": text[start:end], "start": start, "end": end, "score": float(score)}
            for tag, (start, end), score in zip(tags, words, best_scores, strict=True)
        ]
    return [
        {
            "type": span_type,
            "text": text[words[begin][0] : words[end - 1][1]],
            "start": words[begin][0],
            "end": words[end - 1][1],
            "score": float(best_scores[begin:end].mean()),
        }
        for span_type, begin, end in bio_spans(tags)
    ]


def is_span_scheme(labels: Sequence[str]) -> bool:
    """Whether tag labels are a BIO scheme: O, and B- or I- with a type."""
    return "O" in labels and all(label == "O" or (label[:2] in ("B-", "I-") and len(label) > 2) for label in labels)
