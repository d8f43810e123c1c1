"""A tokenizer.json with what `modeling/encoding.py` and `modeling/texts.py` ask of a tokenizer. No transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

# What transformers knows of a tokenizer besides its tokenizer.json, and encoding needs.
SETTINGS = ("model_input_names", "pad_token_id", "pad_token_type_id", "truncation_side", "split_special_tokens")


class FastTokenizer:
    """A tokenizer of the library `tokenizers`.

    Attributes:
        backend_tokenizer: The tokenizer.
        is_fast: True, as for fast tokenizers of transformers.
        model_input_names: Inputs of the encoder.
        pad_token_id: Id of padding.
        pad_token_type_id: Segment of padding.
        truncation_side: The side on which texts are truncated.
        split_special_tokens: Whether special tokens in a text are split as other text.

    Args:
        path: A tokenizer.json.
        settings: The values of `SETTINGS`.

    Raises:
        ValueError: The file is damaged.
    """

    is_fast = True

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        try:
            self.backend_tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:
            if type(error) is not Exception:  # the library raises `Exception` itself for a damaged file
                raise
            raise ValueError(f"{path} is damaged: {error}") from error
        self.backend_tokenizer.no_truncation()
        self.model_input_names: list[str] = settings["model_input_names"]
        self.pad_token_id: int = settings["pad_token_id"]
        self.pad_token_type_id: int = settings["pad_token_type_id"]
        self.truncation_side: str = settings["truncation_side"]
        self.split_special_tokens: bool = settings["split_special_tokens"]

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()

    def num_special_tokens_to_add(self) -> int:
        """The number of special tokens of a single text."""
        return self.backend_tokenizer.num_special_tokens_to_add(False)


def write_tokenizer(tokenizer: Any, path: Path) -> dict[str, Any]:
    """Write a fast tokenizer of transformers as tokenizer.json, and return the values of `SETTINGS`.

    Raises:
        ValueError: The tokenizer is slow, which has no such file.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"an exported model needs a fast tokenizer, which {type(tokenizer).__name__} is not.")
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(path))
    return {name: getattr(tokenizer, name) for name in SETTINGS}
