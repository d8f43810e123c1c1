"""Export one head as a stock transformers model, which needs neither this package nor its code.

Notable: there is no list of supported encoder families. The stock class is built, the encoder's weights are copied, and
the layers after the encoder are set so that they compute the head. Then the logits of both are compared on random
batches; if they differ, nothing is written and the error explains why. The logits agree for the same tokens: stock
pipelines split words as the tokenizer does, `predict` splits them by `modeling/words.py`.

Most stock classes for sequences have a layer with an activation a before the last one. If a(z) - a(-z) = z, as for
relu, gelu and silu, that layer can compute each logit and its negative, and the last layer subtracts the two: exact for
every input. tanh (BERT, RoBERTa and similar) has no such identity, so their sequence heads cannot be exported.
"""

import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..config import nearest
from ..files import atomic_folder, check_folder
from ..modeling.adapters import SHARED
from ..modeling.modeling_multitask import MultiTaskModel
from ..modeling.pooling import POOLING
from ..modeling.windows import WINDOW
from ..saved.models import Checkpoint, find_checkpoint
from ..tasks import task_type

logger = logging.getLogger(__name__)

TOLERANCE = 1e-5  # relative to the largest logit
_CUT = ' Long texts are truncated only on request: pipeline("text-classification", model="%s", truncation=True).'
_DROPOUTS = ("classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout", "cls_dropout")


def export_head(model: str | Path, task: str, to: str | Path) -> Path:
    """Write one head with its encoder and tokenizer to a folder that stock classes of transformers load.

    Args:
        model: A run folder, one of its `checkpoint-N`, or a Hub id.
        task: Name of the head.
        to: A new or empty folder.

    Returns:
        The folder.

    Raises:
        ValueError: No such model or head, the folder is not empty, the model has experts or adapters, or the stock
            class cannot compute the head.
    """
    folder = check_folder(to, "to")
    checkpoint = find_checkpoint(model)
    if task not in checkpoint.heads:
        raise ValueError(
            f"{checkpoint.name} has no head {task!r}.{nearest(task, checkpoint.heads)} It has:"
            f" {', '.join(checkpoint.heads) or 'none'}."
        )
    _refuse_experts(checkpoint.experts, task)  # before adapters, because merging them would not help
    refuse_adapters(checkpoint)
    loaded = checkpoint.load().eval()
    saved_in = loaded.dtype
    stock = stock_model(loaded.float(), task).to(saved_in)  # half precision cannot agree to 1e-5
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.model_max_length = loaded.config.max_length  # used by `truncation=True`
    warn_of_windows(loaded)
    with atomic_folder(folder) as draft:
        stock.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
    # The stock token pipeline truncates by itself; the one for sequences fails on texts longer than the encoder's
    # limit.
    cut = "" if loaded.heads[task].form == "words" else _CUT % folder
    logger.info("%s: written to %s.%s", task, folder, cut)
    if thresholds := checkpoint.heads[task].get("thresholds"):
        numbers = zip(checkpoint.heads[task]["labels"], thresholds, strict=True)
        shown = ", ".join(f"{label} {value:.4g}" for label, value in numbers)
        logger.warning("%s: a stock class cannot hold thresholds, so the exported model predicts without them. Apply"
                       " them to its probabilities: %s.", task, shown)  # fmt: skip
    return folder


def refuse_adapters(checkpoint: Checkpoint) -> None:
    """Raise `ValueError` if a model has adapters, which no stock class supports."""
    if checkpoint.adapters:
        task = "" if list(checkpoint.adapters) == [SHARED] else " --task TASK"
        raise ValueError(
            f"{checkpoint.name} has adapters, which stock classes do not support: merge them first with `mtl-hf merge"
            f" {checkpoint.name} --to FOLDER{task}`."
        )


def _refuse_experts(experts: dict[str, int] | None, task: str) -> None:
    if experts:
        raise ValueError(
            f"`{task}` cannot be exported: it uses a mixture of experts, which no stock class of transformers supports."
        )


