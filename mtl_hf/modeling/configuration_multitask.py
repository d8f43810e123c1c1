"""The configuration of a multi-task model: one encoder configuration and a plain dict per head.

Notable: the encoder's configuration is called `text_config`, because transformers looks for this name (to resize the
vocabulary, and for `initializer_range`). Heads are JSON dicts, so that `config.json` can be read without this package.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .checking import check_config, check_sizes, explain, read_config
from .windows import TRUNCATE, window_stride


@strict
class MultiTaskConfig(PreTrainedConfig):
    """Configuration of a `MultiTaskModel`.

    Args:
        text_config: Configuration of the shared encoder.
        heads: Head name → its specification: `type` (a key of `HEADS`), `labels` (list of names, for types with
            labels), `text` (form of its training texts, one of `encoding.FORMS`), `num_steps` (optimizer steps in which
            it had labels), `adapter` (name of its adapter, if not the one of all heads) and its options (`pooling`,
            `dropout`, `label_smoothing`, `loss`, ...).
        adapters: Adapter name → its specification: `type` (a configuration class of peft, or `BottleneckConfig`) and
            its arguments. Heads without an adapter of their own use the one called `shared`. None for no adapters.
        pooling: How token states are pooled into one vector: `mean` over real tokens, `cls` (the first token), `max`,
            `mean_last_<n>` (the mean over the last n layers, then over real tokens) or `attention` (a weighted mean,
            with weights learned in each head).
        max_length: Maximum number of tokens, including special tokens.
        overflow: How longer texts are read: `truncate`, or `window` for overlapping windows of `max_length` tokens,
            which are the segments of a row.
        stride: Tokens that neighbouring windows share; None for a quarter of `max_length`.
        encoder_attn_implementation: Attention kernel of the encoder (`sdpa`, `eager`, ...); None for the choice of
            transformers. It is stored here because transformers does not save it in a nested configuration.
        word_rules: How strings are split into words, learned from the training words (lists by the names in
            `words.RULES`); None for the plain splitting (`words.split_words`).
        experts: `num` and `hidden` of the experts between encoder and heads (`experts.Experts`); None for no experts.
    """

    model_type = "mtl-hf"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert")}
    keys_to_ignore_at_inference = ["losses", "gates", "last_hidden_state", "hidden_states", "attentions"]

    text_config: PreTrainedConfig | dict[str, Any] | None = None
    heads: dict[str, Any] | None = None
    adapters: dict[str, Any] | None = None
    pooling: str = "mean"
    max_length: int = 512
    overflow: str = TRUNCATE
    stride: int | None = None
    encoder_attn_implementation: str | None = None
    experts: dict[str, Any] | None = None
    word_rules: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.heads = self.heads or {}
        if not type(self).__module__.startswith("transformers_modules."):
            # Use the pipeline of the installed package; transformers would ask to trust the code in the folder.
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of the encoder's states."""
        return int(self.text_config.hidden_size)  # type: ignore[union-attr]

    @property
    def window_stride(self) -> int | None:
        """Tokens that neighbouring windows share; None if long texts are truncated."""
        return window_stride(self.overflow, self.stride, self.max_length)

    @property
    def num_experts(self) -> int:
        """Number of experts between encoder and heads."""
        return int(self.experts["num"]) if self.experts else 0


def own_config(name_or_path: str, **where: Any) -> MultiTaskConfig | None:
    """The configuration of a saved multi-task model; None for any other model.

    It does not use `AutoConfig`, which knows the class only after it is registered.

    Args:
        name_or_path: Hub id or folder.
        **where: Arguments of `from_pretrained` (`revision`, `token`, ...).

    Raises:
        OSError: There is no model.
        ValueError: The configuration is damaged, or a size is out of bounds.
    """
    found = read_config(name_or_path, **where)
    if not isinstance(kind := found.get("model_type", ""), str):
        raise ValueError(
            f"{name_or_path} cannot be loaded: config.json: `model_type` is {kind!r:.60}; it should be text."
        )
    if found.get("model_type") != MultiTaskConfig.model_type:
        try:
            check_sizes(found)
        except ValueError as error:
            raise ValueError(f"{name_or_path} cannot be loaded: config.json: {error}") from None
        return None
    check_config(found, name_or_path)
    try:
        return MultiTaskConfig.from_dict(found)
    except (StrictDataclassError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{name_or_path}: config.json is damaged or of another version: {explain(error)}") from error


# Every save then copies this file and names the class in `auto_map`.
MultiTaskConfig.register_for_auto_class()
