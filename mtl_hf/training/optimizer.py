"""Parts of a model and their learning rates: layer-wise decay over the encoder, rates by task, or rates by pattern.

Notable: the layers are the encoder's longest `ModuleList`; there is no table of model names. Optimiser groups have a
stable order (embeddings, layers from the input up, the top of the encoder, adapters, heads; with weight decay before
without), on which the optimiser state in checkpoints relies.
"""

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from ..config import nearest
from ..modeling.adapters import SHARED, adapter_parameters
from ..modeling.bottleneck import find_layers
from ..modeling.modeling_multitask import MultiTaskModel


@dataclass
class Part:
    """Parameters of a model that are trained with the same settings.

    Attributes:
        name: `embeddings`, `encoder.layers.<k>` (from 0), `encoder.top` (what follows the last layer), `adapters` (of
            all heads), `adapters.<task>`, `experts` or `heads.<task>` (with its gate over experts).
        parameters: Full name → parameter.
        learning_rate: Peak learning rate.
    """

    name: str
    parameters: dict[str, nn.Parameter]
    learning_rate: float = 0.0

    @property
    def num_parameters(self) -> int:
        """Its number of parameters."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    @property
    def frozen(self) -> bool:
        """Whether all of its parameters are frozen."""
        return not any(parameter.requires_grad for parameter in self.parameters.values())

    @property
    def in_encoder(self) -> bool:
        """Whether it belongs to the encoder itself, including the embeddings."""
        return self.name == "embeddings" or self.name.startswith("encoder.")

    @property
    def shared(self) -> bool:
        """Whether several heads may share it: true for all parts except heads and adapters of one task."""
        return not self.name.startswith(("heads.", "adapters."))

    def train(self, trained: bool) -> None:
        """Unfreeze it, or freeze it."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(trained)


def find_parts(model: MultiTaskModel) -> list[Part]:
    """The parts of a model from the input to the heads; each parameter is in exactly one part."""
    layers, num_layers = find_layers(model.encoder)
    names = ["embeddings", *(f"encoder.layers.{k}" for k in range(num_layers)), "encoder.top"]
    names += [*(adapters_part(adapter) for adapter in model.config.adapters or ()), "experts"]
    owners = adapter_parameters(model.encoder)
    parts = {name: Part(name, {}) for name in names + [f"heads.{task}" for task in model.heads]}
    embedding_names = {f"{name}." for name, module in model.encoder.named_modules() if isinstance(module, nn.Embedding)}
    in_front = True
    for name, parameter in model.named_parameters():
        if name.startswith("heads."):
            parts[".".join(name.split(".")[:2])].parameters[name] = parameter
            continue
        if name.startswith("experts."):
            parts["experts"].parameters[name] = parameter
            continue
        inside = name.removeprefix("encoder.")
        if inside in owners:
            part = adapters_part(owners[inside])
        elif inside.startswith(layers):
            in_front = False
            part = f"encoder.layers.{inside.removeprefix(layers).split('.')[0]}"
        # Relative position embeddings may be declared after the layers, but are inputs of them.
        elif in_front or any(inside.startswith(embedding) for embedding in embedding_names):
            part = "embeddings"
        else:
            part = "encoder.top"
        parts[part].parameters[name] = parameter
    return [part for part in parts.values() if part.parameters]


def adapters_part(adapter: str) -> str:
    """Name of the part of an adapter."""
    return "adapters" if adapter == SHARED else f"adapters.{adapter}"


_LAYERS = re.compile(r"encoder\.layers\.(\d+)(?:-(\d+))?")
_SIDES = ("encoder", "adapters", "heads")  # patterns that name all parts of a kind