def stock_model(model: MultiTaskModel, task: str) -> PreTrainedModel:
    """The stock model of the encoder's family with the weights of the encoder and of one head, in evaluation mode.

    Raises:
        ValueError: There is no such class, or it cannot reproduce the logits of the head.
    """
    head: Any = model.heads[task]
    kind = task_type(model.config.heads[task]["type"])
    _refuse_experts(model.config.experts, task)
    named = model.config.heads[task].get("pooling") or model.config.pooling
    if kind.stock and hasattr(head, "pool") and named not in POOLING:
        raise ValueError(
            f"`{task}` cannot be exported: its pooling is `{named}`, and stock classes of transformers support only"
            f" {', '.join(POOLING)}."
        )
    if beyond := head.beyond_stock():
        raise ValueError(
            f"`{task}` cannot be exported: it was trained with `{'` and `'.join(beyond)}`, which no stock class of"
            " transformers computes."
        )
    layers = [module for module in head.modules() if isinstance(module, nn.Linear)]
    if not kind.stock or len(layers) != 1:
        alone = "" if kind.head.answers_texts else "; export the encoder alone with `mtl-hf export-encoder`"
        raise ValueError(
            f"`{task}` cannot be exported: no stock class of transformers computes a {kind.name} head{alone}."
        )
    (layer,) = layers
    pooling = next((name for name, pool in POOLING.items() if pool is getattr(head, "pool", None)), None)
    batches = list(random_batches(model))
    wanted = {name: [_head_logits(model, head, batch, name) for batch in batches] for name in POOLING}
    numbers = wanted["mean"][0].dim() == 1
    found: list[str] = []  # pooling of the stock class, found by trial
    for settings in _settings(model, pooling):
        stock = _build(model, task, settings)
        behind = _behind(stock, model)
        for write in (_write_plainly, _write_twice, _write_normed):
            if write(behind, layer, model.encoder):
                with torch.no_grad():
                    logits = [_answering(stock(**batch).logits, batch, numbers) for batch in batches]
                found += [name for name in POOLING if all(map(agree, logits, wanted[name]))]
                if found and (pooling is None or pooling in found):
                    return stock
    name, between = type(stock).__name__, [path for path, module in behind[:-1]]
    reason = f"has {' and '.join(between) or 'a pooling of its own'} before its last layer, which this head lacks"
    if found:
        reason = f"pools by `{found[0]}` and this head by `{pooling}`; train with `pooling: {found[0]}` to export it"
    elif 2 * layer.out_features > layer.in_features:
        reason += f" (at most {layer.in_features // 2} labels may fit)"
    else:
        reason += "; train with `pooling: cls` on DistilBERT, DeBERTa, ELECTRA or ModernBERT, for example, to export it"
    raise ValueError(f"`{task}` cannot be exported: {name}, the stock class for this encoder, {reason}.")


def _settings(model: MultiTaskModel, pooling: str | None) -> Iterator[dict[str, Any]]:
    """Settings of the stock configuration to try: none, then those with the head's pooling or without an activation."""
    config = model.encoder.config
    yield {}
    pooled: dict[str, Any] = {}
    if hasattr(config, "classifier_pooling") and pooling in ("mean", "cls"):
        first = (
            "bos" if config.model_type == "eurobert" else "cls"
        )  # eurobert does not check the name; others give no logits
        pooled = {"classifier_pooling": first if pooling == "cls" else pooling}
        yield pooled
    if hasattr(config, "classifier_activation"):  # the activation, or whether there is one
        none = {"classifier_activation": False if isinstance(config.classifier_activation, bool) else "linear"}
        yield from (own | none for own in (pooled, {}))


def _build(model: MultiTaskModel, task: str, settings: dict[str, Any]) -> PreTrainedModel:
    """The stock model with the encoder's weights."""
    spec: dict[str, Any] = model.config.heads[task]
    stock_class, problem = task_type(spec["type"]).stock or ("", None)
    auto = getattr(transformers, stock_class)
    names = spec.get("labels") or [task]
    config = copy.deepcopy(model.encoder.config)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = problem
    head: Any = model.heads[task]
    for field, value in (dict.fromkeys(_DROPOUTS, head.dropout.p) | settings).items():
        if hasattr(config, field):
            setattr(config, field, value)
    try:
        stock = auto.from_config(config, attn_implementation=model.encoder.config._attn_implementation)
    except ValueError as error:
        raise ValueError(
            f"`{task}` cannot be exported: transformers has no {auto.__name__} for {config.model_type}."
        ) from error
    stock.base_model.load_state_dict(model.encoder.state_dict(), strict=False)
    return stock.to(model.device, model.dtype).eval()


def _behind(stock: PreTrainedModel, model: MultiTaskModel) -> list[tuple[str, nn.Module]]:
    """Path and module of all layers with weights outside the encoder, in the order of the class."""
    copied = {f"{stock.base_model_prefix}.{name}" for name in model.encoder.state_dict()}
    return [
        (path, module)
        for path, module in stock.named_modules()
        if any(f"{path}.{name}" not in copied for name, _ in module.named_parameters(recurse=False))
    ]


# ---- ways to write a head into the layers after the encoder; they return False if the layers do not fit ----


