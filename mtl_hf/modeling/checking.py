"""Check the `config.json` of a saved model before anything is built from it.

Notable: the file may be damaged or malicious, so every value that affects what is built has a type and a bound, and no
value may name code to download. Sizes within the bounds are compared with the weights when these are loaded.
"""

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig

from .encoding import FORMS
from .experts import check_experts
from .heads import HEADS, check_head_name, head_spec
from .windows import TRUNCATE, WINDOW
from .words import check_rules

MOST_LAYERS = 1024  # far more than any encoder has; each takes milliseconds to build
_AT_LEAST_ONE = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
MOST = 2**31 - 1  # bound of all other whole numbers
# Raised by transformers for files that are damaged or do not match; for missing files it raises OSError.
DAMAGED = (SafetensorError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


def read_config(name_or_path: str, **where: Any) -> dict[str, Any]:
    """The `config.json` of a model of any type.

    Args:
        name_or_path: Hub id or folder.
        **where: Arguments of `from_pretrained` (`revision`, `token`, ...).

    Raises:
        OSError: There is no model, or the file is not JSON.
        ValueError: The file does not contain a mapping.
    """
    try:
        found, _ = PreTrainedConfig.get_config_dict(name_or_path, **where)
    except (AttributeError, TypeError):  # get_config_dict expects a mapping
        found = {}
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{name_or_path} cannot be loaded: its config.json does not contain a mapping.")
    return found


def check_config(config: Mapping[str, Any], name: str) -> None:
    """Check the configuration of a multi-task model.

    Args:
        config: The content of `config.json`.
        name: Name of the model, for messages.

    Raises:
        ValueError: A value has the wrong type or is out of bounds. The message names its key.
    """
    try:
        _check(config)
    except ValueError as error:
        raise ValueError(f"{name}: config.json is damaged or of another version: {error}") from error


def _check(config: Mapping[str, Any]) -> None:
    heads, adapters, encoder = (config.get(key) for key in ("heads", "adapters", "text_config"))
    for key, value in (("heads", heads), ("adapters", adapters)):
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"`{key}` is {value!r:.60}; it should be a mapping from names to specifications.")
        for own, spec in (value or {}).items():
            if not isinstance(spec, dict) or not isinstance(spec.get("type"), str):
                raise ValueError(f"`{key}.{own}` is {spec!r:.60}; it should be a mapping with a `type`.")
    for head, spec in (heads or {}).items():
        _check_head(head, spec, adapters or {})
    if config.get("experts"):
        if not isinstance(config["experts"], dict):
            raise ValueError(f"`experts` is {config['experts']!r:.60}; it should be a mapping with num and hidden.")
        check_experts(config["experts"])
        _check_number("experts.num", config["experts"]["num"], MOST_LAYERS)
        _check_number("experts.hidden", config["experts"]["hidden"], MOST)
    if config.get("word_rules") is not None:
        check_rules(config["word_rules"])
    if not isinstance(encoder, dict) or not isinstance(encoder.get("model_type"), str):
        raise ValueError(
            f"`text_config` is {encoder!r:.60}; it should be the encoder's configuration, with its `model_type`."
        )
    if encoder["model_type"] not in CONFIG_MAPPING:
        raise ValueError(f"`text_config.model_type` is {encoder['model_type']!r}, which transformers does not support.")
    check_sizes(encoder, "text_config.")
    length = config.get("max_length", 512)
    if not isinstance(length, int) or isinstance(length, bool) or not 3 <= length <= MOST:
        raise ValueError(f"`max_length` is {length!r:.60}; it should be a whole number of at least 3.")
    overflow, stride = config.get("overflow", TRUNCATE), config.get("stride")
    if overflow not in (TRUNCATE, WINDOW):
        raise ValueError(f"`overflow` is {overflow!r:.60}; valid are {TRUNCATE}, {WINDOW}.")
    if stride is not None and (not isinstance(stride, int) or isinstance(stride, bool) or not 0 <= stride < length):
        raise ValueError(f"`stride` is {stride!r:.60}; it should be a whole number below `max_length`, {length}.")
    for place, values in (("", config), ("text_config.", encoder)):
        for key in ("encoder_attn_implementation", "attn_implementation", "_attn_implementation"):
            found = values.get(key)
            # `owner/name` is a repository of compiled kernels, which transformers would download and run.
            if found is not None and (not isinstance(found, str) or not found.replace("_", "").isalnum()):
                raise ValueError(
                    f"`{place}{key}` is {found!r:.60}; it should be a kernel of transformers, such as sdpa."
                )


