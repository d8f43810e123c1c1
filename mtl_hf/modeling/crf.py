"""Linear-chain conditional random field over the words of a row (Lafferty et al., ICML 2001).

Notable: only legal sequences of BIO tags have a probability: an I- tag follows a B- or I- tag of its type. Words
without a label are summed over, so that a partly labelled row trains its labelled words (Tsuboi et al., COLING 2008).
Sums run in float64 and in probability space, with every word scaled to a sum of 1, so that a step of the loop over
words is a matrix product. The gradient is computed with the loss, from the marginals (forward-backward): autograd
records no loop. Predictions are those of `viterbi.py`, without torch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import initialization

from .head import HeadLoss
from .tags import IGNORE_INDEX
from .viterbi import legal_tags


class CRF(nn.Module):
    """Scores of first labels, last labels and pairs of labels, which start at zero. C labels.

    Args:
        labels: The label names.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(len(labels)))
        self.end = nn.Parameter(torch.zeros(len(labels)))
        self.transitions = nn.Parameter(torch.zeros(len(labels), len(labels)))  # from the row to the column
        # Not buffers: they are constants of the labels, which no saved file should have to agree with.
        self._first, self._follows, self._instead = legal_tags(labels)

    def init_weights(self) -> None:
        """Set all scores to zero."""
        for parameter in self.parameters():
            initialization.zeros_(parameter)

    def loss(self, logits: Tensor, labels: Tensor, num_segments: Tensor | None = None) -> HeadLoss:
        """Sum of the negative log-likelihood of the labels over rows, and the number of labelled words.

        A label that is not legal after the one before it (the rest of an entity that begins with a word without
        tokens) counts as the B- tag of its type.

        Args:
            logits: (N, T, C).
            labels: The label at the first token of each word, `UNLABELLED` at that of a word without a label,
                `IGNORE_INDEX` at all other tokens, (N, T). The words of a row, in this order, are its sequence.
            num_segments: Number of segments of each row, (B,), if rows have several.
        """
        places = (labels != IGNORE_INDEX).nonzero()
        rows, num_rows = places[:, 0], len(labels)
        if num_segments is not None:
            num_rows = len(num_segments)
            rows = torch.arange(num_rows, device=labels.device).repeat_interleave(num_segments)[rows]
        counts = rows.bincount(minlength=num_rows)
        word_labels = labels[places[:, 0], places[:, 1]]
        with torch.autocast(logits.device.type, enabled=False):
            words = logits[places[:, 0], places[:, 1]].to(_exact(logits.device))
            emissions, transitions, mask = self._scores(words, counts)
            gold, _ = _padded(word_labels, counts)
            gold = self._legal(gold)
            allowed = (gold[..., None] == torch.arange(emissions.shape[-1], device=gold.device)) | (gold < 0)[..., None]
            # One loop over words for both: all sequences, and those that agree with the labels.
            both = torch.cat([emissions, emissions.masked_fill(~allowed, -torch.inf)], 1)
            signs = torch.ones(2, num_rows, dtype=both.dtype, device=both.device)
            signs[1] = -1
            total: Tensor = _LogPartition.apply(both, transitions, mask.repeat(1, 2), signs.flatten())
        return HeadLoss(total.to(logits.dtype), (word_labels >= 0).sum())

    def _scores(self, words: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of each label of each word, those of the first and the last word included, -inf where not legal.

        Args:
            words: Logits of the words of all rows, (P, C).
            counts: Number of words of each row, (B,).

        Returns:
            (W, B, C), 0 after the last word; the transitions, (C, C), -inf where not legal; and the mask of words,
            (W, B).
        """
        start, end, transitions = (
            parameter.to(words.device, words.dtype) for parameter in (self.start, self.end, self.transitions)
        )
        emissions, mask = _padded(words, counts)
        first, follows = (torch.from_numpy(legal).to(words.device) for legal in (self._first, self._follows))
        some = mask[:1, :, None]
        starts = torch.where(some, start.masked_fill(~first, -torch.inf), 0.0)
        last = torch.arange(1, len(mask) + 1, device=counts.device)[:, None] == counts
        emissions = torch.cat([emissions[:1] + starts, emissions[1:]]) + last[..., None] * end
        return emissions, transitions.masked_fill(~follows, -torch.inf), mask

    def _legal(self, labels: Tensor) -> Tensor:
        """Labels, (W, B), with those replaced that are not legal after a known label or as the first one."""
        first, follows, instead = (
            torch.from_numpy(found).to(labels.device) for found in (self._first, self._follows, self._instead)
        )
        known, before = labels.clamp(min=0), labels.roll(1, 0)
        legal = follows[before.clamp(min=0), known] | (before < 0)
        legal[:1] = first[known[:1]]
        return torch.where(legal | (labels < 0), labels, instead[known])


def _exact(device: torch.device) -> torch.dtype:
    """The type in which sums are computed: Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _order(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Row and place in it of each word, (P,) each, of rows of `counts` words."""
    rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    return rows, torch.arange(len(rows), device=counts.device) - (counts.cumsum(0) - counts)[rows]


def _padded(words: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Values of the words of all rows, (P, ...), as (W, B, ...) with zeros after the last word; and the mask of words.

    Words come first, so that those of one place are contiguous. W is at least 1.
    """
    rows, places = _order(counts)
    longest = max(1, int(counts.max())) if len(counts) else 1
    padded = words.new_zeros(longest, len(counts), *words.shape[1:])
    mask = torch.arange(longest, device=counts.device)[:, None] < counts
    return padded.index_put((places, rows), words), mask


class _LogPartition(torch.autograd.Function):
    """Weighted sum over rows of the logarithm of the partition function; its gradient is the marginals."""

    @staticmethod
    def forward(ctx: Any, emissions: Tensor, transitions: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
        """Scores as of `CRF._scores`, (W, R, C), (C, C), (W, R); weight of each row, (R,)."""
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        log_partition, marginals, pairs = _forward_backward(emissions, transitions, mask, weights, wanted)
        if wanted:
            marginals.mul_(weights[:, None])
            ctx.save_for_backward(marginals, pairs)
        return (log_partition * weights).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """The marginals, and the expected number of each pair of labels."""
        marginals, pairs = ctx.saved_tensors
        return gradient * marginals, gradient * pairs, None, None


def _forward_backward(
    emissions: Tensor, transitions: Tensor, mask: Tensor, weights: Tensor | None = None, backward: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over all label sequences.

    Args:
        emissions: (W, R, C), -inf for labels that are not allowed.
        transitions: (C, C), -inf for pairs that are not allowed.
        mask: Whether a row has a word there, (W, R).
        weights: Weight of each row in the expected numbers, (R,). Default: 1.
        backward: Whether to compute the marginals.

    Returns:
        Logarithm of the partition function, (R,), 0 without words; probability of each label of each word, (W, R, C),
        0 after the last word; and the expected number of each pair of labels over all rows, (C, C).
    """
    peaks = emissions.amax(-1, keepdim=True)
    potentials, moves = (emissions - peaks).exp(), transitions.exp()
    scales = torch.empty_like(peaks)
    ahead = torch.empty_like(potentials)
    for place, potential in enumerate(potentials):
        reached = potential if place == 0 else torch.mm(ahead[place - 1], moves).mul_(potential)
        torch.sum(reached, -1, keepdim=True, out=scales[place])
        torch.div(reached, scales[place], out=ahead[place])
    log_partition = ((scales.log() + peaks).squeeze(-1)).masked_fill(~mask, 0).sum(0)
    if not backward:
        return log_partition, ahead, moves
    potentials.div_(scales)
    behind = torch.ones_like(potentials)
    real = mask[..., None]
    for place in range(len(potentials) - 1, 0, -1):
        potentials[place].mul_(behind[place])
        torch.where(real[place], torch.mm(potentials[place], moves.T), behind[place - 1], out=behind[place - 1])
    marginals = (ahead * behind).masked_fill_(~real, 0)
    counted = real[1:] if weights is None else real[1:] * weights[:, None]
    later = (potentials[1:] * counted).flatten(0, 1)
    return log_partition, marginals, moves * (ahead[:-1].flatten(0, 1).T @ later)
