"""Adapters: a few trained weights inside a frozen encoder, shared by all heads or one adapter per head.

Types of adapters are the configuration classes of peft, by name, and `BottleneckConfig`.

Notable: adapters are part of the model's configuration, so the model is built with them and loads from one file of
weights. The encoder's own weights are frozen. Switching adapters does not freeze the others, as peft's `set_adapter`
would. peft is imported only if a model has its adapters.
"""

import copy
import dataclasses
import difflib
import importlib
import sys
from collections.abc import Iterable
from typing import Any

from torch import nn

from .bottleneck import BottleneckConfig, BottleneckLayer, add_bottlenecks

SHARED = "shared"  # the adapter of all heads that do not name their own
# Classes of peft that this package does not support.
_REFUSED = {
    "AdaLoraConfig": "its ranks are reduced by calls during training, which this trainer does not make",
    "OSFConfig": "it decomposes the encoder's own weights",
    "PolyConfig": "it needs the task's number at every call; for one adapter per task, set `per_task: true`",
    "ShadowConfig": "it runs beside the encoder, not in it",
    "XLoraConfig": "it mixes adapters that are already trained",
}
# Fields that peft sets itself, and fields that would train or copy parts of the encoder.
_BOOKKEEPING = (
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
)  # fmt: skip
_BEYOND = ("modules_to_save", "trainable_token_indices", "layer_replication")
_INITIAL = (True, False, "gaussian", "orthogonal")  # other values change the encoder's weights or need data


def import_peft() -> Any:
    """The module `peft`.

    Raises:
        ImportError: It is not installed.
    """
    try:  # not an import statement: transformers requires the packages of all import statements in saved files
        return importlib.import_module("peft")
    except ModuleNotFoundError as error:
        raise ImportError("adapters need peft: pip install 'mtl_hf[adapters]' (or pip install peft)") from error


def adapter_config(spec: dict[str, Any]) -> Any:
    """Create the configuration object of a specification.

    Args:
        spec: `type`, the name of a class, and its arguments.

    Raises:
        ValueError: The class or an argument is unknown or not supported, or the class rejects a value.
        ImportError: peft is not installed.
    """
    kind, arguments = str(spec.get("type", "")), {key: value for key, value in spec.items() if key != "type"}
    if kind == BottleneckConfig.__name__:
        known = [item.name for item in dataclasses.fields(BottleneckConfig)]
        chosen: Any = BottleneckConfig
    else:
        able = {BottleneckConfig.__name__: BottleneckConfig} | _peft_classes()
        if kind in _REFUSED or kind not in able:
            raise ValueError(_why_not(kind, able))
        chosen = able[kind]
        known = [item.name for item in dataclasses.fields(chosen) if item.init and item.name not in _BOOKKEEPING]
    for key in arguments:
        if key not in known:
            raise ValueError(
                f"`peft.{key}` is not an argument of {kind}.{_nearest(key, known)}"
                + (f" Valid are: {', '.join(known)}." if len(known) <= 12 else "")
            )
    beyond = next((key for key in _BEYOND if arguments.get(key)), None)
    if beyond or arguments.get("bias", "none") != "none":
        raise ValueError(
            f"`peft.{beyond or 'bias'}` would train or copy parts of the encoder, which is frozen: remove it. (Heads"
            " are always trained and saved.)"
        )
    if arguments.get("init_lora_weights", True) not in _INITIAL:
        raise ValueError(
            f"`peft.init_lora_weights` is {arguments['init_lora_weights']!r}, which changes the encoder's own weights"
            " or needs data; valid are true, false, gaussian, orthogonal."
        )
    try:
        return chosen(**arguments)
    except (TypeError, ValueError, ImportError) as error:
        raise ValueError(f"`peft`: {kind} rejects its arguments: {error}") from error


def _peft_classes() -> dict[str, Any]:
    """Name → configuration class of every method of peft that can be injected into an encoder."""
    import_peft()
    mapping = importlib.import_module("peft.mapping")
    base = importlib.import_module("peft.tuners.tuners_utils").BaseTuner
    classes = {}
    for kind, tuner in mapping.PEFT_TYPE_TO_TUNER_MAPPING.items():
        # Weights shared between layers are stored outside of the layers, so they would not be saved.
        if issubclass(tuner or nn.Module, base) and not tuner.uses_shared_state:
            config = mapping.PEFT_TYPE_TO_CONFIG_MAPPING[kind]
            classes[config.__name__] = config
    return classes


def _why_not(kind: str, able: Iterable[str]) -> str:
    """The message for a class that is not supported, with the valid ones."""
    able = sorted(name for name in able if name not in _REFUSED)
    others = importlib.import_module("peft.mapping").PEFT_TYPE_TO_CONFIG_MAPPING.values()
    if kind in _REFUSED:
        reason = f", which cannot be used here: {_REFUSED[kind]}."
    elif kind in {config.__name__ for config in others}:
        reason = (
            ", which cannot be used here: it changes the inputs of the encoder, which many encoders ignore, or stores"
            " weights outside of it."
        )
    else:
        reason = f".{_nearest(kind, able)}"
    return f"`peft.type` is {kind!r}{reason} Valid are: {', '.join(able)}."


