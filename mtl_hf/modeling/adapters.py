"""Adapters: few weights inside a frozen encoder, shared by all heads or one set for each.

The configuration classes of peft by their own names, and `BottleneckConfig`.

Notable: adapters are part of the model's configuration, so that it is built with them and its one file of weights is
loaded as any other. The encoder's own weights are frozen. Switching adapters changes nothing but which one is in use:
peft's `set_adapter` would also freeze the others. peft is imported only where a model has adapters of it.
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

SHARED = "shared"  # the adapter of all heads that name none of their own
# Classes of peft that can be put into an encoder, but need what nothing here does.
_REFUSED = {
    "AdaLoraConfig": "its ranks are cut by calls during training, which this trainer does not make",
    "OSFConfig": "it takes the encoder's own weights apart",
    "PolyConfig": "it wants to be told the task's number at every call; `per_task: true` has an adapter for each task",
    "ShadowConfig": "it runs beside the encoder, not in it",
    "XLoraConfig": "it mixes adapters that have been trained before",
}
# Fields that peft fills in itself, or that would train or copy what is not an adapter.
_BOOKKEEPING = (
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
)  # fmt: skip
_BEYOND = ("modules_to_save", "trainable_token_indices", "layer_replication")
_INITIAL = (True, False, "gaussian", "orthogonal")  # others change the encoder's weights, or need data


def import_peft() -> Any:
    """The module `peft`.

    Raises:
        ImportError: It is not installed.
    """
    try:  # not by a statement: transformers asks everyone who loads our files for what these import by one
        return importlib.import_module("peft")
    except ModuleNotFoundError as error:
        raise ImportError("adapters need peft: pip install 'mtl_hf[adapters]' (or pip install peft)") from error


def adapter_config(spec: dict[str, Any]) -> Any:
    """The configuration object that a specification describes.

    Args:
        spec: `type`, the name of a class, and its arguments.

    Raises:
        ValueError: An unknown class or argument (the nearest is named), a value that the class refuses, or a class or
            argument that cannot work here.
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
                f"`peft.{key}` is no argument of {kind}.{_nearest(key, known)}"
                + (f" It takes {', '.join(known)}." if len(known) <= 12 else "")
            )
    beyond = next((key for key in _BEYOND if arguments.get(key)), None)
    if beyond or arguments.get("bias", "none") != "none":
        raise ValueError(
            f"`peft.{beyond or 'bias'}` would train or copy parts of the encoder itself, which stays as it is: leave it"
            " out. (Heads are trained and saved anyway.)"
        )
    if arguments.get("init_lora_weights", True) not in _INITIAL:
        raise ValueError(
            f"`peft.init_lora_weights` is {arguments['init_lora_weights']!r}, which changes the encoder's own weights"
            " or needs data: valid are true, false, gaussian, orthogonal."
        )
    try:
        return chosen(**arguments)
    except (TypeError, ValueError, ImportError) as error:
        raise ValueError(f"`peft`: {kind} refuses its arguments: {error}") from error


def _peft_classes() -> dict[str, Any]:
    """Name → configuration class of every method of peft that can be put into an encoder."""
    import_peft()
    mapping = importlib.import_module("peft.mapping")
    base = importlib.import_module("peft.tuners.tuners_utils").BaseTuner
    classes = {}
    for kind, tuner in mapping.PEFT_TYPE_TO_TUNER_MAPPING.items():
        # What is shared between layers is kept beside them, where no file of weights would have it.
        if issubclass(tuner or nn.Module, base) and not tuner.uses_shared_state:
            config = mapping.PEFT_TYPE_TO_CONFIG_MAPPING[kind]
            classes[config.__name__] = config
    return classes


def _why_not(kind: str, able: Iterable[str]) -> str:
    """Why a class cannot be used, and which can."""
    able = sorted(name for name in able if name not in _REFUSED)
    others = importlib.import_module("peft.mapping").PEFT_TYPE_TO_CONFIG_MAPPING.values()
    if kind in _REFUSED:
        reason = f", which cannot be used here: {_REFUSED[kind]}."
    elif kind in {config.__name__ for config in others}:
        reason = (
            ", which cannot be used here: it changes what the encoder is called with, which many encoders ignore, or"
            " keeps weights beside it."
        )
    else:
        reason = f".{_nearest(kind, able)}"
    return f"`peft.type` is {kind!r}{reason} Valid are: {', '.join(able)}."


