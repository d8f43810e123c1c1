"""Embeddings: one vector per raw text, with the pooling of the model, a given pooling, or that of a head.

Notable: texts are read as strings or pairs, those of similar length in one batch. The embedding of a text that is read
in windows is the mean over its windows, also with the pooling of a head. Attention pooling has weights that
belong to a head, so the head has to be named.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .encoding import check_text
from .pooling import check_pooling, layers_read, make_pooling, mean_of_windows
from .reading import encoder_passes, layers_of, read_layers
from .texts import encode_texts, padded_batches
from .words import words_of


def embed(
    model: Any, texts: Sequence[Any], pooling: str | None, head: str | None, batch_size: int, show_progress: bool
) -> tuple[Tensor, int]:
    """The embeddings of texts (`MultiTaskModel.encode`).

    Returns:
        (num_texts, hidden_size) float32 on the CPU, in the order of `texts`; and the number of truncated texts.
    """
    pool, num_layers = pooling_of(model, pooling, head)
    checked = [check_text(text, number) for number, text in enumerate(texts, start=1)]
    forms = {"pair" if isinstance(text, tuple) else "string" for text in checked} or {"string"}
    if len(forms) > 1:
        raise ValueError("`texts` has both pairs and single texts: embed them in two calls.")
    form = forms.pop()
    read = encode_texts(model, checked if form == "pair" else [words_of(text)[0] for text in checked], form)
    result = torch.empty(len(checked), model.config.hidden_size)
    deep = {"return_dict": True, "output_hidden_states": num_layers > 1}
    with model.evaluating(), tqdm(total=len(checked), unit="text", disable=not show_progress) as bar:
        for rows, batch in padded_batches(model, read, batch_size):
            num_windows = batch.pop("num_segments", None)
            for _, encoded in encoder_passes(model.encoder, model.config, [head], **batch, **deep):
                states = read_layers(encoded, num_layers, None if head is None else model.heads[head])
                vectors = pool(states, batch["attention_mask"])
                result[rows] = mean_of_windows(vectors, num_windows).float().cpu()
            bar.update(len(rows))
    return result, sum(read["cut"])


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
        model._select_heads(head)
        own: Any = model.heads[head]
        if not hasattr(own, "pool"):
            raise ValueError(f"`head` is {head!r}, a {model.config.heads[head]['type']} head, which does not pool.")
        model._warn_untrained([head] if isinstance(own.pool, nn.Module) else [])
        return own.pool, layers_of(own)
    name = check_pooling(pooling or model.config.pooling, model._num_layers)
    if name == "attention":
        able = [task for task, found in model.heads.items() if isinstance(getattr(found, "pool", None), nn.Module)]
        raise ValueError(
            "`pooling` is 'attention', whose weights belong to a head: name it with `head`"
            f" ({', '.join(able) or 'no head of the model has attention pooling'}), or choose another pooling."
        )
    return make_pooling(name, model.config.hidden_size), layers_read(name)