def matching(parts: Iterable[Part], pattern: str, field: str) -> list[Part]:
    """The parts that match a pattern.

    Args:
        parts: The result of `find_parts`.
        pattern: `embeddings`, `encoder` (all of it, with embeddings), `encoder.layers.<k>`, `encoder.layers.<a>-<b>`
            (from 0, both ends included), `encoder.top`, `adapters` (all), `adapters.<task>`, `experts`, `heads` (all),
            `heads.<task>`.
        field: The training argument with the pattern, for messages.

    Raises:
        ValueError: No part matches.
    """
    parts = list(parts)
    matched = [part for part in parts if _matches(pattern, part.name)]
    span = _LAYERS.fullmatch(pattern)
    if span and span[2] and int(span[1]) > int(span[2]):
        raise ValueError(f"`{field}`: {pattern!r} is reversed: write encoder.layers.{span[2]}-{span[1]}.")
    if not matched:
        names = ["encoder", "heads", *(part.name for part in parts)]
        raise ValueError(
            f"`{field}`: {pattern!r} matches no part.{nearest(pattern, names)} The parts are: {', '.join(names)}."
        )
    return matched


def _matches(pattern: str, name: str) -> bool:
    if pattern in _SIDES:
        return name.startswith(f"{pattern}.") or (pattern == "encoder" and name == "embeddings") or name == pattern
    span, layer = _LAYERS.fullmatch(pattern), _LAYERS.fullmatch(name)
    if span and span[2]:
        return layer is not None and int(span[1]) <= int(layer[1]) <= int(span[2])
    return pattern == name


def _breadth(pattern: str) -> float:
    """Breadth of a pattern, for sorting from the most to the least specific: one part, some layers, a whole side."""
    span = _LAYERS.fullmatch(pattern)
    if span and span[2]:
        return (
            int(span[2]) - int(span[1]) + 1.5
        )  # broader than the name of a single layer, even for a range of one layer
    return float("inf") if pattern in _SIDES else 1.0


def explicit_rates(parts: Iterable[Part], learning_rates: Mapping[str, float]) -> dict[str, tuple[str, float]]:
    """Part → the most specific pattern that matches it, and that pattern's rate.

    From the most to the least specific: a part's own name, narrow ranges of layers, wide ranges, and last `encoder`,
    `adapters` and `heads`.

    Args:
        parts: The result of `find_parts`.
        learning_rates: Pattern → rate.

    Raises:
        ValueError: A pattern matches no part, or two equally specific patterns match the same layer.
    """
    parts = list(parts)
    found: dict[str, tuple[str, float]] = {}
    for pattern in sorted(learning_rates, key=_breadth):
        for part in matching(parts, pattern, "learning_rates"):
            if part.name not in found:
                found[part.name] = pattern, learning_rates[pattern]
            elif _breadth(found[part.name][0]) == _breadth(pattern):
                raise ValueError(
                    f"`learning_rates`: {found[part.name][0]!r} and {pattern!r} both match {part.name} and are equally"
                    " specific: choose ranges that do not overlap."
                )
    return found


def check_frozen_rates(
    parts: Iterable[Part],
    learning_rates: Mapping[str, float],
    task_learning_rates: Mapping[str, float | None],
) -> None:
    """Check that no frozen part has an explicit learning rate.

    `encoder`, `adapters` and `heads` may include frozen parts: the rate applies to the others.

    Args:
        parts: The parts, after `freezing.freeze`.
        learning_rates: Pattern → rate.
        task_learning_rates: Task → rate of its head, or None.

    Raises:
        ValueError: A frozen part has a rate; the message names the part.
    """
    parts = list(parts)
    frozen_parts = {part.name for part in parts if part.frozen}
    for task, rate in task_learning_rates.items():
        if rate is not None and f"heads.{task}" in frozen_parts:
            raise ValueError(
                f"`tasks.{task}.learning_rate` has no effect because the head is frozen: remove it, or remove the head"
                " from `freeze` (heads of tasks with `train: false` are frozen, too)."
            )
    for pattern in learning_rates:
        named = matching(parts, pattern, "learning_rates")
        frozen = [part.name for part in named if part.frozen]
        if frozen and (len(frozen) == len(named) or pattern not in _SIDES):
            raise ValueError(
                f"`learning_rates` has {pattern!r}, but {frozen[0]} is frozen: remove it from `learning_rates` or from"
                " `freeze` (heads of tasks with `train: false` are frozen, too, and so is an encoder with adapters)."
            )


