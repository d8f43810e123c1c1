"""Text → ids, with words kept aligned to tokens. The same code serves training, prediction and pulled models.

A text has one of four forms: `string`, `words` (a list that the data has split), `pair` (two strings that the encoder
reads together) or `apart` (two strings that it reads one by one). Notable: `words` needs a tokenizer that starts every
word of a list as it would inside a sentence; byte-level BPE does so only with `add_prefix_space`, which
`load_tokenizer` sees to.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

FORMS = ("string", "words", "pair", "apart")
PAIRED = ("pair", "apart")  # those of two texts
# Arguments of `from_pretrained` that say where to look, and at what commit.
WHERE = ("revision", "token", "cache_dir", "local_files_only", "force_download", "proxies", "subfolder")
NO_TOKEN = -1  # position of a word that was cut at `max_length` or that the tokenizer made nothing of

_POSITIONS_AFTER_PADDING = (
    "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "data2vec-text", "xmod",
    "ibert", "longformer", "luke", "markuplm", "esm",
)  # fmt: skip

# Runs of letters and digits, joined by inner apostrophes, hyphens, dots and the like; any other sign is its own word.
_WORD = re.compile(r"\w+(?:[-'’.,:/@_&]\w+)*|[^\w\s]")
_HALF = re.compile("[\ud800-\udfff]")


def load_tokenizer(name_or_path: str, *, words: bool = False, **kwargs: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer; with `words`, one that can be fed lists of words.

    Args:
        name_or_path: Hub id or folder.
        words: Whether texts are lists of words, aligned to labels.
        **kwargs: Handed to `AutoTokenizer.from_pretrained` (`revision`, `trust_remote_code`, ...).

    Raises:
        OSError: There is no tokenizer.
        ValueError: Its files are damaged; with `words`, when it cannot tell which token belongs to which word.
    """
    kwargs.setdefault("trust_remote_code", False)  # where it is None, transformers asks on the terminal
    tokenizer = _read_tokenizer(name_or_path, **kwargs)
    if not words:
        return tokenizer
    if not tokenizer.is_fast:
        raise ValueError(
            f"the tokenizer of {name_or_path!r} ({type(tokenizer).__name__}) cannot align words with tokens, which"
            " lists of words need: choose an encoder with a fast tokenizer, or texts that are strings."
        )
    if _splits_like_text(tokenizer):
        return tokenizer
    # The classes that know `add_prefix_space` rebuild their pre-tokenizer from it whenever they are loaded, so it has
    # to be an argument; the generic class ignores the argument and saves the pre-tokenizer as it is.
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, add_prefix_space=True, **kwargs)
    pre_tokenizer = tokenizer.backend_tokenizer.pre_tokenizer
    for part in pre_tokenizer if type(pre_tokenizer).__name__ == "Sequence" else [pre_tokenizer]:
        if type(part).__name__ == "ByteLevel":
            part.add_prefix_space = True
    if not _splits_like_text(tokenizer):
        raise ValueError(
            f"the tokenizer of {name_or_path!r} makes other tokens of a list of words than of the same words in a"
            " sentence: choose another encoder, or texts that are strings."
        )
    return tokenizer


def _read_tokenizer(name_or_path: str, **kwargs: Any) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **kwargs)
        limit = tokenizer.model_max_length
        if isinstance(limit, bool) or not isinstance(limit, int | float):
            raise ValueError(f"`model_max_length` is {limit!r:.100}")
        return tokenizer
    except (OSError, ImportError):
        raise
    except Exception as error:
        # Of a damaged tokenizer.json the library `tokenizers` raises `Exception` itself.
        if type(error) is not Exception and not isinstance(
            error, ValueError | LookupError | TypeError | AttributeError | ArithmeticError
        ):
            raise
        reason = f"{type(error).__name__} {' '.join(str(error).split())}"
        raise ValueError(f"the tokenizer of {str(name_or_path)!r} cannot be loaded: {reason}") from error


