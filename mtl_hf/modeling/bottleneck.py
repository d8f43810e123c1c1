"""Bottleneck adapters: a small network after a layer's projections, which starts as the identity.

Houlsby et al., arXiv 1902.00751; Pfeiffer et al., arXiv 2005.00247. No library for this version of transformers has
them.

Notable: the projections are found by their shapes and their order within a layer, not by a table of model names. If
they are ambiguous, an error is raised. `BottleneckLayer` has the interface of peft's layers, so that `adapters.py`
treats both alike.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

KINDS = ("houlsby", "pfeiffer")


@dataclass(frozen=True)
class BottleneckConfig:
    """Options of a bottleneck adapter.

    Args:
        reduction: Width of the encoder's states divided by that of the bottleneck, which is rounded down (at least 1).
        kind: `houlsby` has one bottleneck after the projection of the attention and one after that of the feed-forward
            block of each layer, `pfeiffer` only the latter. Both are directly after the projection, before the residual
            connection and the norm (Pfeiffer et al. norm their input once more).

    Raises:
        ValueError: `reduction` is below 1, or `kind` is unknown.
    """

    reduction: float = 16
    kind: str = "houlsby"

    def __post_init__(self) -> None:
        if isinstance(self.reduction, bool) or not isinstance(self.reduction, int | float) or self.reduction < 1:
            raise ValueError(f"`reduction` is {self.reduction!r}; it should be a number of at least 1.")
        if self.kind not in KINDS:
            raise ValueError(f"`kind` is {self.kind!r}; valid are {', '.join(KINDS)}.")


class Bottleneck(nn.Module):
    """h + up(gelu(down(h))), with a residual connection of its own (Houlsby et al., section 2.1).

    `up` starts at zero, like the second matrix of LoRA: exactly the identity, not nearly so as in the paper.
    """

    def __init__(self, hidden_size: int, size: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, size)
        self.up = nn.Linear(size, hidden_size)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states: Tensor) -> Tensor:
        """States (..., H) → states (..., H)."""
        return states + self.up(F.gelu(self.down(states)))


class BottleneckLayer(nn.Module):
    """A linear layer followed by bottlenecks, of which one or none is active.

    Its attributes are named as those of peft's `BaseTunerLayer`.
    """

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottlenecks = nn.ModuleDict()
        self._active_adapter: list[str] = []
        self._disable_adapters = False

    @property
    def weight(self) -> Tensor:
        """The weight of the linear layer, which some encoders read."""
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias of the linear layer."""
        return self.base_layer.bias

    def add(self, adapter: str, reduction: float) -> None:
        """Add a bottleneck after the layer."""
        width = self.base_layer.out_features
        self.bottlenecks[adapter] = Bottleneck(width, max(1, int(width / reduction))).to(self.weight)

    def forward(self, states: Tensor) -> Tensor:
        """States (..., H_in) → states (..., H)."""
        states = self.base_layer(states)
        for adapter in [] if self._disable_adapters else self._active_adapter:
            states = self.bottlenecks[adapter](states)
        return states

    def get_base_layer(self) -> nn.Linear:
        """The linear layer."""
        return self.base_layer

    def set_requires_grad(self, adapter_names: Iterable[str], requires_grad: bool = True) -> None:
        """Set whether these adapters are trained."""
        for adapter in adapter_names:
            self.bottlenecks[adapter].requires_grad_(requires_grad)

    def delete_adapter(self, adapter: str) -> None:
        """Remove a bottleneck."""
        del self.bottlenecks[adapter]

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Not supported: bottleneck adapters are not linear and cannot be merged."""
        raise NotImplementedError("a bottleneck adapter is not linear")


def find_layers(encoder: nn.Module) -> tuple[str, int]:
    """Name (with a trailing dot) and length of the encoder's longest `ModuleList`: its stack of layers.

    Raises:
        ValueError: There is none.
    """
    lists = [(len(module), name) for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ValueError(f"no stack of layers (a ModuleList) was found in {type(encoder).__name__}.")
    length, name = max(lists, key=lambda item: item[0])
    return f"{name}.", length


def add_bottlenecks(encoder: Any, adapter: str, config: BottleneckConfig) -> None:
    """Add a bottleneck after the projections of every layer, in place.

    Raises:
        ValueError: The projections are ambiguous.
    """
    for place in find_projections(encoder, config.kind):
        layer = encoder.get_submodule(place)
        if not isinstance(layer, BottleneckLayer):
            layer = BottleneckLayer(layer).train(layer.training)
            encoder.set_submodule(place, layer)
        layer.add(adapter, config.reduction)
        layer.bottlenecks[adapter].train(layer.training)


def find_projections(encoder: Any, kind: str = "houlsby") -> list[str]:
    """Names of the output projections of each layer: that of the attention, then that of the feed-forward block.

    The projection of the feed-forward block is the one linear layer from another width to the width of the states; that
    of the attention is the last linear layer before it that keeps the width.

    Raises:
        ValueError: A layer has no such projection, or several of the feed-forward block.
    """
    width = encoder.config.hidden_size
    stack, num_layers = find_layers(encoder)
    places = []
    for number in range(num_layers):
        linear: dict[str, nn.Linear] = {}
        for name, module in encoder.get_submodule(f"{stack}{number}").named_modules():
            base = module.base_layer if isinstance(module, BottleneckLayer) else module
            if isinstance(base, nn.Linear) and not any(name.startswith(f"{outer}.") for outer in linear):
                linear[name] = base
        names = list(linear)
        inwards = [name for name in names if linear[name].out_features == width != linear[name].in_features]
        before = names[: names.index(inwards[0])] if inwards else []
        keeping = [name for name in before if linear[name].out_features == width == linear[name].in_features]
        if len(inwards) != 1 or not keeping:
            raise ValueError(
                f"the place of bottleneck adapters in {type(encoder).__name__} is ambiguous: layer {number} has"
                f" {len(inwards)} linear layers from another width to {width} (expected: 1), and before it"
                f" {len(keeping)} that keep this width (expected: at least 1). Choose another type, such as LoraConfig."
            )
        chosen = [keeping[-1], inwards[0]] if kind == "houlsby" else [inwards[0]]
        places += [f"{stack}{number}.{name}" for name in chosen]
    return places
