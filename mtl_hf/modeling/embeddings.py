"""Embeddings: one vector per raw text, with the pooling of the model, a given pooling, or that of a head.

Notable: texts are read as strings or pairs, those of similar length in one batch. The embedding of a text that is read
in windows is the mean over its windows, also with the pooling of a head. Attention pooling has weights that
belong to a head, so the head has to be named.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .pooling import check_pooling, layers_read, make_pooling, mean_of_windows
from .reading import encoder_passes, layers_of, read_layers
from .texts import Batch, embed_texts


def embed(
    model: Any, texts: Sequence[Any], pooling: str | None, head: str | None, batch_size: int, show_progress: bool
) -> tuple[Tensor, int]:
    """The embeddings of texts (`MultiTaskModel.encode`).

    Returns:
        (num_texts, hidden_size) float32 on the CPU, in the order of `texts`; and the number of truncated texts.
    """
    pool, num_layers = pooling_of(model, pooling, head)

    def vectors(arrays: Batch) -> np.ndarray:
        batch = model.to_tensors(arrays)
        num_windows = batch.pop("num_segments", None)
        ((_, encoded),) = encoder_passes(
            model.encoder, model.config, [head], **batch, return_dict=True, output_hidden_states=num_layers > 1
        )
        states = read_layers(encoded, num_layers, None if head is None else model.heads[head])
        found: np.ndarray = mean_of_windows(pool(states, batch["attention_mask"]), num_windows).float().cpu().numpy()
        return found

    with model.evaluating():
        result, num_cut = embed_texts(model, texts, vectors, batch_size, show_progress)
    return torch.from_numpy(result), num_cut


def pooling_of(model: Any, pooling: str | None, head: str | None) -> tuple[Callable[[Tensor, Tensor], Tensor], int]:
    """The pooling function of embeddings, and how many of the encoder's last layers it reads.

    Args:
        model: A `MultiTaskModel`.
        pooling: Pooling to use instead of the model's.
        head: Head whose pooling to use.

    Raises:
        ValueError: As in `MultiTaskModel.encode`.
    """
    if head is not None:
        if pooling is not None:
            raise ValueError(
                f"`pooling` is {pooling!r} and `head` is {head!r}, but a head has its own pooling: give only one."
            )
        model.select_heads(head)
        own: Any = model.heads[head]
        if not hasattr(own, "pool"):
            raise ValueError(f"`head` is {head!r}, a {model.config.heads[head]['type']} head, which does not pool.")
        model.warn_untrained([head] if isinstance(own.pool, nn.Module) else [])
        return own.pool, layers_of(own)
    name = check_pooling(pooling or model.config.pooling, model._num_layers)
    if name == "attention":
        able = [task for task, found in model.heads.items() if isinstance(getattr(found, "pool", None), nn.Module)]
        raise ValueError(
            "`pooling` is 'attention', whose weights belong to a head: name it with `head`"
            f" ({', '.join(able) or 'no head of the model has attention pooling'}), or choose another pooling."
        )
    return make_pooling(name, model.config.hidden_size), layers_read(name)
