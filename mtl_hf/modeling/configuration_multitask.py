"""The configuration of a multi-task model: one encoder configuration and a plain dict per head.

Notable: the encoder's configuration is called `text_config`, the name by which transformers finds it (vocabulary
resizes and `initializer_range` are read through it). Heads are JSON dicts, not classes, so that `config.json` stays
readable and needs no code of ours to be parsed.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .checking import check_config, check_sizes, explain, read_config


@strict
class MultiTaskConfig(PreTrainedConfig):
    """Configuration of a `MultiTaskModel`.

    Args:
        text_config: Configuration of the shared encoder.
        heads: Head name → its specification: `type` (a key of `HEADS`), `labels` (list of names, where the type has
            them), `text` (`string`, `words`, `pair` or `apart`: what its training texts were), `num_steps` (optimiser
            steps in which it had labels), `adapter` (the one that the encoder runs with for it, where it is not that of
            all heads) and its options (`pooling`, `dropout`, `label_smoothing`, `loss`, ...).
        adapters: Adapter name → its specification: `type` (a configuration class of peft, or `BottleneckConfig`) and
            its arguments. The one called `shared` is that of all heads that name none; None for a bare encoder.
        pooling: How token states become one vector: `mean` over real tokens, `cls` (the first token), `max`,
            `mean_last_<n>` (the mean over the last n layers, then over real tokens) or `attention` (a weighted mean,
            with learned weights in each head).
        max_length: Longest input in tokens, special tokens included; longer ones are cut.
        encoder_attn_implementation: Attention kernel of the encoder (`sdpa`, `eager`, ...); None is transformers' own
            choice. Kept here because the encoder's own setting does not survive being nested.
        experts: `num` and `hidden` of the experts between encoder and heads (`experts.Experts`); None for none.
    """

    model_type = "mtl-hf"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert")}
    keys_to_ignore_at_inference = ["losses", "gates", "last_hidden_state", "hidden_states", "attentions"]

    text_config: PreTrainedConfig | dict[str, Any] | None = None
    heads: dict[str, Any] | None = None
    adapters: dict[str, Any] | None = None
    pooling: str = "mean"
    max_length: int = 512
    encoder_attn_implementation: str | None = None
    experts: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.heads = self.heads or {}
        if not type(self).__module__.startswith("transformers_modules."):
            # The pipeline is that of the installed package; transformers would ask leave to run the folder's own.
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of the encoder's states."""
        return int(self.text_config.hidden_size)  # type: ignore[union-attr]

    @property
    def num_experts(self) -> int:
        """How many experts stand between encoder and heads."""
        return int(self.experts["num"]) if self.experts else 0


def own_config(name_or_path: str, **where: Any) -> MultiTaskConfig | None:
    """The configuration of a saved multi-task model; None of any other model.

    Not by `AutoConfig`, which knows our models only once they are registered.

    Args:
        name_or_path: Hub id or folder.
        **where: Of `from_pretrained` (`revision`, `token`, ...).

    Raises:
        OSError: There is no model.
        ValueError: Its configuration is damaged, or of an absurd size.
    """
    found = read_config(name_or_path, **where)
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


# Every save then brings this file along and says in `auto_map` where to find the class.
MultiTaskConfig.register_for_auto_class()
