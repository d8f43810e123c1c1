"""Text → token ids, with words aligned to tokens. Training, prediction and models from the Hub use this same code.

A text has one of five forms: `string`, `words` (a list of words), `pair` (two strings that the encoder reads together),
`apart` (two strings that it reads one by one) or `choices` (a string that it reads together with each string of a
list). What the encoder reads at once is a segment: a row of `apart` has two, of `choices` one per choice, a long
`string` or list of `words` as many as it has windows (if the model reads windows), and all others one. Notable: `words`
needs a tokenizer that tokenizes a word in a list as inside a sentence. Byte-level BPE does so only with
`add_prefix_space`, which `load_tokenizer` sets. This file needs neither torch nor transformers, so that exported models
encode with it, too.
"""

import itertools
import re
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from .tags import NO_TOKEN
from .windows import WINDOWED, check_stride, window_starts

FORMS = ("string", "words", "pair", "apart", "choices")
# Form → the segments of a text, for forms with several segments.
SEGMENTED: dict[str, Callable[[Any], list[Any]]] = {
    "apart": list,
    "choices": lambda text: [(text[0], choice) for choice in text[1]],
}
# Form → kind of text: single texts can be read as `string` or `words`, pairs as `pair` or `apart`.
SINGLE, PAIRS, CHOICES = "single texts", "pairs", "texts with choices"
KINDS = {"string": SINGLE, "words": SINGLE, "pair": PAIRS, "apart": PAIRS, "choices": CHOICES}
_HALF = re.compile("[\ud800-\udfff]")


def encode(
    tokenizer: Any,
    texts: Sequence[Any],
    *,
    form: str,
    max_length: int,
    stride: int | None = None,
    word_ids: bool = False,
    offsets: bool = False,
) -> dict[str, list[Any]]:
    """Encode a batch of texts, without padding. It does not change the tokenizer, so other threads can use it.

    Args:
        tokenizer: A tokenizer from `load_tokenizer`, or one with the same attributes (`onnx/tokenizer.py`).
        texts: Strings, lists of words, pairs of strings, or tuples of a string and a list of strings, by `form`.
        form: One of `FORMS`.
        max_length: Longer segments are truncated (of two texts read together, the longer one first).
        stride: If given, a longer text of a form in `WINDOWED` is not truncated but read in windows of `max_length`
            tokens, and neighbouring windows share this many tokens (the `stride` of tokenizers). Needs a fast
            tokenizer.
        word_ids: Whether to return the word of each token; needs a fast tokenizer.
        offsets: Whether to return the character offsets of each token; needs a fast tokenizer.

    Returns:
        `input_ids`; `token_type_ids` if the encoder uses them; `cut`, whether the row was truncated, and `unread`, the
        number of tokens that were cut off (0 if unknown: of slow tokenizers and of forms not in `WINDOWED`). The
        segments of a row are concatenated, and `segments` has the number of tokens of each, if rows can have several.
        For words also `word_starts`: the position of each word's first token (with windows: in the window that
        `window_starts` chooses), `NO_TOKEN` if it has none. If requested,
        `word_ids`: the number of each token's word, None for special tokens; and `offsets`: (number of the text, first
        character, character after the last) of each token, where the number is -1 for special tokens.
    """
    if stride is not None and form in WINDOWED:
        return _encode_windows(tokenizer, texts, form, max_length, stride, word_ids, offsets)
    if form not in SEGMENTED:
        return _encode_segments(tokenizer, texts, form, max_length, word_ids, offsets)
    rows = [SEGMENTED[form](text) for text in texts]
    inner = "pair" if form == "choices" else "string"
    flat = _encode_segments(tokenizer, [part for row in rows for part in row], inner, max_length, word_ids, offsets)
    ends = np.cumsum([len(row) for row in rows]).tolist()
    spans = list(zip([0, *ends], ends, strict=False))
    encoded: dict[str, list[Any]] = {
        key: [list(itertools.chain.from_iterable(column[begin:end])) for begin, end in spans]
        for key, column in flat.items()
        if key not in ("cut", "unread")
    }
    encoded["cut"] = [any(flat["cut"][begin:end]) for begin, end in spans]
    encoded["unread"] = [0] * len(rows)
    encoded["segments"] = [[len(ids) for ids in flat["input_ids"][begin:end]] for begin, end in spans]
    return encoded


