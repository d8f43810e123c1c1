"""Load a tokenizer, set it up for lists of words, add tokens to it, and find how long its inputs can be.

Notable: whether a tokenizer can align words with tokens is found by trying it. `encoding.py` encodes with the result.
"""

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

# Arguments of `from_pretrained` for the place and the commit of a file.
WHERE = ("revision", "token", "cache_dir", "local_files_only", "force_download", "proxies", "subfolder")


_POSITIONS_AFTER_PADDING = (
    "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "data2vec-text", "xmod",
    "ibert", "longformer", "luke", "markuplm", "esm",
)  # fmt: skip


def load_tokenizer(name_or_path: str, *, words: bool = False, **kwargs: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer; with `words`, one that can encode lists of words.

    Args:
        name_or_path: Hub id or folder.
        words: Whether texts are lists of words, aligned to labels.
        **kwargs: Passed to `AutoTokenizer.from_pretrained` (`revision`, `trust_remote_code`, ...).

    Raises:
        OSError: There is no tokenizer.
        ValueError: Its files are damaged; or, with `words`, it cannot align words with tokens.
    """
    kwargs.setdefault("trust_remote_code", False)  # with None, transformers prompts on the terminal
    tokenizer = _read_tokenizer(name_or_path, **kwargs)
    return tokenizer_of_words(tokenizer, name_or_path, **kwargs) if words else tokenizer


def tokenizer_of_words(tokenizer: PreTrainedTokenizerBase, name_or_path: str, **kwargs: Any) -> PreTrainedTokenizerBase:
    """A tokenizer that can encode lists of words: the given one, or the same loaded with other settings.

    Args:
        tokenizer: A tokenizer from `load_tokenizer`.
        name_or_path: Where it was loaded from.
        **kwargs: The arguments it was loaded with.

    Raises:
        ValueError: The tokenizer cannot align words with tokens.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"the tokenizer of {name_or_path!r} ({type(tokenizer).__name__}) cannot align words with tokens, which"
            " lists of words need: choose an encoder with a fast tokenizer, or use texts that are strings."
        )
    if _splits_like_text(tokenizer):
        return tokenizer
    given = tokenizer
    # Classes with `add_prefix_space` rebuild their pre-tokenizer from it at each load, so it has to be an argument. The
    # generic class ignores the argument and saves its pre-tokenizer, so that is changed below.
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, add_prefix_space=True, **kwargs)
    pre_tokenizer = tokenizer.backend_tokenizer.pre_tokenizer
    for part in pre_tokenizer if type(pre_tokenizer).__name__ == "Sequence" else [pre_tokenizer]:
        if type(part).__name__ == "ByteLevel":
            part.add_prefix_space = True
    if not _splits_like_text(tokenizer):
        raise ValueError(
            f"the tokenizer of {name_or_path!r} gives a list of words other tokens than the same words in a sentence:"
            " choose another encoder, or use texts that are strings."
        )
    add_tokens(tokenizer, sorted(given.get_added_vocab(), key=given.get_added_vocab().__getitem__))
    if tokenizer.truncation_side != given.truncation_side:
        set_truncation_side(tokenizer, given.truncation_side)
    return tokenizer


def add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Iterable[str]) -> list[str]:
    """Add tokens that are never split and are matched exactly as written, and return those that are new.

    They are ordinary tokens, not special ones: a masked_lm task can mask them.
    """
    known = tokenizer.get_vocab()
    new = [token for token in tokens if token not in known]
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in new])
    return new


def set_truncation_side(tokenizer: PreTrainedTokenizerBase, side: str) -> None:
    """Set the side on which texts are truncated, so that it is saved with the tokenizer."""
    tokenizer.truncation_side = side
    tokenizer.init_kwargs["truncation_side"] = side  # of what is set later, transformers saves nothing


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
        # For a damaged tokenizer.json, the library `tokenizers` raises `Exception` itself.
        if type(error) is not Exception and not isinstance(
            error, ValueError | LookupError | TypeError | AttributeError | ArithmeticError
        ):
            raise
        reason = f"{type(error).__name__} {' '.join(str(error).split())}"
        raise ValueError(f"the tokenizer of {str(name_or_path)!r} cannot be loaded: {reason}") from error


def _splits_like_text(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether two words in a list get the same tokens as inside a sentence."""
    words = tokenizer(["to", "be"], is_split_into_words=True, add_special_tokens=False)["input_ids"]
    return words == tokenizer("to be", add_special_tokens=False)["input_ids"]


def longest_input(tokenizer: PreTrainedTokenizerBase, encoder_config: Any) -> int:
    """The largest number of tokens that both tokenizer and encoder support (512 if neither has a limit)."""
    limits = [tokenizer.model_max_length]
    positions = getattr(encoder_config, "max_position_embeddings", None)
    if positions and positions > 0:
        # RoBERTa-like encoders count positions from the padding index, so padding_idx + 1 positions are not used.
        if encoder_config.model_type in _POSITIONS_AFTER_PADDING:
            positions -= encoder_config.pad_token_id + 1
        elif encoder_config.model_type == "mpnet":  # its padding index is always 1
            positions -= 2
        limits.append(positions)
    limit = min(limits)
    return limit if limit < 1_000_000 else 512


def default_length(name: str, limit: int, **kwargs: Any) -> int:
    """The default of `max_length`: the `max_seq_length` of a sentence encoder, else `limit`.

    Args:
        name: Hub id or folder.
        limit: The limit of the encoder (`longest_input`), in tokens.
        **kwargs: Arguments of `from_pretrained`, of which those in `WHERE` are used.
    """
    options = {key: value for key, value in kwargs.items() if key in WHERE}
    path = cached_file(name, "sentence_bert_config.json", _raise_exceptions_for_missing_entries=False, **options)
    if path is None:
        return limit
    with open(path, encoding="utf-8") as file:
        declared = json.load(file).get("max_seq_length")
    return min(limit, int(declared)) if declared else limit
