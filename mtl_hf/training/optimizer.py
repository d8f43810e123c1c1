"""Parts of a model and the learning rate of each: layer-wise decay over the encoder, heads by task, or as patterns say.

Notable: layers are found as the encoder's longest `ModuleList`, never by a table of model names. Groups come in a
stable order (embeddings, layers from the input up, what follows them, adapters, heads; with weight decay before
without), which a checkpoint's optimiser state relies on.
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
    """Some parameters of a model that are trained alike.

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
        """Number of numbers in it."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    @property
    def frozen(self) -> bool:
        """Whether nothing in it is trained."""
        return not any(parameter.requires_grad for parameter in self.parameters.values())

    @property
    def in_encoder(self) -> bool:
        """Whether it is a part of the encoder's own, embeddings included."""
        return self.name == "embeddings" or self.name.startswith("encoder.")

    @property
    def shared(self) -> bool:
        """Whether several heads may have it in common: all but heads and the adapter of one task."""
        return not self.name.startswith(("heads.", "adapters."))

    def train(self, trained: bool) -> None:
        """Train it from now on, or freeze it."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(trained)


def find_parts(model: MultiTaskModel) -> list[Part]:
    """The model's parts from the input to the heads, each parameter in exactly one."""
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
        # Relative-position tables may be declared after the layers, but feed them.
        elif in_front or any(inside.startswith(embedding) for embedding in embedding_names):
            part = "embeddings"
        else:
            part = "encoder.top"
        parts[part].parameters[name] = parameter
    return [part for part in parts.values() if part.parameters]


def adapters_part(adapter: str) -> str:
    """Name of the part that an adapter is."""
    return "adapters" if adapter == SHARED else f"adapters.{adapter}"


_LAYERS = re.compile(r"encoder\.layers\.(\d+)(?:-(\d+))?")
_SIDES = ("encoder", "adapters", "heads")  # patterns that name all parts of a kind


def matching(parts: Iterable[Part], pattern: str, field: str) -> list[Part]:
    """The parts that a pattern names.

    Args:
        parts: As `find_parts` returns them.
        pattern: `embeddings`, `encoder` (all of it, embeddings too), `encoder.layers.<k>`, `encoder.layers.<a>-<b>`
            (from 0, both ends in), `encoder.top`, `adapters` (all of them), `adapters.<task>`, `experts`, `heads` (all
            of them), `heads.<task>`.
        field: Of the training arguments, where the pattern stands.

    Raises:
        ValueError: It names none.
    """
    parts = list(parts)
    matched = [part for part in parts if _matches(pattern, part.name)]
    span = _LAYERS.fullmatch(pattern)
    if span and span[2] and int(span[1]) > int(span[2]):
        raise ValueError(f"`{field}`: {pattern!r} ends before it begins: write encoder.layers.{span[2]}-{span[1]}.")
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
    """How much a pattern can name: one part, some layers, or a whole side of the model."""
    span = _LAYERS.fullmatch(pattern)
    if span and span[2]:
        return int(span[2]) - int(span[1]) + 1.5  # broader than the one layer's own name, even of one layer
    return float("inf") if pattern in _SIDES else 1.0


def explicit_rates(parts: Iterable[Part], learning_rates: Mapping[str, float]) -> dict[str, tuple[str, float]]:
    """Part → the pattern that names it most closely, and that pattern's rate.

    A part's own name comes before a span of layers, a narrow span before a wide one, and any of them before `encoder`,
    `adapters` and `heads`.

    Args:
        parts: As `find_parts` returns them.
        learning_rates: Pattern → rate.

    Raises:
        ValueError: A pattern that names no part, or two as narrow spans that name the same layer.
    """
    parts = list(parts)
    found: dict[str, tuple[str, float]] = {}
    for pattern in sorted(learning_rates, key=_breadth):
        for part in matching(parts, pattern, "learning_rates"):
            if part.name not in found:
                found[part.name] = pattern, learning_rates[pattern]
            elif _breadth(found[part.name][0]) == _breadth(pattern):
                raise ValueError(
                    f"`learning_rates`: {found[part.name][0]!r} and {pattern!r} both name {part.name}, and neither more"
                    " closely than the other: let them meet, not overlap."
                )
    return found


def check_frozen_rates(
    parts: Iterable[Part],
    learning_rates: Mapping[str, float],
    task_learning_rates: Mapping[str, float | None],
) -> None:
    """Refuse an explicit rate of what is frozen.

    `encoder`, `adapters` and `heads` may hold some frozen parts: they are the rate of the others.

    Args:
        parts: After `freezing.freeze`.
        learning_rates: Pattern → rate.
        task_learning_rates: Task → rate of its head, None for none of its own.

    Raises:
        ValueError: There is one, with the part.
    """
    parts = list(parts)
    frozen_parts = {part.name for part in parts if part.frozen}
    for task, rate in task_learning_rates.items():
        if rate is not None and f"heads.{task}" in frozen_parts:
            raise ValueError(
                f"`tasks.{task}.learning_rate` is of a head that is frozen and has no rate: leave it out, or take"
                " the head out of `freeze` (heads of tasks with `train: false` are frozen too)."
            )
    for pattern in learning_rates:
        named = matching(parts, pattern, "learning_rates")
        frozen = [part.name for part in named if part.frozen]
        if frozen and (len(frozen) == len(named) or pattern not in _SIDES):
            raise ValueError(
                f"`learning_rates` has {pattern!r}, but {frozen[0]} is frozen and has no rate: leave it out there, or"
                " out of `freeze` (heads of tasks with `train: false` are frozen too, and the encoder around adapters)."
            )