def _encode_segments(
    tokenizer: Any, texts: Sequence[Any], form: str, max_length: int, word_ids: bool, offsets: bool
) -> dict[str, list[Any]]:
    """`encode` for forms whose texts are one segment each."""
    types = "token_type_ids" in tokenizer.model_input_names
    if not tokenizer.is_fast:
        return _encode_slowly(tokenizer, texts, form, max_length, types)
    backend = _truncating(tokenizer, max_length)
    if form == "pair":
        texts = [tuple(_shorten(tokenizer, part, 2 * max_length) for part in pair) for pair in texts]
    found = backend.encode_batch(list(texts), is_pretokenized=form == "words")
    rows: dict[str, list[Any]] = {"input_ids": [encoding.ids for encoding in found]}
    if types:
        rows["token_type_ids"] = [encoding.type_ids for encoding in found]
    rest = [encoding.overflowing for encoding in found]
    rows["cut"] = [bool(cut) for cut in rest]
    rows["unread"] = [0 if form == "pair" else sum(map(_num_content, cut)) for cut in rest]
    if form == "words":
        rows["word_starts"] = [
            _word_starts(encoding.word_ids, len(words)) for encoding, words in zip(found, texts, strict=True)
        ]
    if word_ids:
        rows["word_ids"] = [encoding.word_ids for encoding in found]
    if offsets:
        rows["offsets"] = [
            [(-1 if text is None else text, *span) for text, span in zip(one.sequence_ids, one.offsets, strict=True)]
            for one in found
        ]
    return rows


def _num_content(encoding: Any) -> int:
    """How many tokens of an encoding are of its text."""
    return len(encoding.ids) - sum(encoding.special_tokens_mask)


def _encode_windows(
    tokenizer: Any,
    texts: Sequence[Any],
    form: str,
    max_length: int,
    stride: int,
    word_ids: bool,
    offsets: bool,
) -> dict[str, list[Any]]:
    """`encode` for single texts whose segments are windows; texts that fit one window have one segment."""
    check_stride(tokenizer, max_length, stride)
    backend = _truncating(tokenizer, max_length, stride)
    found = [[one, *one.overflowing] for one in backend.encode_batch(list(texts), is_pretokenized=form == "words")]
    rows: dict[str, list[Any]] = {"input_ids": [_chain(one.ids for one in windows) for windows in found]}
    if "token_type_ids" in tokenizer.model_input_names:
        rows["token_type_ids"] = [_chain(one.type_ids for one in windows) for windows in found]
    rows |= {"cut": [False] * len(found), "unread": [0] * len(found)}
    rows["segments"] = [[len(one.ids) for one in windows] for windows in found]
    if form == "words":
        rows["word_starts"] = [
            window_starts([one.word_ids for one in windows], len(words), stride)
            for windows, words in zip(found, texts, strict=True)
        ]
    if word_ids:
        rows["word_ids"] = [_chain(one.word_ids for one in windows) for windows in found]
    if offsets:
        rows["offsets"] = [
            [(-1 if text is None else text, *span)
             for one in windows for text, span in zip(one.sequence_ids, one.offsets, strict=True)]
            for windows in found
        ]  # fmt: skip
    return rows


def _chain(parts: Iterable[Iterable[Any]]) -> list[Any]:
    return list(itertools.chain.from_iterable(parts))


def _encode_slowly(
    tokenizer: Any, texts: Sequence[Any], form: str, max_length: int, types: bool
) -> dict[str, list[Any]]:
    """Encode with a tokenizer in Python, which does not report truncation: a row of `max_length` counts as cut."""
    parts = list(zip(*texts, strict=True)) if form == "pair" else [texts]
    encoded = tokenizer(*map(list, parts), truncation=True, max_length=max_length)
    rows = {"input_ids": encoded["input_ids"]} | (
        {"token_type_ids": encoded["token_type_ids"]} if types and "token_type_ids" in encoded else {}
    )
    cut = [len(ids) >= max_length for ids in encoded["input_ids"]]
    return rows | {"cut": cut, "unread": [0] * len(cut)}