def check_rates(
    learning_rates: Mapping[str, float],
    *,
    layerwise_lr_decay: float,
    head_learning_rate: float | None,
) -> None:
    """Check learning rates without a model; for arguments see `set_learning_rates`.

    Raises:
        ValueError: An explicit rate is not a positive number; `heads` has a rate besides `head_learning_rate`; or
            `encoder` has a rate besides a decay, which would have no effect.
    """
    if not 0 < layerwise_lr_decay <= 1:
        raise ValueError(f"`layerwise_lr_decay` is {layerwise_lr_decay}; it is above 0 and at most 1.")
    if "encoder" in learning_rates and layerwise_lr_decay != 1:
        raise ValueError(
            f"`learning_rates.encoder` sets one rate for all layers, so `layerwise_lr_decay: {layerwise_lr_decay}` has"
            " no effect: set it to 1, or set the rate as `learning_rate`."
        )
    for pattern, rate in learning_rates.items():
        if not 0 < rate < float("inf"):
            raise ValueError(
                f"`learning_rates.{pattern}` is {rate:g}; it is above 0 (to keep parameters unchanged, use `freeze`)."
            )
    if "heads" in learning_rates and head_learning_rate is not None:
        raise ValueError(
            "`learning_rates.heads` and `head_learning_rate` both set the learning rate of heads: remove one of them"
            " (for experts alone, use `learning_rates.experts`)."
        )


def set_learning_rates(
    parts: Iterable[Part],
    *,
    learning_rate: float,
    layerwise_lr_decay: float = 1.0,
    head_learning_rate: float | None = None,
    task_learning_rates: Mapping[str, float | None] | None = None,
    learning_rates: Mapping[str, float] | None = None,
) -> None:
    """Set the learning rate of each part, in place.

    Layer k of L (1 is nearest the input) has `learning_rate × decay^(L−k)`, the embeddings `learning_rate × decay^L`,
    the top of the encoder and adapters `learning_rate` (Howard and Ruder, arXiv 1801.06146, section 3.2, with one rate
    per layer). A head has the rate of its task, else `head_learning_rate`, else `learning_rate`. Experts are new, like
    heads, and have `head_learning_rate`, too. Explicit rates override all of these, except that the rate of a task
    overrides that of `heads`. As in `freeze`, `heads` does not include experts.

    Args:
        parts: The result of `find_parts`; changed in place.
        learning_rate: Rate of the uppermost layer.
        layerwise_lr_decay: Factor from each layer to the one below.
        head_learning_rate: Rate of experts, and of heads without their own; by default `learning_rate`.
        task_learning_rates: Task → rate of its head, or None.
        learning_rates: Pattern → explicit rate (`explicit_rates`).

    Raises:
        ValueError: See `explicit_rates`; or a pattern names a head whose task has its own rate.
    """
    parts = list(parts)
    num_layers = sum(part.name.startswith("encoder.layers.") for part in parts)
    explicit = explicit_rates(parts, learning_rates or {})
    for part in parts:
        kind, _, last = part.name.rpartition(".")
        own = (task_learning_rates or {}).get(last) if kind == "heads" else None
        pattern, rate = explicit.get(part.name, ("", None))
        if own is not None and pattern == part.name:
            raise ValueError(
                f"`learning_rates.{pattern}` and `tasks.{last}.learning_rate` set the same rate: remove one of them."
            )
        if own is None and rate is not None:
            part.learning_rate = rate
        elif kind == "heads" or part.name == "experts":
            part.learning_rate = next(rate for rate in (own, head_learning_rate, learning_rate) if rate is not None)
        elif kind == "encoder.layers":
            part.learning_rate = learning_rate * layerwise_lr_decay ** (num_layers - 1 - int(last))
        elif part.name == "embeddings":
            part.learning_rate = learning_rate * layerwise_lr_decay**num_layers
        else:
            part.learning_rate = learning_rate


