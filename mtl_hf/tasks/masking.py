"""Which tokens of a `masked_lm` task are hidden, and by what (Devlin et al., arXiv 1810.04805, section 3.1).

Notable: a row's masks are a pure function of (seed, epoch, lap, row), drawn from a generator of its own. So they are
the same whichever rows share its batch, on any number of processes, however a step is cut into micro-batches and where
a run is resumed, and others whenever the row is seen again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..modeling.tags import IGNORE_INDEX
from .task_type import TaskData

BEGINS, INSIDE = 0, 1  # what a token is of the unit that is masked as a whole: a word, or the token itself
FIXED_DRAW = (0, 0, 0)  # of evaluation: the same masks at every step and for every model of the same tokenizer
PROBABILITY = 0.15


@dataclass(frozen=True)
class Masking:
    """How the tokens of a source are masked.

    Attributes:
        probability: Of a unit (a token, or a whole word) to be chosen. In a row where chance chooses none, the one that
            came nearest is, so that every row trains.
        mask_token_id: What 80 % of the chosen tokens become. 10 % become any token of the vocabulary, 10 % stay.
        vocab_size: Size of the vocabulary.
    """

    probability: float
    mask_token_id: int
    vocab_size: int

    def __call__(
        self, input_ids: np.ndarray, units: np.ndarray, draw: tuple[int, ...], rows: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mask a padded batch.

        Args:
            input_ids: (B, T).
            units: `BEGINS` or `INSIDE`, `IGNORE_INDEX` where nothing is ever masked (special tokens, padding), (B, T).
            draw: Seed, epoch and lap.
            rows: The number of each row.

        Returns:
            The ids that the encoder sees, and the labels: the ids that were there, `IGNORE_INDEX` elsewhere. (B, T).
        """
        places = units != IGNORE_INDEX
        counts = places.sum(1)
        # Three numbers a token: whether it is chosen, what becomes of it, which token it becomes.
        numbers = np.concatenate(
            [np.random.default_rng([*draw, row]).random((count, 3)) for row, count in zip(rows, counts, strict=True)]
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
    """How the rows of a `masked_lm` task are masked.

    Raises:
        ValueError: The tokenizer has no mask token, or cannot tell which tokens make a word where whole words are
            masked.
    """
    if tokenizer.mask_token_id is None:
        raise ValueError(
            f"`tasks.{task.name}` masks tokens, but the tokenizer of {tokenizer.name_or_path!r} has no mask token:"
            " choose an encoder that was trained with one, such as those of BERT's kin."
        )
    options = task.options
    if options.whole_word_mask and not tokenizer.is_fast:
        raise ValueError(
            f"`tasks.{task.name}.whole_word_mask` needs a tokenizer that tells which tokens make a word;"
            f" {type(tokenizer).__name__} does not: leave it out, or choose an encoder with a fast tokenizer."
        )
    probability = PROBABILITY if options.mlm_probability is None else options.mlm_probability
    return Masking(probability, tokenizer.mask_token_id, len(tokenizer))


def mask_units(input_ids: Sequence[int], word_ids: Sequence[int | None] | None, never: frozenset[int]) -> list[int]:
    """Where a row can be masked, and which of its tokens are masked together.

    Args:
        input_ids: Its tokens, (T,).
        word_ids: The word that each token is of, None for tokens of none; without it every token is a unit.
        never: Tokens that are never masked.

    Returns:
        `BEGINS`, `INSIDE` or `IGNORE_INDEX` for each token.
    """
    found, last = [], None
    for position, token in enumerate(input_ids):
        word = position if word_ids is None else word_ids[position]
        if word is None:
            last = None  # words are counted anew in a second text
        if word is None or token in never:
            found.append(IGNORE_INDEX)
            continue
        found.append(INSIDE if word == last else BEGINS)
        last = word
    return found
