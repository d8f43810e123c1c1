"""What each head reads: the encoder's states with its adapter, of so many layers, mixed by the experts that it asks.

Notable: the encoder runs once for all heads that read with the same adapter, and without adapters once; which one that
is, is said by the configuration alone. Experts are asked once for all heads that read the same layers.
"""

import contextlib
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from .adapters import SHARED, train_only_adapters, use_adapter
from .experts import Experts, mix
from .pooling import last_layers

# Encoder → held while it runs with an adapter: which one that is, is a state of its layers, and threads share them.
_LOCKS: weakref.WeakKeyDictionary[nn.Module, threading.Lock] = weakref.WeakKeyDictionary()


def adapter_of(config: Any, head: str | None) -> str | None:
    """The adapter that a head reads with; of None, an embedding, that of all heads. None for the bare encoder.

    Args:
        config: A `MultiTaskConfig`.
        head: Its name.
    """
    own = config.heads[head].get("adapter") if head is not None else None
    return own or (SHARED if SHARED in (config.adapters or {}) else None)


def freeze_around_adapters(encoder: nn.Module, config: Any) -> None:
    """Let adapters alone be trained, of the encoder, and run without one until a head asks for its own.

    Args:
        encoder: With the adapters of the configuration; bare it stays as it is.
        config: A `MultiTaskConfig`.
    """
    if config.adapters:
        train_only_adapters(encoder, config.adapters)
        use_adapter(encoder, adapter_of(config, None))


def encoder_passes(
    encoder: nn.Module, config: Any, heads: Iterable[Any], /, **inputs: Any
) -> Iterator[tuple[list[Any], Any]]:
    """Run the encoder once for each adapter that is asked for; yield the heads of one, and its output.

    Args:
        encoder: With the adapters of the configuration.
        config: A `MultiTaskConfig`.
        heads: Names; None for an embedding.
        **inputs: Of the encoder.
    """
    groups: dict[str | None, list[Any]] = {}
    for name in heads:
        groups.setdefault(adapter_of(config, name), []).append(name)
    lock = _LOCKS.setdefault(encoder, threading.Lock()) if config.adapters else contextlib.nullcontext()
    for adapter, group in (groups or {adapter_of(config, None): []}).items():
        with lock:
            if config.adapters:
                use_adapter(encoder, adapter)
            encoded = encoder(**inputs)
        yield group, encoded


def layers_of(head: nn.Module) -> int:
    """How many of the encoder's last layers a head reads."""
    return getattr(head, "num_layers", 1)


def states_read(
    encoded: Any, attention_mask: Tensor, heads: nn.ModuleDict, names: Iterable[str], experts: Experts | None
) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Yield each head's name, the states that it reads, (B, T, H), and its mixture of experts, (B, K), or None.

    Args:
        encoded: What the encoder returned, with the layers that these heads read.
        attention_mask: (B, T).
        heads: The model's.
        names: Of those that read.
        experts: The model's, which are mixed into the states; None for none.
    """
    said: dict[int, Tensor] = {}  # by the experts, of the states that so many layers make
    for name in names:
        head: Any = heads[name]
        num_layers = layers_of(head)
        states = last_layers(encoded.last_hidden_state, encoded.get("hidden_states"), num_layers)
        if experts is None:
            yield name, states, None
            continue
        if num_layers not in said:
            said[num_layers] = experts(states)
        gates = head.gate(states, attention_mask)
        yield name, mix(states, said[num_layers], gates), gates