def _splits_like_text(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether two words in a list get the tokens that they get inside a sentence."""
    words = tokenizer(["to", "be"], is_split_into_words=True, add_special_tokens=False)["input_ids"]
    return words == tokenizer("to be", add_special_tokens=False)["input_ids"]


def longest_input(tokenizer: PreTrainedTokenizerBase, encoder_config: Any) -> int:
    """The largest number of tokens that both tokenizer and encoder can take (512 where neither says)."""
    limits = [tokenizer.model_max_length]
    positions = getattr(encoder_config, "max_position_embeddings", None)
    if positions and positions > 0:
        # RoBERTa and its kin count positions from the padding index, which costs them padding_idx + 1 of the table.
        if encoder_config.model_type in _POSITIONS_AFTER_PADDING:
            positions -= encoder_config.pad_token_id + 1
        elif encoder_config.model_type == "mpnet":  # its padding index is always 1
            positions -= 2
        limits.append(positions)
    limit = min(limits)
    return limit if limit < 1_000_000 else 512


def default_length(name: str, limit: int, **kwargs: Any) -> int:
    """Where inputs are cut by default: at the `max_seq_length` that a sentence encoder declares, else at `limit`.

    Args:
        name: Hub id or folder.
        limit: What the encoder can take (`longest_input`), in tokens.
        **kwargs: Of `from_pretrained`; those that say where to look count.
    """
    options = {key: value for key, value in kwargs.items() if key in WHERE}
    path = cached_file(name, "sentence_bert_config.json", _raise_exceptions_for_missing_entries=False, **options)
    if path is None:
        return limit
    with open(path, encoding="utf-8") as file:
        declared = json.load(file).get("max_seq_length")
    return min(limit, int(declared)) if declared else limit


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Any], *, form: str, max_length: int, word_ids: bool = False
) -> dict[str, list[Any]]:
    """Encode a batch of texts, unpadded.

    Args:
        tokenizer: As `load_tokenizer` returns it.
        texts: Strings, lists of words or pairs of strings, as `form` says.
        form: One of `FORMS`.
        max_length: Longer inputs are cut (of a pair, the longer text first; apart, each on its own).
        word_ids: Whether to say of which word each token is; needs a fast tokenizer.

    Returns:
        `input_ids`, `token_type_ids` where the encoder reads them, `cut` (whether a row was longer), and for words
        `word_starts`: the position of each word's first token, `NO_TOKEN` where it has none. Of texts apart the ids of
        the first and those of the second one after the other, and `second`: where the second begins. When asked for
        `word_ids`: the number of each token's word in its text, None for tokens of none.
    """
    if form == "apart":
        parts = [
            encode(tokenizer, [pair[part] for pair in texts], form="string", max_length=max_length) for part in (0, 1)
        ]
        both = {key: [one + other for one, other in zip(parts[0][key], parts[1][key], strict=True)] for key in parts[0]}
        cut = [bool(number) for number in both["cut"]]
        return both | {"cut": cut, "second": [len(ids) for ids in parts[0]["input_ids"]]}
    if form == "pair":
        first, second = ([_shorten(tokenizer, pair[side], 2 * max_length) for pair in texts] for side in (0, 1))
        encoded = tokenizer(first, second, truncation=True, max_length=max_length)
    else:
        encoded = tokenizer(list(texts), is_split_into_words=form == "words", truncation=True, max_length=max_length)
    rows: dict[str, list[Any]] = {"input_ids": encoded["input_ids"]}
    if "token_type_ids" in tokenizer.model_input_names and "token_type_ids" in encoded:
        rows["token_type_ids"] = encoded["token_type_ids"]
    if tokenizer.is_fast:
        rows["cut"] = [bool(encoding.overflowing) for encoding in encoded.encodings]
        # A fast tokenizer keeps the cut and would be saved with it, or without where the rows came from a cache.
        tokenizer.backend_tokenizer.no_truncation()
    else:  # a slow tokenizer does not tell: a row that fills the limit counts as cut
        rows["cut"] = [len(ids) >= max_length for ids in encoded["input_ids"]]
    if form == "words":
        rows["word_starts"] = [_word_starts(encoded.word_ids(row), len(words)) for row, words in enumerate(texts)]
    if word_ids:
        rows["word_ids"] = [encoded.word_ids(row) for row in range(len(texts))]
    return rows


def _shorten(tokenizer: PreTrainedTokenizerBase, text: str, num_tokens: int) -> str:
    """A very long text of a pair up to its token `num_tokens`.

    What a fast tokenizer cuts off a pair it keeps as every piece of the one text with every piece of the other.
    """
    if len(text) <= 4 * num_tokens or not tokenizer.is_fast:
        return text
    found = tokenizer(
        text, truncation=True, max_length=num_tokens, add_special_tokens=False, return_offsets_mapping=True
    )
    ends = [end for _, end in found["offset_mapping"]]
    return text[: ends[-1]] if len(ends) == num_tokens else text


def _word_starts(word_ids: list[int | None], num_words: int) -> list[int]:
    starts = [NO_TOKEN] * num_words
    for position in range(len(word_ids) - 1, -1, -1):  # from the right, so that a word's first token is written last
        word = word_ids[position]
        if word is not None:
            starts[word] = position
    return starts


def split_words(text: str) -> list[tuple[int, int]]:
    """Character spans (start, end) of the words of a raw text; punctuation around a word is a word of its own."""
    return [match.span() for match in _WORD.finditer(text)]


def words_of(text: str | list[str]) -> tuple[str, list[tuple[int, int]]]:
    """A text (string or list of words) as a string, with the character span of each of its words."""
    if isinstance(text, str):
        return text, split_words(text)
    spans, position = [], 0
    for word in text:
        spans.append((position, position + len(word)))
        position += len(word) + 1
    return " ".join(text), spans


def check_texts(texts: Any) -> None:
    """Raise `ValueError` if `texts` is no series of texts, but a single string, for example, or a mapping."""
    if isinstance(texts, str):
        raise ValueError("`texts` is a single string; give a list of texts, such as [text].")
    if isinstance(texts, bytes | Mapping) or not isinstance(texts, Iterable):
        raise ValueError(f"`texts` is a {type(texts).__name__}; give a list of texts.")


def check_count(argument: str, value: Any) -> None:
    """Raise `ValueError` if an argument is no whole number of at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"`{argument}` is {value!r}; it is a whole number.")
    if value < 1:
        raise ValueError(f"`{argument}` is {value}; it is at least 1.")


def check_text(text: Any, number: int) -> Any:
    """A text as tokenizers take it: halves of surrogate pairs, which JSON can hold, become the sign for what is lost.

    Args:
        text: A string, a list of words, or a tuple of two strings (a pair).
        number: Its place, for the message.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(text, str):
        return text if text.isascii() else _HALF.sub("\ufffd", text)
    kinds = [isinstance(part, str) for part in text] if isinstance(text, list | tuple) else [False]
    if not all(kinds) or (isinstance(text, tuple) and len(text) != 2):
        raise ValueError(
            f"text {number} is {repr(text)[:100]}: a text is a string, a list of words, or a tuple of two strings."
        )
    return type(text)(check_text(part, number) for part in text)
