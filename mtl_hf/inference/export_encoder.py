"""Export the encoder to a folder for `AutoModel`, for `sentence-transformers`, and for `model: {encoder: FOLDER}`.

Notable: the three JSON files that `sentence-transformers` adds to an encoder are written here, in the form that all its
versions since 2.0 read (its own `save` uses module names of the newest versions), so the package is not needed for the
export; a test loads the result with it. Heads are left out. So is a pooler that the family may have: our models have
none, and `AutoModel` warns that it initializes one at random, which no pooling here uses.
"""

import copy
import json
import logging
from pathlib import Path

from ..files import atomic_folder, check_folder
from ..saved.models import find_checkpoint
from .export import refuse_adapters, warn_of_windows

logger = logging.getLogger(__name__)

# Our pooling → the option of `sentence-transformers` that selects it.
_POOLING = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens"}


def export_encoder(model: str | Path, to: str | Path, *, pooling: str | None = None, normalize: bool = False) -> Path:
    """Write a model's encoder and tokenizer to a folder whose sentence embeddings equal those of `encode`.

    `AutoModel`, `AutoTokenizer` and `sentence_transformers.SentenceTransformer` load it, and it can be the encoder of a
    new multi-task model. Texts are truncated at the model's `max_length` there, too.

    Args:
        model: A run folder, one of its `checkpoint-N`, or a Hub id.
        to: A new or empty folder.
        pooling: Pooling to use instead of the model's own.
        normalize: Whether `SentenceTransformer` always scales each embedding to length 1.

    Returns:
        The folder.

    Raises:
        ValueError: No such model, the folder is not empty, the model has adapters, or `sentence-transformers` does not
            support the pooling.
    """
    folder = check_folder(to, "to")
    checkpoint = find_checkpoint(model)
    refuse_adapters(checkpoint)
    loaded = checkpoint.load()
    pooling = pooling or loaded.config.pooling
    if pooling not in _POOLING:
        raise ValueError(
            f"`pooling` is {pooling!r}, which sentence-transformers does not support; valid are {', '.join(_POOLING)}"
            " of the last layer. Train with one of them, or choose one here (the embeddings will differ)."
        )
    warn_of_windows(loaded)
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.padding_side = "right"  # as in `encode`, whatever the tokenizer's setting is
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * normalize
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (path, name) in enumerate(modules)
    ]
    modes = {field: name == pooling for name, field in _POOLING.items()}
    with atomic_folder(folder) as draft:
        loaded.encoder.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        _write(draft / "modules.json", listed)
        length = {"max_seq_length": loaded.config.max_length, "do_lower_case": False}
        _write(draft / "sentence_bert_config.json", length)
        _write(draft / "1_Pooling" / "config.json", {"word_embedding_dimension": loaded.config.hidden_size} | modes)
    logger.info("The encoder of %s: written to %s (pooling %s, at most %d tokens).",
                checkpoint.name, folder, pooling, loaded.config.max_length)  # fmt: skip
    return folder


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
