"""Parts of a model and the learning rate of each: layer-wise decay over the encoder, heads by task.

Notable: layers are found as the encoder's longest `ModuleList`, never by a table of model names. Groups come in a
stable order (embeddings, layers from the input up, what follows them, adapters, heads; with weight decay before
without), which a checkpoint's optimiser state relies on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from ..modeling.adapters import SHARED, adapter_parameters
from ..modeling.bottleneck import find_layers
from ..modeling.modeling_multitask import MultiTaskModel


@dataclass
class Part:
    """Some parameters of a model that are trained alike.

    Attributes:
        name: `embeddings`, `encoder.layers.<k>` (from 0), `encoder.top` (what follows the last layer), `adapters` (of
            all heads), `adapters.<task>` or `heads.<task>`.
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


def find_parts(model: MultiTaskModel) -> list[Part]:
    """The model's parts from the input to the heads, each parameter in exactly one."""
    layers, num_layers = find_layers(model.encoder)
    names = ["embeddings", *(f"encoder.layers.{k}" for k in range(num_layers)), "encoder.top"]
    names += [adapters_part(adapter) for adapter in model.config.adapters or ()]
    owners = adapter_parameters(model.encoder)
    parts = {name: Part(name, {}) for name in names + [f"heads.{task}" for task in model.heads]}
    embedding_names = {f"{name}." for name, module in model.encoder.named_modules() if isinstance(module, nn.Embedding)}
    in_front = True
    for name, parameter in model.named_parameters():
        if name.startswith("heads."):
            parts[".".join(name.split(".")[:2])].parameters[name] = parameter
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


def set_learning_rates(
    parts: Iterable[Part],
    *,
    learning_rate: float,
    layerwise_lr_decay: float = 1.0,
    head_learning_rate: float | None = None,
    task_learning_rates: Mapping[str, float | None] | None = None,
) -> None:
    """Give each part its rate: layer k of L (1 is nearest the input) `learning_rate × decay^(L−k)`, the embeddings
    `× decay^L`, what follows the layers and adapters `learning_rate`, a head its task's own, else `head_learning_rate`,
    else `learning_rate` (Howard and Ruder, arXiv 1801.06146, section 3.2, with one rate a layer).

    Args:
        parts: As `find_parts` returns them; changed in place.
        learning_rate: Of the uppermost layer.
        layerwise_lr_decay: Factor from each layer to the one below.
        head_learning_rate: Of heads without one of their own.
        task_learning_rates: Task → rate of its head, None for none of its own.
    """
    parts = list(parts)
    num_layers = sum(part.name.startswith("encoder.layers.") for part in parts)
    for part in parts:
        kind, _, last = part.name.rpartition(".")
        if kind == "heads":
            own = (task_learning_rates or {}).get(last)
            part.learning_rate = next(rate for rate in (own, head_learning_rate, learning_rate) if rate is not None)
        elif kind == "encoder.layers":
            part.learning_rate = learning_rate * layerwise_lr_decay ** (num_layers - 1 - int(last))
        elif part.name == "embeddings":
            part.learning_rate = learning_rate * layerwise_lr_decay**num_layers
        else:
            part.learning_rate = learning_rate


def parameter_groups(parts: Iterable[Part], decayed: set[str], weight_decay: float) -> list[dict[str, object]]:
    """Optimiser groups of the parameters that are trained: each part's with weight decay, then its others."""
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


def parts_table(parts: Iterable[Part], weight_decay: float) -> str:
    """The parts as the run prints them: parameters, rate, decay, frozen."""
    lines = [f"{'part':<24}{'parameters':>14}{'learning rate':>16}{'weight decay':>14}"]
    for part in parts:
        rate = "frozen" if part.frozen else f"{part.learning_rate:.3g}"
        lines.append(f"{part.name:<24}{part.num_parameters:>14,}{rate:>16}{'' if part.frozen else weight_decay:>14}")
    return "\n".join(lines)


def trained_share(parts: Iterable[Part]) -> str:
    """How many of the model's parameters are trained, and of the encoder's with its adapters, as the run says it."""
    parts = list(parts)
    sides = {
        "trained": parts,
        "of the encoder": [part for part in parts if not part.name.startswith("heads.")],
    }
    counted = []
    for words, chosen in sides.items():
        trained = sum(p.numel() for part in chosen for p in part.parameters.values() if p.requires_grad)
        total = sum(part.num_parameters for part in chosen)
        counted.append(f"{words} {trained:,} of {total:,} parameters ({100 * trained / total:.2f} %)")
    return f"{', '.join(counted)}."
