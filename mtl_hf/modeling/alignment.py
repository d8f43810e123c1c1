"""Alignment: how the states of a word's tokens become the state of the word.

Notable: every token of a word gets the state of its word, so that logits keep their shape and are read at the word's
first token, whatever the alignment is.
"""

import torch
from torch import Tensor

ALIGNMENTS = ("first", "last", "mean", "max")


def check_alignment(name: str) -> None:
    """Raise `ValueError` unless `name` is an alignment."""
    if name not in ALIGNMENTS:
        raise ValueError(f"`alignment` is {name!r}; valid are {', '.join(ALIGNMENTS)}.")


def align(states: Tensor, word_ids: Tensor | None, alignment: str) -> Tensor:
    """Replace the states of the tokens of each word by that of the word.

    Args:
        states: (N, T, H), float32 or wider.
        word_ids: Number of each token's word, -1 for special tokens and padding, (N, T). The tokens of a word are
            consecutive. Not needed for `first`.
        alignment: One of `ALIGNMENTS`: the state of the first token (which leaves all states as they are) or of the
            last one, or the mean or the maximum over the tokens.

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
    ends = torch.ones_like(word_ids, dtype=torch.bool)  # whether the next token is of another word
    ends[:, :-1] = word_ids[:, 1:] != word_ids[:, :-1]
    ends = ends.flatten()
    lasts = ends.nonzero().squeeze(1)
    groups = ends.cumsum(0) - ends.long()  # runs of tokens of one word, over all rows
    flat = states.flatten(0, 1)
    if alignment == "last":
        by_word = flat[lasts]
    elif alignment == "mean":
        lengths = torch.diff(lasts, prepend=lasts.new_full((1,), -1))
        by_word = flat.new_zeros(len(lasts), flat.shape[-1]).index_add(0, groups, flat) / lengths[:, None]
    else:
        index = groups[:, None].expand_as(flat)
        by_word = flat.new_zeros(len(lasts), flat.shape[-1]).scatter_reduce(0, index, flat, "amax", include_self=False)
    return torch.where(word_ids[..., None] >= 0, by_word[groups].view_as(states), states)