# Tokenizer → its settings → a copy of its backend with truncation, which never changes again.
_COPIES: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], Tokenizer]] = weakref.WeakKeyDictionary()


def _truncating(tokenizer: Any, max_length: int, stride: int | None = None) -> Tokenizer:
    """A copy of a fast tokenizer's backend that truncates to a length, or with `stride` also returns all windows.

    Calling the tokenizer itself would change the truncation of its backend for all its users.
    """
    special = bool(tokenizer.split_special_tokens)
    side = tokenizer.truncation_side if stride is None else "right"  # the first window begins with the text
    key = (max_length, stride, side, len(tokenizer), special)
    copies = _COPIES.setdefault(tokenizer, {})
    if key not in copies:
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_padding()
        backend.enable_truncation(max_length, stride=stride or 0, strategy="longest_first", direction=side)
        backend.encode_special_tokens = special
        copies[key] = backend
    return copies[key]


def _shorten(tokenizer: Any, text: str, num_tokens: int) -> str:
    """Shorten a very long text of a pair to its first `num_tokens` tokens (or last, if the left side is cut).

    Of a truncated pair, a fast tokenizer keeps every piece of one text with every piece of the other: too much memory.
    """
    if len(text) <= 4 * num_tokens:
        return text
    found = _truncating(tokenizer, num_tokens).encode(text, add_special_tokens=False)
    if len(found.ids) < num_tokens:
        return text
    return text[found.offsets[0][0] :] if tokenizer.truncation_side == "left" else text[: found.offsets[-1][1]]


def _word_starts(word_ids: list[int | None], num_words: int) -> list[int]:
    starts = [NO_TOKEN] * num_words
    for position in range(len(word_ids) - 1, -1, -1):  # from the right, so that a word's first token is written last
        word = word_ids[position]
        if word is not None:
            starts[word] = position
    return starts


def check_texts(texts: Any) -> None:
    """Raise `ValueError` if `texts` is not an iterable of texts, but a single string or a mapping, for example."""
    if isinstance(texts, str):
        raise ValueError("`texts` is a single string; give a list of texts, such as [text].")
    if isinstance(texts, bytes | Mapping) or not isinstance(texts, Iterable):
        raise ValueError(f"`texts` is a {type(texts).__name__}; give a list of texts.")


def check_count(argument: str, value: Any) -> None:
    """Raise `ValueError` if an argument is not a whole number of at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"`{argument}` is {value!r}; it should be a whole number.")
    if value < 1:
        raise ValueError(f"`{argument}` is {value}; it should be at least 1.")


def kind_of(text: Any) -> str:
    """The kind of a checked text: one of the values of `KINDS`."""
    if not isinstance(text, tuple):
        return SINGLE
    return PAIRS if isinstance(text[1], str) else CHOICES


def check_text(text: Any, number: int) -> Any:
    """Check a text and make it valid Unicode: lone surrogates, which JSON can hold, become U+FFFD.

    Args:
        text: A string, a list of words, a tuple of two strings (a pair), or a tuple of a string and a list of strings
            (a text with choices).
        number: Its position, for the message.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(text, str):
        return text if text.isascii() else _HALF.sub("\ufffd", text)
    if (
        isinstance(text, tuple)
        and len(text) == 2
        and isinstance(text[0], str)
        and isinstance(text[1], list)
        and text[1]
    ):
        return check_text(text[0], number), check_text(text[1], number)
    kinds = [isinstance(part, str) for part in text] if isinstance(text, list | tuple) else [False]
    if not all(kinds) or (isinstance(text, tuple) and len(text) != 2):
        raise ValueError(
            f"text {number} is {repr(text)[:100]}; it should be a string, a list of words, or a tuple of two strings"
            " (or of a string and a list of choices)."
        )
    return type(text)(check_text(part, number) for part in text)
