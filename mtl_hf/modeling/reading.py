"""The input of each head: states of the encoder with the head's adapter and layers, plus the outputs of the experts.

Notable: the encoder runs once for all heads with the same adapter; a model without adapters runs it once. The
configuration alone decides which adapter a head uses. The experts run once for all heads that read the same layers.
"""

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from .adapters import SHARED, train_only_adapters, use_adapter
from .experts import Experts, mix
from .pooling import last_layers
from .windows import WINDOW, WINDOWS_AT_ONCE

_SWITCHED = threading.Lock()  # a pass with one adapter: another thread must not switch to another one meanwhile


def adapter_of(config: Any, head: str | None) -> str | None:
    """The adapter that the encoder uses for a head, or None for no adapter.

    Args:
        config: A `MultiTaskConfig`.
        head: Name of the head; None for an embedding, which uses the adapter of all heads.
    """
    own = config.heads[head].get("adapter") if head is not None else None
    return own or (SHARED if SHARED in (config.adapters or {}) else None)


def freeze_around_adapters(encoder: nn.Module, config: Any) -> None:
    """Freeze everything in the encoder but its adapters, and activate the adapter of all heads, if there is one.

    Args:
        encoder: The encoder, with the adapters of the configuration; without adapters it is not changed.
        config: A `MultiTaskConfig`.
    """
    if config.adapters:
        train_only_adapters(encoder, config.adapters)
        use_adapter(encoder, adapter_of(config, None))


def encoder_passes(
    encoder: nn.Module, config: Any, heads: Iterable[Any], /, **inputs: Any
) -> Iterator[tuple[list[Any], Any]]:
    """Run the encoder once for each adapter that the heads use; yield the heads of each pass, and its output.

    Args:
        encoder: The encoder, with the adapters of the configuration.
        config: A `MultiTaskConfig`.
        heads: Names of heads; None for an embedding.
        **inputs: Inputs of the encoder.
    """
    groups: dict[str | None, list[Any]] = {}
    for name in heads:
        groups.setdefault(adapter_of(config, name), []).append(name)
    for adapter, group in (groups or {adapter_of(config, None): []}).items():
        if not config.adapters:
            yield group, _run(encoder, config, inputs)
            continue
        with _SWITCHED:
            use_adapter(encoder, adapter)
            encoded = _run(encoder, config, inputs)
        yield group, encoded


def _run(encoder: nn.Module, config: Any, inputs: dict[str, Any]) -> Any:
    """Run the encoder; without gradients, at most `WINDOWS_AT_ONCE` windows of long texts at once, to save memory."""
    if config.overflow != WINDOW or torch.is_grad_enabled():
        return encoder(**inputs)
    number = max([len(value) for value in inputs.values() if isinstance(value, Tensor)], default=0)
    if number <= WINDOWS_AT_ONCE:
        return encoder(**inputs)
    per_segment = {key: value for key, value in inputs.items() if isinstance(value, Tensor) and len(value) == number}
    parts = [
        encoder(**inputs | {key: value[begin : begin + WINDOWS_AT_ONCE] for key, value in per_segment.items()})
        for begin in range(0, number, WINDOWS_AT_ONCE)
    ]
    return BaseModelOutput(
        last_hidden_state=torch.cat([part.last_hidden_state for part in parts]),
        **{
            key: tuple(torch.cat(layer) for layer in zip(*(part[key] for part in parts), strict=True))
            for key in ("hidden_states", "attentions")
            if parts[0].get(key) and parts[0][key][0] is not None
        },
    )


def layers_of(head: nn.Module) -> int:
    """How many of the encoder's last layers a head reads."""
    return getattr(head, "num_layers", 1)


def read_layers(encoded: Any, num_layers: int, head: Any = None) -> Tensor:
    """The states that a head reads, or an embedding (None), (B, T, H): of the last layer, a mean, or its mix.

    Args:
        encoded: The output of the encoder, with the layers that are read.
        num_layers: How many of the last layers to average, if the head has no mix.
        head: The head.
    """
    states, hidden_states = encoded.last_hidden_state, encoded.get("hidden_states")
    if getattr(head, "layer_mix", None) is None:
        return last_layers(states, hidden_states, num_layers)
    mixed: Tensor = head.layer_mix([*hidden_states[:-1], states])  # the last one may lack the final norm
    return mixed


def states_read(
    encoded: Any, attention_mask: Tensor, heads: nn.ModuleDict, names: Iterable[str], experts: Experts | None
) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Yield each head's name, its input states, (B, T, H), and its mixture of experts, (B, K), or None.

    Args:
        encoded: The output of the encoder, with the layers that these heads read.
        attention_mask: (B, T).
        heads: The heads of the model.
        names: Names of the heads to run.
        experts: The experts of the model, or None.
    """
    expert_outputs: dict[int | str, Tensor] = {}  # number of layers read, or a head with a mix → outputs of the experts
    for name in names:
        head: Any = heads[name]
        num_layers = layers_of(head)
        states = read_layers(encoded, num_layers, head)
        if experts is None:
            yield name, states, None
            continue
        own = num_layers if getattr(head, "layer_mix", None) is None else name
        if own not in expert_outputs:
            expert_outputs[own] = experts(states)
        gates = head.gate(states, attention_mask)
        yield name, mix(states, expert_outputs[own], gates), gates
