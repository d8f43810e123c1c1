"""The best label sequences of a linear-chain CRF, and the probabilities of its labels. No torch.

Notable: everything is in float64, over all rows at once. Sums are in probability space, with every word scaled to a sum
of 1, as in `crf.py`, which has the loss.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from .tags import is_span_scheme


def legal_tags(labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which labels may be first and which may follow each other.

    Args:
        labels: The label names. If they are no BIO tags, everything is legal.

    Returns:
        Whether each label may be first, (C,); whether label j may follow label i, (C, C); and for each label the one
        that it is read as where it is not legal (I-x as B-x), (C,). An I- tag whose type has no B- tag is legal
        everywhere, since nothing else can begin its spans.
    """
    ids = {label: index for index, label in enumerate(labels)}
    first, follows = np.ones(len(labels), dtype=bool), np.ones((len(labels), len(labels)), dtype=bool)
    instead = np.arange(len(labels))
    for label, index in ids.items() if is_span_scheme(labels) else ():
        begin = ids.get(f"B-{label[2:]}")
        if label.startswith("I-") and begin is not None:
            first[index], instead[index] = False, begin
            follows[:, index] = False
            follows[[begin, index], index] = True
    return first, follows, instead


def best_sequences(
    words: np.ndarray, counts: np.ndarray, weights: Mapping[str, np.ndarray], labels: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The most likely legal sequence of each row, and the marginal probabilities of all labels. C labels.

    Args:
        words: Logits of the words of all rows, (P, C).
        counts: Number of words of each row, (B,).
        weights: The parameters of the CRF: `start` (C,), `end` (C,) and `transitions` (C, C).
        labels: The label names.

    Returns:
        The label of each word (Viterbi), (P,), and the probability of each label of each word, (P, C), in float64.
    """
    if not len(words):
        return np.zeros(0, dtype=np.int64), np.zeros(words.shape)
    first, follows, _ = legal_tags(labels)
    start, end, transitions = (np.asarray(weights[key], np.float64) for key in ("start", "end", "transitions"))
    transitions = np.where(follows, transitions, -np.inf)
    rows = np.repeat(np.arange(len(counts)), counts)
    places = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    mask = np.arange(counts.max())[:, None] < counts  # (W, B)
    scores = np.zeros((*mask.shape, len(labels)))
    scores[places, rows] = words
    scores[0] += np.where(mask[0, :, None], np.where(first, start, -np.inf), 0)
    some = np.flatnonzero(counts)
    scores[counts[some] - 1, some] += end
    return _best_paths(scores, transitions, mask)[places, rows], _marginals(scores, transitions, mask)[places, rows]


def _best_paths(scores: np.ndarray, transitions: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The labels of the best sequence of each row, (W, B).

    Args:
        scores: Scores of each label of each word, those of the first and the last word included, (W, B, C).
        transitions: (C, C), -inf for pairs that are not legal.
        mask: Whether a row has a word there, (W, B).
    """
    best = scores[0]
    origins = []
    for own, real in zip(scores[1:], mask[1:, :, None], strict=True):
        reached = best[:, :, None] + transitions
        origins.append(np.where(real, reached.argmax(1), np.arange(scores.shape[-1])))
        best = np.where(real, reached.max(1) + own, best)
    path = [best.argmax(-1)]
    for origin in reversed(origins):
        path.append(np.take_along_axis(origin, path[-1][:, None], 1)[:, 0])
    return np.stack(path[::-1])


def _marginals(scores: np.ndarray, transitions: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The probability of each label of each word, (W, B, C); arguments as of `_best_paths`."""
    potentials = np.exp(scores - scores.max(-1, keepdims=True))
    moves = np.exp(transitions)
    ahead, behind = np.empty_like(potentials), np.ones_like(potentials)
    scales = np.empty((*mask.shape, 1))
    for place, potential in enumerate(potentials):
        reached = potential if place == 0 else ahead[place - 1] @ moves * potential
        scales[place] = reached.sum(-1, keepdims=True)
        ahead[place] = reached / scales[place]
    potentials /= scales
    for place in range(len(potentials) - 1, 0, -1):
        before = potentials[place] * behind[place] @ moves.T
        behind[place - 1] = np.where(mask[place, :, None], before, behind[place - 1])
    return ahead * behind
