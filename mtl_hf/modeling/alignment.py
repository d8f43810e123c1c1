"""Alignment: how the states of a word's tokens become the state of the word.

Notable: every token of a word gets the state of its word, so that logits keep their shape and are read at the word's
first token, whatever the alignment is. All shapes are static, so that it can be exported.
"""

import torch
from torch import Tensor


def align(states: Tensor, word_ids: Tensor | None, alignment: str) -> Tensor:
    """Replace the states of the tokens of each word by that of the word.

    Args:
        states: (N, T, H), float32 or wider.
        word_ids: Number of each token's word, -1 for special tokens and padding, (N, T). The tokens of a word are
            consecutive. Not needed for `first`.
        alignment: One of `tags.ALIGNMENTS`: the state of the first token (which leaves all states as they are) or of
            the last one, or the mean or the maximum over the tokens.

    Returns:
        (N, T, H); special tokens and padding keep their states.

    Raises:
        ValueError: `word_ids` is missing.
    """
    if alignment == "first":
        return states
    if word_ids is None:
        raise ValueError(
            f"a head with `alignment: {alignment}` needs `word_ids` in the batch: the number of each token's word,"
            " (B, T), -1 for special tokens and padding."
        )
    starts = torch.ones_like(word_ids, dtype=torch.bool)  # whether the previous token is of another word
    starts[:, 1:] = word_ids[:, 1:] != word_ids[:, :-1]
    runs = starts.cumsum(1) - 1  # number of each token's run of tokens of one word, (N, T); a row has at most T
    index = runs.unsqueeze(-1).expand_as(states)
    if alignment == "last":
        places = torch.arange(word_ids.shape[1], device=word_ids.device).expand_as(word_ids)
        lasts = torch.zeros_like(runs).scatter_reduce(1, runs, places, "amax")
        by_token = states.gather(1, lasts.gather(1, runs).unsqueeze(-1).expand_as(states))
    elif alignment == "mean":
        sums = torch.zeros_like(states).scatter_add(1, index, states)
        lengths = torch.zeros_like(runs).scatter_add(1, runs, torch.ones_like(runs))
        by_token = (sums / lengths.clamp(min=1).unsqueeze(-1)).gather(1, index)
    else:
        largest = torch.zeros_like(states).scatter_reduce(1, index, states, "amax", include_self=False)
        by_token = largest.gather(1, index)
    return torch.where(word_ids[..., None] >= 0, by_token, states)
