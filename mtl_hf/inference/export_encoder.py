"""The encoder alone as a folder for `AutoModel`, for `sentence-transformers`, and for `model: {encoder: FOLDER}`.

Notable: the three JSON files that `sentence-transformers` adds to an encoder are written here, in the form that all of
its versions since 2.0 read (its own `save` names modules as only the newest versions do), so the package is not needed
to export; a test loads what is written with it. Heads stay behind, and so do weights of a pooler that the family may
have: our models have none, and `AutoModel` says that it starts one at random, which no pooling here reads.
"""

import copy
import json
import logging
from pathlib import Path

from ..files import check_folder, whole_folder
from ..saved.models import find_checkpoint
from .export import refuse_adapters

logger = logging.getLogger(__name__)

# Our pooling → the field of `sentence-transformers` that asks for it.
_POOLING = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens"}


def export_encoder(model: str | Path, to: str | Path, *, pooling: str | None = None, normalize: bool = False) -> Path:
    """Write a model's encoder and tokenizer as a folder whose sentence embeddings equal those of `encode`.

    `AutoModel`, `AutoTokenizer` and `sentence_transformers.SentenceTransformer` load it, and it is an encoder for a
    model of ours again. Texts are cut at the model's `max_length` there too.

    Args:
        model: A run's folder, one of its `checkpoint-N`, or a Hub id.
        to: A new folder, or an empty one.
        pooling: Instead of the model's own.
        normalize: Whether `SentenceTransformer` scales each embedding to length 1 without being asked.

    Returns:
        The folder.

    Raises:
        ValueError: No such model, the folder holds something, the model has adapters, or a pooling that
            `sentence-transformers` does not have.
    """
    folder = check_folder(to, "to")
    checkpoint = find_checkpoint(model)
    refuse_adapters(checkpoint)
    loaded = checkpoint.load()
    pooling = pooling or loaded.config.pooling
    if pooling not in _POOLING:
        raise ValueError(
            f"`pooling` is {pooling!r}, by which sentence-transformers cannot pool: it makes {', '.join(_POOLING)} of"
            " the last layer's states. Train with one of them, or name one (the embeddings will be others)."
        )
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.padding_side = "right"  # as `encode` pads whatever the tokenizer says
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * normalize
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (path, name) in enumerate(modules)
    ]
    modes = {field: name == pooling for name, field in _POOLING.items()}
    with whole_folder(folder) as draft:
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