def check_rates(
    learning_rates: Mapping[str, float],
    *,
    layerwise_lr_decay: float,
    head_learning_rate: float | None,
) -> None:
    """Check learning rates before there is a model; arguments as of `set_learning_rates`.

    Raises:
        ValueError: An explicit rate that is negative, 0 or no number, one of all heads besides
            `head_learning_rate`, or one of all layers besides a decay, which would do nothing.
    """
    if not 0 < layerwise_lr_decay <= 1:
        raise ValueError(f"`layerwise_lr_decay` is {layerwise_lr_decay}; it is above 0 and at most 1.")
    if "encoder" in learning_rates and layerwise_lr_decay != 1:
        raise ValueError(
            f"`learning_rates.encoder` gives all layers one rate, so `layerwise_lr_decay: {layerwise_lr_decay}` does"
            " nothing: set that to 1, or give the rate as `learning_rate`."
        )
    for pattern, rate in learning_rates.items():
        if not 0 < rate < float("inf"):
            raise ValueError(
                f"`learning_rates.{pattern}` is {rate:g}; it is above 0 (what should stay as it is goes to `freeze`)."
            )
    if "heads" in learning_rates and head_learning_rate is not None:
        raise ValueError(
            "`learning_rates.heads` and `head_learning_rate` both say at what rate heads are trained: give one of them"
            " (of experts alone it is `learning_rates.experts`)."
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
    """Give each part its rate: layer k of L (1 is nearest the input) `learning_rate × decay^(L−k)`, the embeddings
    `× decay^L`, what follows the layers and adapters `learning_rate`, a head its task's own, else `head_learning_rate`,
    else `learning_rate` (Howard and Ruder, arXiv 1801.06146, section 3.2, with one rate a layer). Experts, which are
    new as heads are, have `head_learning_rate` too. An explicit rate comes before all of these, but for a task's own
    before that of all `heads`; `heads` does not name experts, as it does not in `freeze`.

    Args:
        parts: As `find_parts` returns them; changed in place.
        learning_rate: Of the uppermost layer.
        layerwise_lr_decay: Factor from each layer to the one below.
        head_learning_rate: Of experts, and of heads without one of their own; by default `learning_rate`.
        task_learning_rates: Task → rate of its head, None for none of its own.
        learning_rates: Pattern → explicit rate (`explicit_rates`).

    Raises:
        ValueError: As `explicit_rates`, or a head whose task has a rate of its own is named, too.
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
                f"`learning_rates.{pattern}` and `tasks.{last}.learning_rate` say the same thing twice: give one of"
                " them."
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


# The names that transformers' `Trainer.get_decay_parameter_names` excludes.
_NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


def decayed_parameters(model: MultiTaskModel) -> set[str]:
    """Full names of the parameters with weight decay: all but biases and the weights of norms.

    The same as transformers' `Trainer.get_decay_parameter_names`, except that names given by the user (of heads and
    adapters) do not count: a head called `political_bias` has weight decay.
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
    """Optimiser groups of the parameters that are trained: each part's with weight decay, then its others.

    Args:
        parts: As `find_parts` returns them, with their rates.
        decayed: Full names of the parameters that decay.
        weight_decay: Of those; of others it is 0.
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
    """Part that is trained now → its learning rate now.

    Args:
        parts: As `find_parts` returns them, with their rates.
        optimizer: Of their `parameter_groups` and perhaps others; None before there is one.
    """
    trained = {part.name: part.learning_rate for part in parts if not part.frozen}
    if optimizer is None:
        return trained
    return {group["name"]: float(group["lr"]) for group in optimizer.param_groups if group["name"] in trained}


def parts_table(parts: Iterable[Part], weight_decay: float, later: Container[str] = ()) -> str:
    """The parts as the run prints them: parameters, rate, decay, frozen.

    Args:
        parts: As `find_parts` returns them, with their rates.
        weight_decay: Of what is trained.
        later: Names of parts that are frozen at first (`unfreeze`).
    """
    lines = [f"{'part':<24}{'parameters':>14}{'learning rate':>16}{'weight decay':>14}"]
    for part in parts:
        rate = "frozen" if part.frozen else f"{part.learning_rate:.3g}" + (" later" if part.name in later else "")
        lines.append(f"{part.name:<24}{part.num_parameters:>14,}{rate:>16}{'' if part.frozen else weight_decay:>14}")
    return "\n".join(lines)


def trained_share(parts: Iterable[Part]) -> str:
    """How many of the model's parameters are to train, and of the encoder's with its adapters, as the run says it."""
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