def _check_head(name: str, spec: dict[str, Any], adapters: dict[str, Any]) -> None:
    check_head_name(name)
    where = f"`heads.{name}"
    if spec["type"] not in HEADS:
        raise ValueError(f"{where}.type` is {spec['type']!r}; valid are {', '.join(HEADS)}.")
    if spec.get("text") not in FORMS:
        raise ValueError(f"{where}.text` is {spec.get('text')!r:.60}; valid are {', '.join(FORMS)}.")
    labels = spec.get("labels")
    if labels is not None:
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ValueError(f"{where}.labels` is {labels!r:.60}; it should be a list of names.")
        if len(set(labels)) < len(labels):
            twice = next(label for place, label in enumerate(labels) if label in labels[:place])
            raise ValueError(f"{where}.labels` names {twice!r} twice.")
    steps = spec.get("num_steps", 0)
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"{where}.num_steps` is {steps!r:.60}; it should be a whole number of at least 0.")
    try:
        head_spec(spec)
    except ValueError as error:
        raise ValueError(f"{where}`: {error}") from None
    if spec.get("adapter") is not None and spec["adapter"] not in adapters:
        raise ValueError(
            f"{where}.adapter` is {spec['adapter']!r:.60}; the adapters are: {', '.join(adapters) or 'none'}."
        )


def check_sizes(encoder: Mapping[str, Any], where: str = "") -> None:
    """Check the whole numbers of an encoder's configuration before the encoder is built.

    Args:
        encoder: The configuration as plain data.
        where: Prefix of its keys in messages.

    Raises:
        ValueError: There are more than `MOST_LAYERS` layers, another number is above `MOST`, or a size is below 1.
    """
    for key, value in encoder.items():
        if isinstance(value, dict):
            check_sizes(value, f"{where}{key}.")
        elif isinstance(value, int) and not isinstance(value, bool):
            _check_number(f"{where}{key}", value, MOST_LAYERS if "layer" in key else MOST)
            if value < 1 and key in _AT_LEAST_ONE:
                raise ValueError(f"`{where}{key}` is {value}; it should be a whole number of at least 1.")


def explain(error: BaseException) -> str:
    """An error as one line, shortened if it is long."""
    text = textwrap.shorten(str(error), 500, placeholder=" ...")
    return text if text and not isinstance(error, LookupError) else f"{type(error).__name__} {text}".strip()


def check_loaded(name: str, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Check that weights and configuration have the same tensors.

    Args:
        name: Name of the model.
        missing: Tensors that are not in the weights, and would be random.
        unexpected: Tensors that are only in the weights.

    Raises:
        ValueError: There are missing or unexpected tensors.
    """
    for found, what in ((sorted(missing), "lack"), (sorted(unexpected), "hold also")):
        if found:
            shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
            raise ValueError(f"{name}: its weights {what} {shown}; they do not belong to its config.json.")


def check_no_pickle(folder: str) -> None:
    """Raise `ValueError` if a folder has its weights only in a pickle, which can hold code."""
    if not any(Path(folder).glob("*.safetensors*")) and (found := sorted(Path(folder).glob("pytorch_model*.bin"))):
        raise ValueError(
            f"{folder} has its weights in {found[0].name}, a pickle file, which can run code: only safetensors are"
            " loaded."
        )


def shape_mismatch(model: nn.Module, folder: str) -> str:
    """Describe the first tensor in a folder's weights whose shape differs from the model's; empty if there is none."""
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for path in sorted(Path(folder).glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                found = file.get_slice(name).get_shape()
                if name in wanted and wanted[name] != found:
                    return f": {name} is {found} in the weights and {wanted[name]} by config.json"
    return ""


def _check_number(key: str, value: int, most: int) -> None:
    if abs(value) > most:
        raise ValueError(f"`{key}` is {value:,}; it should be at most {most:,}.")