def _nearest(key: Any, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(str(key), list(known), n=1)
    return f" Did you mean `{match[0]}`?" if match else ""


def inject_adapter(encoder: Any, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Put an adapter into an encoder, in place.

    Args:
        encoder: Bare, or with other adapters of the same type.
        name: The adapter's.
        spec: `type` and its arguments.

    Returns:
        The specification with what was left to peft: its numbers, and the modules chosen for this kind of encoder, so
        that another version of it builds the same model.

    Raises:
        ValueError: As of `adapter_config`, or the encoder has no such modules. The encoder is then as it was.
    """
    config = adapter_config(spec)
    there = adapter_layers(encoder)
    trained = {parameter: parameter.requires_grad for parameter in encoder.parameters()}
    try:
        return _inject(encoder, name, spec, config)
    except ValueError:  # perhaps at a later module
        for place, layer in adapter_layers(encoder).items():
            if place in there:
                layer.delete_adapter(name)
            else:
                encoder.set_submodule(place, layer.get_base_layer())
        for parameter, requires_grad in trained.items():
            parameter.requires_grad = requires_grad
        raise


def _inject(encoder: Any, name: str, spec: dict[str, Any], config: Any) -> dict[str, Any]:
    """As `inject_adapter`, of a checked configuration; may leave an encoder that has some of the adapter's layers."""
    if isinstance(config, BottleneckConfig):
        add_bottlenecks(encoder, name, config)
        return {"type": spec["type"]} | dataclasses.asdict(config)
    before = dict(vars(config))
    try:
        import_peft().inject_adapter_in_model(config, encoder, adapter_name=name)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"`peft`: {spec['type']} does not fit {type(encoder).__name__}: {error}") from error
    finally:
        # peft's note of its adapters, for which it warns when there is one already.
        vars(encoder).pop("peft_config", None)
    kept = encoder.state_dict().keys()
    for place, layer in adapter_layers(encoder).items():
        for buffer, _ in layer.named_buffers():
            if f"{place}.{buffer}" not in kept:
                raise ValueError(
                    f"`peft.type` is {spec['type']!r}, which keeps tensors ({buffer}) that no file of weights holds: a"
                    " saved model would not be the same."
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
    """Name → module of every layer that holds adapters, peft's and ours."""
    # Where this module has not been imported, no layer of peft can be there.
    peft: Any = sys.modules.get("peft.tuners.tuners_utils")
    kinds = (BottleneckLayer, peft.BaseTunerLayer) if peft is not None else BottleneckLayer
    return {name: module for name, module in encoder.named_modules() if isinstance(module, kinds)}


def adapter_parameters(encoder: nn.Module) -> dict[str, str]:
    """Name of each parameter of an adapter → the adapter."""
    return {
        f"{place}.{name}": name.split(".")[1]  # <what peft calls it>.<adapter>...
        for place, layer in adapter_layers(encoder).items()
        for name, _ in layer.named_parameters()
        if not name.startswith("base_layer.")
    }


def use_adapter(encoder: nn.Module, name: str | None) -> None:
    """From now on the encoder runs with this adapter, or bare."""
    for layer in adapter_layers(encoder).values():
        layer._active_adapter = [] if name is None else [name]
        layer._disable_adapters = name is None


def train_only_adapters(encoder: nn.Module, names: Iterable[str]) -> None:
    """Freeze all of the encoder but these adapters."""
    encoder.requires_grad_(False)
    for layer in adapter_layers(encoder).values():
        layer.set_requires_grad(list(names), True)


def merge_adapter(encoder: Any, name: str) -> None:
    """Add an adapter to the encoder's own weights and remove all adapters, in place.

    Raises:
        ValueError: The adapter is of a type that cannot be merged, or merged weights would not be finite. The encoder
            is then as it was.
    """
    layers = adapter_layers(encoder)
    for place, layer in layers.items():  # first on copies, one at a time: a later layer may refuse
        try:
            copy.deepcopy(layer).merge(safe_merge=True, adapter_names=[name])
        except (NotImplementedError, ValueError) as error:
            reason = str(error).rstrip(".") or "peft has no way to merge it"
            raise ValueError(f"this adapter cannot be merged into the encoder ({place}): {reason}.") from error
    for layer in layers.values():
        layer.merge(safe_merge=True, adapter_names=[name])
    remove_adapters(encoder)


def rename_adapter(encoder: Any, specs: dict[str, dict[str, Any]], old: str, new: str) -> dict[str, dict[str, Any]]:
    """Call an adapter otherwise, in place; it keeps its weights and its place among the others.

    All adapters are taken out and put in again: what belongs to a name, each type keeps in tables of its own.

    Args:
        encoder: With these adapters.
        specs: Adapter → its specification.
        old: An adapter.
        new: No adapter yet.

    Returns:
        `specs` by the new name.
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
    """Remove one adapter, or all of them with the layers that held them, in place."""
    layers = adapter_layers(encoder)
    if name is not None and set(adapter_parameters(encoder).values()) != {name}:
        use_adapter(encoder, None)
        for layer in layers.values():
            layer.delete_adapter(name)
        return
    for place, layer in layers.items():
        encoder.set_submodule(place, layer.get_base_layer())
    encoder.requires_grad_(True)