@torch.no_grad()
def _write_plainly(behind: list[tuple[str, nn.Module]], layer: nn.Linear, encoder: nn.Module) -> bool:
    """Write the head's layer as the last layer."""
    for _, module in behind:
        for parameter in module.parameters(recurse=False):
            parameter.zero_()
    last: Any = behind[-1][1] if behind else None
    if not isinstance(last, nn.Linear) or last.weight.shape != layer.weight.shape or last.bias is None:
        return False
    last.weight.copy_(layer.weight)
    last.bias.copy_(layer.bias)
    return True


@torch.no_grad()
def _write_twice(behind: list[tuple[str, nn.Module]], layer: nn.Linear, encoder: nn.Module) -> bool:
    """Compute each logit and its negative in a layer with an activation; the last layer subtracts the two."""
    dense = _square(behind, layer)
    num_labels = layer.out_features
    if not _write_plainly(behind, layer, encoder) or dense is None or 2 * num_labels > layer.in_features:
        return False
    dense.weight[: 2 * num_labels].copy_(torch.cat([layer.weight, -layer.weight]))
    last: Any = behind[-1][1]
    last.weight.zero_()
    last.weight[:, :num_labels].fill_diagonal_(1)
    last.weight[:, num_labels : 2 * num_labels].fill_diagonal_(-1)
    return True


@torch.no_grad()
def _write_normed(behind: list[tuple[str, nn.Module]], layer: nn.Linear, encoder: nn.Module) -> bool:
    """Make a dense layer and a norm the identity: normalizing the output of a norm again does not change it.

    The layer removes the scale and shift of the encoder's last norm, the norm applies them again.
    """
    dense = _square(behind, layer)
    norms = [module for _, module in behind if isinstance(module, nn.LayerNorm)]
    lasts = [module for module in encoder.modules() if isinstance(module, nn.LayerNorm)]
    if not _write_plainly(behind, layer, encoder) or dense is None or len(norms) != 1 or not lasts:
        return False
    scale = lasts[-1].weight
    shift = torch.zeros_like(scale) if lasts[-1].bias is None else lasts[-1].bias
    if not scale.all():
        return False
    dense.weight.copy_(torch.diag(1 / scale))
    norms[0].weight.copy_(scale)
    if dense.bias is not None and norms[0].bias is not None:
        dense.bias.copy_(-shift / scale)
        norms[0].bias.copy_(shift)
    return True


def _square(behind: list[tuple[str, nn.Module]], layer: nn.Linear) -> nn.Linear | None:
    """The nearest layer before the last that keeps the width (there may also be an unused pooler)."""
    width = (layer.in_features, layer.in_features)
    found = [module for _, module in behind[:-1] if isinstance(module, nn.Linear) and module.weight.shape == width]
    return found[-1] if found else None


# ---- measuring ----


def random_batches(model: MultiTaskModel) -> Iterator[dict[str, Tensor]]:
    """Batches of random tokens with rows of different lengths, padded on the right."""
    random = torch.Generator().manual_seed(13)
    longest = min(model.config.max_length, 32)
    for _ in range(2):
        lengths = torch.randint(2, longest + 1, (8,), generator=random)
        mask = (torch.arange(longest) < lengths[:, None]).long()
        ids = torch.randint(model.encoder.config.vocab_size, mask.shape, generator=random)
        ids = torch.where(mask.bool(), ids, model.tokenizer.pad_token_id or 0)
        yield {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}


def warn_of_windows(model: MultiTaskModel) -> None:
    """Warn that an exported model does not read long texts in windows, if the model does."""
    if model.config.overflow == WINDOW:
        logger.warning("The model reads texts longer than %d tokens in windows; the exported model reads only their"
                       " beginning.", model.config.max_length)  # fmt: skip


@torch.no_grad()
def _head_logits(model: MultiTaskModel, head: Any, batch: dict[str, Tensor], pooling: str) -> Tensor:
    """The logits of the head with the given pooling."""
    pool = getattr(head, "pool", None)
    try:
        if pool is not None:
            head.pool = POOLING[pooling]
        states = model.encoder(**batch).last_hidden_state
        return _answering(head(states, batch["attention_mask"]), batch)
    finally:
        if pool is not None:
            head.pool = pool


def _answering(logits: Tensor, batch: dict[str, Tensor], numbers: bool = False) -> Tensor:
    """Logits without padding; for `numbers` also without the last axis, which has size 1."""
    if logits.dim() == 3:
        return logits[batch["attention_mask"].bool()]
    return logits.squeeze(-1) if numbers else logits


def agree(logits: Tensor, wanted: Tensor) -> bool:
    """Whether logits are equal up to rounding."""
    return logits.shape == wanted.shape and bool(
        (logits - wanted).abs().max() <= TOLERANCE * wanted.abs().max().clamp(min=torch.finfo(wanted.dtype).tiny)
    )
