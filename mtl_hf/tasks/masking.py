"""Masking of tokens for `masked_lm` (Devlin et al., arXiv 1810.04805, section 3.1).

Notable: the masks of a row are a pure function of (seed, epoch, lap, row). They do not depend on the other rows of the
batch, the number of processes, gradient accumulation or resuming, and they differ each time the row is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..modeling.tags import IGNORE_INDEX
from .task_type import TaskData

BEGINS, INSIDE = 0, 1  # position of a token in a unit that is masked together: a word, or the token itself
FIXED_DRAW = (0, 0, 0)  # for evaluation: the same masks at every step and for every model with the same tokenizer
PROBABILITY = 0.15


@dataclass(frozen=True)
class Masking:
    """Masks the tokens of a source.

    Attributes:
        probability: Probability that a unit (a token, or a whole word) is chosen. If none is chosen in a row, the one
            with the smallest random number is, so that every row contributes to the loss.
        mask_token_id: Replaces 80 % of the chosen tokens. 10 % become a random token, 10 % are not changed.
        vocab_size: Size of the vocabulary.
    """

    probability: float
    mask_token_id: int
    vocab_size: int

    def __call__(
        self,
        input_ids: np.ndarray,
        units: np.ndarray,
        draw: tuple[int, ...],
        rows: Sequence[int],
        windows: Sequence[int] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mask a padded batch.

        Args:
            input_ids: (B, T).
            units: `BEGINS` or `INSIDE`, `IGNORE_INDEX` where nothing is ever masked (special tokens, padding), (B, T).
            draw: Seed, epoch and lap.
            rows: Number of each row.
            windows: If rows have several windows: the number of each, from 0.

        Returns:
            The masked ids, and the labels: the original ids of chosen tokens, `IGNORE_INDEX` elsewhere. Both (B, T).
        """
        places = units != IGNORE_INDEX
        counts = places.sum(1)
        seeds = [[*draw, row] for row in rows]
        if windows is not None:
            seeds = [[*seed, window] if window else seed for seed, window in zip(seeds, windows, strict=True)]
        # Three random numbers per token: whether it is chosen, how it is replaced, and the random token.
        numbers = np.concatenate(
            [np.random.default_rng(seed).random((count, 3)) for seed, count in zip(seeds, counts, strict=True)]
        )
        begins = units[places] == BEGINS
        chance, row_of = numbers[begins, 0], np.repeat(np.arange(len(counts)), counts)[begins]
        least = np.full(len(counts), np.inf)
        np.minimum.at(least, row_of, chance)
        chosen_units = (chance < self.probability) | (chance == least[row_of])
        chosen = chosen_units[np.cumsum(begins) - 1]
        ids = input_ids[places][chosen]
        _, fate, other = numbers[chosen].T
        random_ids = (other * self.vocab_size).astype(input_ids.dtype)
        at = np.flatnonzero(places)[chosen]
        masked, labels = input_ids.copy(), np.full(input_ids.shape, IGNORE_INDEX, dtype=np.int64)
        labels.flat[at] = ids
        masked.flat[at] = np.where(fate < 0.8, self.mask_token_id, np.where(fate < 0.9, random_ids, ids))
        return masked, labels


def masking_of(task: TaskData, tokenizer: Any) -> Masking:
    """The masking of a `masked_lm` task.

    Raises:
        ValueError: The tokenizer has no mask token, or cannot align words with tokens to mask whole words.
    """
    if tokenizer.mask_token_id is None:
        raise ValueError(
            f"`tasks.{task.name}` masks tokens, but the tokenizer of {tokenizer.name_or_path!r} has no mask token:"
            " choose an encoder that was trained with one, such as BERT or RoBERTa."
        )
    options = task.options
    if options.whole_word_mask and not tokenizer.is_fast:
        raise ValueError(
            f"`tasks.{task.name}.whole_word_mask` needs a tokenizer that aligns words with tokens, which"
            f" {type(tokenizer).__name__} does not: remove it, or choose an encoder with a fast tokenizer."
        )
    probability = PROBABILITY if options.mlm_probability is None else options.mlm_probability
    return Masking(probability, tokenizer.mask_token_id, len(tokenizer))


def mask_units(input_ids: Sequence[int], word_ids: Sequence[int | None] | None, never: frozenset[int]) -> list[int]:
    """The units of a row that can be masked.

    Args:
        input_ids: Tokens of the row, (T,).
        word_ids: Number of each token's word, None for special tokens; without it every token is a unit.
        never: Tokens that are never masked.

    Returns:
        `BEGINS`, `INSIDE` or `IGNORE_INDEX` for each token.
    """
    found, last = [], None
    for position, token in enumerate(input_ids):
        word = position if word_ids is None else word_ids[position]
        if word is None:
            last = None  # word numbers start again in a second text
        if word is None or token in never:
            found.append(IGNORE_INDEX)
            continue
        found.append(INSIDE if word == last else BEGINS)
        last = word
    return found