# Name patterns that transformers' `Trainer.get_decay_parameter_names` excludes.
_NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


def decayed_parameters(model: MultiTaskModel) -> set[str]:
    """Full names of the parameters with weight decay: all except biases and the weights of norms.

    Equal to transformers' `Trainer.get_decay_parameter_names`, except that names chosen by the user (of heads and
    adapters) are ignored: a head called `political_bias` has weight decay.
    """
    in_norms = {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        for own, _ in module.named_parameters()
    }
    adapters = {f"encoder.{name}": adapter for name, adapter in adapter_parameters(model.encoder).items()}
    decayed = set()
    for name, _ in model.named_parameters():
        components = name.split(".")
        if components[0] == "heads":
            del components[1]
        elif name in adapters:
            components.remove(adapters[name])
        if name not in in_norms and not _NOT_DECAYED.search(".".join(components).lower()):
            decayed.add(name)
    return decayed


def parameter_groups(parts: Iterable[Part], decayed: set[str], weight_decay: float) -> list[dict[str, object]]:
    """Optimiser groups of the trained parameters: for each part those with weight decay, then the others.

    Args:
        parts: The result of `find_parts`, with learning rates.
        decayed: Full names of the parameters with weight decay.
        weight_decay: Weight decay of these; 0 for all others.
    """
    groups: list[dict[str, object]] = []
    for part in parts:
        for decay in (True, False):
            chosen = [
                parameter
                for name, parameter in part.parameters.items()
                if parameter.requires_grad and (name in decayed) == decay
            ]
            if chosen:
                groups.append(
                    {
                        "params": chosen,
                        "lr": part.learning_rate,
                        "weight_decay": weight_decay if decay else 0.0,
                        "name": part.name,
                    }
                )
    return groups


def rates_now(parts: Iterable[Part], optimizer: Optimizer | None) -> dict[str, float]:
    """Currently trained part → its current learning rate.

    Args:
        parts: The result of `find_parts`, with learning rates.
        optimizer: The optimiser of their `parameter_groups`; None before it is created.
    """
    trained = {part.name: part.learning_rate for part in parts if not part.frozen}
    if optimizer is None:
        return trained
    return {group["name"]: float(group["lr"]) for group in optimizer.param_groups if group["name"] in trained}


def parts_table(parts: Iterable[Part], weight_decay: float, later: Container[str] = ()) -> str:
    """A table of the parts: parameters, learning rate, weight decay, frozen.

    Args:
        parts: The result of `find_parts`, with learning rates.
        weight_decay: Weight decay of trained parts.
        later: Names of parts that are unfrozen later (`unfreeze`).
    """
    lines = [f"{'part':<24}{'parameters':>14}{'learning rate':>16}{'weight decay':>14}"]
    for part in parts:
        rate = "frozen" if part.frozen else f"{part.learning_rate:.3g}" + (" later" if part.name in later else "")
        lines.append(f"{part.name:<24}{part.num_parameters:>14,}{rate:>16}{'' if part.frozen else weight_decay:>14}")
    return "\n".join(lines)


def trained_share(parts: Iterable[Part]) -> str:
    """A sentence with the share of trained parameters, of the model and of the encoder with adapters."""
    parts = list(parts)
    sides = {
        "to train": parts,
        "of the encoder": [part for part in parts if not part.name.startswith(("heads.", "experts"))],
    }
    counted = []
    for words, chosen in sides.items():
        trained = sum(p.numel() for part in chosen for p in part.parameters.values() if p.requires_grad)
        total = sum(part.num_parameters for part in chosen)
        counted.append(f"{words} {trained:,} of {total:,} parameters ({100 * trained / total:.2f} %)")
    return f"{', '.join(counted)}."
