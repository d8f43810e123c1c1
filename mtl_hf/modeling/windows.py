"""Windows of long texts: which window each word belongs to, and which heads can read texts in windows.

Notable: neighbouring windows share tokens, so a word can be in several of them. Its label and its prediction are those
of one window, the one with most context, in training and in answering alike.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from .tags import NO_TOKEN

TRUNCATE, WINDOW = "truncate", "window"  # the values of `overflow`
WINDOWS_AT_ONCE = 64  # of a long text, in a pass without gradients
WINDOWED = ("string", "words")  # forms whose long texts can be read in windows


def window_stride(overflow: str, stride: int | None, max_length: int) -> int | None:
    """Tokens that neighbouring windows share: `stride`, by default a quarter of `max_length`; None without windows."""
    if overflow != WINDOW:
        return None
    return max_length // 4 if stride is None else stride


def window_starts(windows: Sequence[Sequence[int | None]], num_words: int, stride: int) -> list[int]:
    """The position of each word's first token in the window that the word belongs to, `NO_TOKEN` for no token.

    Among the windows that have the word's first token, it belongs to the one with most of its tokens, then with most
    context: the number of tokens between the word and the nearer edge of the window. Of equal ones the earlier is
    taken. So every word belongs to exactly one window.

    Args:
        windows: For each window the number of each token's word, None for special tokens.
        num_words: Number of words.
        stride: Number of tokens that neighbouring windows share.

    Returns:
        Positions in the concatenated windows.
    """
    starts, firsts = [NO_TOKEN] * num_words, [-1] * num_words
    best = [(0, -1)] * num_words  # tokens and context of each word in its window
    begin = text_begin = 0  # of the window: its position in the row, and that of its first token in the text
    for word_ids in windows:
        places = [place for place, word in enumerate(word_ids) if word is not None]
        for word, run in itertools.groupby(range(len(places)), key=lambda number: word_ids[places[number]]):
            assert word is not None
            first, *others = run
            end = first + 1 + len(others)
            if firsts[word] < 0:
                firsts[word] = text_begin + first
            rank = end - first, min(first, len(places) - end)
            if text_begin + first == firsts[word] and rank > best[word]:
                best[word], starts[word] = rank, begin + places[first]
        begin += len(word_ids)
        text_begin += len(places) - stride
    return starts


def check_stride(tokenizer: Any, max_length: int, stride: int) -> None:
    """Check that texts can be read in windows that share `stride` tokens.

    Raises:
        ValueError: The tokenizer is slow, or a window has no token that its neighbour does not have.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"`overflow: window` needs a fast tokenizer, which {type(tokenizer).__name__} is not: choose another"
            " encoder, or `overflow: truncate`."
        )
    room = max_length - tokenizer.num_special_tokens_to_add()
    if not 0 <= stride < room:
        raise ValueError(
            f"`stride` is {stride}; neighbouring windows of {max_length} tokens, of which"
            f" {max_length - room} are special ones, can share 0 to {room - 1}."
        )


def check_windows(name: str, spec: Mapping[str, Any], supported: bool) -> None:
    """Raise `ValueError` if a head of a model that reads long texts in windows cannot do so.

    Args:
        name: Name of the head.
        spec: Its specification, with `type` and `text`.
        supported: Whether its type supports windows (`Head.windows`).
    """
    if supported and spec["text"] in WINDOWED:
        return
    why = f"reads texts of form {spec['text']!r}" if supported else f"is of type {spec['type']}"
    raise ValueError(
        f"`overflow: window` does not support the task {name!r}, which {why}: windows are for single texts. Choose"
        " `overflow: truncate`, or train the task in a model of its own."
    )
