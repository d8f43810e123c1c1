"""Count the tokens of texts, to choose the `max_length` of a new config."""

import itertools
from collections.abc import Sequence
from typing import Any

import datasets
from transformers import AutoConfig, PreTrainedTokenizerBase

from ..config import resolve_path
from ..modeling.encoding import encode
from ..modeling.tokenizing import load_tokenizer, longest_input
from ..tasks.arrow_columns import values_of
from .sources import has_text

COUNTED = 500  # number of texts whose tokens are counted: those with the most characters
_NO_LIMIT = 10**7  # tokens; more than any text has


def load_counter(encoder: str, words: bool) -> tuple[PreTrainedTokenizerBase | None, int]:
    """Load the tokenizer of an encoder, and its maximum number of tokens, without downloading anything.

    Args:
        encoder: Hub id, folder or `package:<python package>/<folder>`.
        words: Whether some texts are lists of words.

    Returns:
        The tokenizer and the maximum number of tokens; None and 512 if they are not on this machine.

    Raises:
        ValueError: The Python package is not installed, or the tokenizer cannot align words.
    """
    name = resolve_path(encoder)
    options = {"trust_remote_code": False, "local_files_only": True}
    try:
        tokenizer = load_tokenizer(name, **options)
        limit = longest_input(tokenizer, AutoConfig.from_pretrained(name, **options))
    except (OSError, ValueError):
        return None, 512
    return (load_tokenizer(name, words=True, **options) if words else tokenizer), limit


def count_tokens(
    files: Sequence[datasets.Dataset], columns: Sequence[str], form: str, tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """Count the tokens of the longest texts.

    Args:
        files: The rows of each file of a source.
        columns: Its text column, two for pairs, or the text and one or more columns of choices.
        form: One of `encoding.FORMS`. With `apart` the two texts count separately, with `choices` the text with each.
        tokenizer: Tokenizer of the encoder.

    Returns:
        Number of tokens, including special ones, of the `COUNTED` texts with the most characters.
    """
    texts: list[Any] = []
    for rows in files:
        texts += zip(*(values_of(rows, column) for column in columns), strict=True)
    texts = [parts for parts in texts if all(map(has_text, parts))]
    if form == "apart":
        texts = [(part,) for part in itertools.chain.from_iterable(texts)]
    if form == "choices":
        texts = [(first, choice) for first, *others in texts for choice in (others[0] if len(others) == 1 else others)]
    texts = sorted(texts, key=_characters, reverse=True)[:COUNTED]
    if not texts:
        return []
    read = {"apart": "string", "choices": "pair"}.get(form, form)
    given = texts if read == "pair" else [text for (text,) in texts]
    return [len(ids) for ids in encode(tokenizer, given, form=read, max_length=_NO_LIMIT)["input_ids"]]


def _characters(parts: Sequence[Any]) -> int:
    return sum(len(part) if isinstance(part, str) else sum(map(len, part)) + len(part) for part in parts)