def _nearest(key: Any, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(str(key), list(known), n=1)
    return f" Did you mean `{match[0]}`?" if match else ""


def inject_adapter(encoder: Any, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Add an adapter to an encoder, in place.

    Args:
        encoder: An encoder without adapters, or with other adapters of the same type.
        name: Name of the adapter.
        spec: `type` and its arguments.

    Returns:
        The specification with the defaults of peft filled in (its numbers, and the modules for this type of encoder),
        so that another version of peft builds the same model.

    Raises:
        ValueError: As in `adapter_config`, or the encoder has no such modules. The encoder is then unchanged.
    """
    config = adapter_config(spec)
    there = adapter_layers(encoder)
    trained = {parameter: parameter.requires_grad for parameter in encoder.parameters()}
    try:
        return _inject(encoder, name, spec, config)
    except ValueError:  # some modules may already have the adapter
        for place, layer in adapter_layers(encoder).items():
            if place in there:
                layer.delete_adapter(name)
            else:
                encoder.set_submodule(place, layer.get_base_layer())
        for parameter, requires_grad in trained.items():
            parameter.requires_grad = requires_grad
        raise


def _inject(encoder: Any, name: str, spec: dict[str, Any], config: Any) -> dict[str, Any]:
    """`inject_adapter` with a checked configuration. If it raises, some layers may already have the adapter."""
    if isinstance(config, BottleneckConfig):
        add_bottlenecks(encoder, name, config)
        return {"type": spec["type"]} | dataclasses.asdict(config)
    before = dict(vars(config))
    try:
        import_peft().inject_adapter_in_model(config, encoder, adapter_name=name)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"`peft`: {spec['type']} does not fit {type(encoder).__name__}: {error}") from error
    finally:
        # peft's record of its adapters: it would warn at the next adapter.
        vars(encoder).pop("peft_config", None)
    kept = encoder.state_dict().keys()
    for place, layer in adapter_layers(encoder).items():
        for buffer, _ in layer.named_buffers():
            if f"{place}.{buffer}" not in kept:
                raise ValueError(
                    f"`peft.type` is {spec['type']!r}, which has tensors ({buffer}) that are not saved with the"
                    " weights: choose another type."
                )
    numbers = {
        key: value
        for key, value in before.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key not in _BOOKKEEPING
    }
    chosen = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in vars(config).items()
        if value and before.get(key) is None
    }
    return {"type": spec["type"]} | numbers | chosen | spec


def adapter_layers(encoder: nn.Module) -> dict[str, Any]:
    """Name → module of every layer with adapters, of peft or bottlenecks."""
    # If this module is not imported, there is no layer of peft.
    peft: Any = sys.modules.get("peft.tuners.tuners_utils")
    kinds = (BottleneckLayer, peft.BaseTunerLayer) if peft is not None else BottleneckLayer
    return {name: module for name, module in encoder.named_modules() if isinstance(module, kinds)}


def adapter_parameters(encoder: nn.Module) -> dict[str, str]:
    """Name of each parameter of an adapter → the adapter."""
    return {
        f"{place}.{name}": name.split(".")[1]  # <peft's name>.<adapter>...
        for place, layer in adapter_layers(encoder).items()
        for name, _ in layer.named_parameters()
        if not name.startswith("base_layer.")
    }


def use_adapter(encoder: nn.Module, name: str | None) -> None:
    """Let the encoder run with this adapter from now on; with None, without adapters."""
    for layer in adapter_layers(encoder).values():
        layer._active_adapter = [] if name is None else [name]
        layer._disable_adapters = name is None


def train_only_adapters(encoder: nn.Module, names: Iterable[str]) -> None:
    """Freeze the encoder except for these adapters."""
    encoder.requires_grad_(False)
    for layer in adapter_layers(encoder).values():
        layer.set_requires_grad(list(names), True)


def merge_adapter(encoder: Any, name: str) -> None:
    """Merge an adapter into the encoder's weights and remove all adapters, in place.

    Raises:
        ValueError: The type of adapter cannot be merged, or merged weights would not be finite. The encoder is then
            unchanged.
    """
    layers = adapter_layers(encoder)
    for place, layer in layers.items():  # first on copies, one at a time: merging a later layer may fail
        try:
            copy.deepcopy(layer).merge(safe_merge=True, adapter_names=[name])
        except (NotImplementedError, ValueError) as error:
            reason = str(error).rstrip(".") or "peft does not support merging it"
            raise ValueError(f"this adapter cannot be merged into the encoder ({place}): {reason}.") from error
    for layer in layers.values():
        layer.merge(safe_merge=True, adapter_names=[name])
    remove_adapters(encoder)


def rename_adapter(encoder: Any, specs: dict[str, dict[str, Any]], old: str, new: str) -> dict[str, dict[str, Any]]:
    """Rename an adapter, in place. It keeps its weights and its position.

    All adapters are removed and injected again, because each type stores its adapters by name in its own tables.

    Args:
        encoder: An encoder with these adapters.
        specs: Adapter → its specification.
        old: Name of an adapter.
        new: New name, not taken by another adapter.

    Returns:
        `specs` with the new name.
    """
    weights = {}
    for place, layer in adapter_layers(encoder).items():
        for key, tensor in layer.state_dict().items():
            kind, adapter, *rest = key.split(".")
            if kind != "base_layer":
                weights[".".join([place, kind, new if adapter == old else adapter, *rest])] = tensor
    renamed = {new if name == old else name: spec for name, spec in specs.items()}
    remove_adapters(encoder)
    for name, spec in renamed.items():
        inject_adapter(encoder, name, spec)
    for layer in adapter_layers(encoder).values():
        layer.train(layer.get_base_layer().training)
    loaded = encoder.load_state_dict(weights, strict=False, assign=True)
    assert not loaded.unexpected_keys
    return renamed


def remove_adapters(encoder: Any, name: str | None = None) -> None:
    """Remove one adapter, in place; or, with None or the last one, all adapters and their layers."""
    layers = adapter_layers(encoder)
    if name is not None and set(adapter_parameters(encoder).values()) != {name}:
        use_adapter(encoder, None)
        for layer in layers.values():
            layer.delete_adapter(name)
        return
    for place, layer in layers.items():
        encoder.set_submodule(place, layer.get_base_layer())
    encoder.requires_grad_(True)
