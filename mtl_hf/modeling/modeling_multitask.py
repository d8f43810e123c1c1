"""`MultiTaskModel`: one pretrained encoder and any number of named heads, which share one encoder pass.

Notable: `__init__` builds the encoder from its configuration and never loads it (transformers fills models on the meta
device); `from_encoder` loads a pretrained encoder. The encoder's own pooler is removed, since heads have their own
pooling. Predictions of a head without training are logged as random. This file has the public methods and the forward
pass; the rest is in `building` (create a model), `changes` (heads and adapters), `reading` (input of each head),
`embeddings` and `texts` (raw text).
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, initialization
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import ModelOutput
from transformers.utils.hub import resolve_revision

from .adapters import adapter_parameters, inject_adapter, use_adapter
from .building import ModelOptions, make_model
from .changes import add_head_to, add_tokens_to, merge_adapter_of, put_adapters_into, remove_head_of, rename_head_of
from .checking import DAMAGED, check_config, check_no_pickle, explain, shape_mismatch
from .configuration_multitask import MultiTaskConfig, own_config
from .crf import CRF
from .embeddings import embed, pooling_of
from .encoders import auto_class
from .encoding import check_count, check_texts
from .experts import ZeroLinear, build_experts
from .foreign_heads import save_foreign
from .head import EncoderShape, Head, HeadInputs
from .heads import build_head
from .layer_mix import LayerMix
from .package_path import resolve_path
from .pooling import check_pooling, last_layers, mean_of_windows
from .reading import adapter_of, encoder_passes, freeze_around_adapters, layers_of, states_read
from .texts import Batch, Readers, TextModel, report_cut
from .tokenizing import WHERE, load_tokenizer

logger = logging.getLogger(__name__)


@dataclass
class MultiTaskOutput(ModelOutput):
    """Output of `MultiTaskModel.forward`.

    Attributes:
        loss: Sum of `losses`, ().
        losses: Task → its loss, (): the mean over its labelled items, or their sum divided by `num_items[task]`.
        logits: Task → logits, in float32 or wider, also under autocast: (B, num_labels); (B,) for regression;
            (B, T, num_labels) for token classification; (B, H) vectors of length 1 for sentence similarity, whose pairs
            are rows 2i and 2i + 1; (N, V) of the N masked tokens for masked language modelling, or (B, T, V) of all
            tokens without labels.
        gates: Task → its mixture of experts for each row of the batch, (B, K), if the model has experts.
        hidden_states: Hidden states of the encoder, with `output_hidden_states=True`.
        attentions: Attentions of the encoder, with `output_attentions=True`.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    logits: dict[str, Tensor] | None = None
    gates: dict[str, Tensor] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class MultiTaskModel(TextModel, PreTrainedModel):
    """A shared encoder with named heads.

    Args:
        config: Configuration of the model.
        encoder: The encoder (default: one with random weights, built from `config.text_config`).
    """

    config_class = MultiTaskConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # The stock Trainer would count the labels of all tasks together; `MultiTaskTrainer` counts items per task.
    accepts_loss_kwargs = False

    def __init__(self, config: MultiTaskConfig, encoder: PreTrainedModel | None = None) -> None:
        # `from_pretrained(..., attn_implementation=...)` sets the field of the model; the kernel is the encoder's.
        if config._attn_implementation is None:
            config._attn_implementation = config.encoder_attn_implementation
        else:
            config.encoder_attn_implementation = config._attn_implementation
        super().__init__(config)
        for pooling in (config.pooling, *(spec.get("pooling") for spec in (config.heads or {}).values())):
            check_pooling(pooling or config.pooling, self._num_layers)
        if encoder is None:
            auto = auto_class(config.text_config)  # type: ignore[arg-type]
            encoder = auto.from_config(config.text_config, attn_implementation=config.encoder_attn_implementation)
        # Encoders with a pooler create it again at each load.
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None
        self.encoder = encoder
        config._attn_implementation_internal = encoder.config._attn_implementation  # the encoder may have chosen it
        self.experts = build_experts(config.hidden_size, config.experts)
        self.heads = nn.ModuleDict({name: self._build_head(spec) for name, spec in (config.heads or {}).items()})
        self._tokenizer: PreTrainedTokenizerBase | None = None
        # Where the model was loaded from: the name or path, and the other arguments of `load_tokenizer`.
        self._origin: tuple[str, dict[str, Any]] | None = None
        self._warned_heads: set[str] = set()
        self._warned_no_answer: set[str] = set()
        self.post_init()
        # After `post_init`, which would give adapters random weights: a new adapter has to start as the identity.
        for name, spec in (config.adapters or {}).items():
            inject_adapter(self.encoder, name, spec)
        freeze_around_adapters(self.encoder, self.config)

    # ---- building ----

    @classmethod
    def from_encoder(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        pooling: str | None = None,
        max_length: int | None = None,
        overflow: str | None = None,
        stride: int | None = None,
        truncation_side: str | None = None,
        add_tokens: Sequence[str] = (),
        attn_implementation: str | None = None,
        encoder_config: dict[str, Any] | None = None,
        pretrained: bool = True,
        keep_heads: bool = False,
        experts: dict[str, int] | None = None,
        **kwargs: Any,
    ) -> "MultiTaskModel":
        """Create a model without heads around a pretrained encoder, with its tokenizer, in evaluation mode.

        Args:
            name_or_path: Hub id, local folder or `package:<python package>/<folder>` of an encoder that `AutoModel`
                loads, or of a multi-task model, whose encoder is used.
            pooling: `mean`, `cls`, `max`, `mean_last_<n>` or `attention`; a head may have its own. Default: that of the
                multi-task model, else `mean`.
            max_length: Maximum number of tokens. Default: that of the multi-task model or of the sentence encoder, else
                the limit of encoder and tokenizer.
            overflow: `truncate`, or `window` to read longer texts in overlapping windows. Default: as in the multi-task
                model, else `truncate`.
            stride: `window` only: tokens that neighbouring windows share. Default: as in the multi-task model, else a
                quarter of `max_length`.
            truncation_side: `truncate` only: the end of a text that is cut, `right` or `left`. It is a property of the
                tokenizer. Default: as in the tokenizer.
            add_tokens: Tokens to add to the vocabulary (`MultiTaskModel.add_tokens`).
            attn_implementation: `sdpa`, `eager`, ... Default: the choice of transformers.
            encoder_config: Fields of the encoder's configuration to override, such as `hidden_dropout_prob`; without
                `pretrained` also its sizes.
            pretrained: Whether to load the encoder's weights. If false, they are initialized at random.
            keep_heads: Whether to keep the heads and experts of a multi-task model, as `from_pretrained` does.
            experts: `{"num": 4, "hidden": 512}` for new experts between encoder and heads. Default: none.
            **kwargs: Passed to `from_pretrained` of encoder and tokenizer (`revision`, `token`, `trust_remote_code`,
                ...).

        Raises:
            ValueError: An argument is invalid, the Python package is not installed, there is no encoder, it runs remote
                code, its tokenizer has no padding token or more tokens than the encoder, or `keep_heads` is set but
                `name_or_path` is not a multi-task model or has other `experts`.
        """
        options = ModelOptions(
            pooling=pooling,
            max_length=max_length,
            overflow=overflow,
            stride=stride,
            truncation_side=truncation_side,
            add_tokens=tuple(add_tokens),
            attn_implementation=attn_implementation,
            encoder_config=encoder_config or {},
            pretrained=pretrained,
            keep_heads=keep_heads,
            experts=experts,
        )
        return make_model(cls, os.fspath(name_or_path), options, kwargs)

    def _build_head(self, spec: dict[str, Any]) -> nn.Module:
        return build_head(spec, self.encoder_shape, self.config.num_experts)

    @property
    def encoder_shape(self) -> EncoderShape:
        """The sizes that heads are built with."""
        vocab_size, embedding_size = self._input_embeddings().shape
        num_layers = self._num_layers or 0
        return EncoderShape(self.config.hidden_size, self.config.pooling, vocab_size, embedding_size, num_layers)

    def _input_embeddings(self) -> Tensor:
        """The matrix of input embeddings, (V, E); E may differ from the width of the encoder's states."""
        embeddings: Any = self.encoder.get_input_embeddings()
        return embeddings.weight

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize as transformers does, plus parameters that heads hold directly and zeros for new experts."""
        super()._init_weights(module)
        if isinstance(module, Head | LayerMix | CRF):
            module.init_weights()
        if isinstance(module, ZeroLinear):
            initialization.zeros_(module.weight)
            initialization.zeros_(module.bias)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the embeddings as transformers does, and the heads that are tied to them."""
        embeddings: nn.Embedding = super().resize_token_embeddings(*args, **kwargs)
        head: Any
        for head in self.heads.values():
            head.resize(len(embeddings.weight))
        return embeddings

    def add_tokens(self, tokens: Sequence[str]) -> list[str]:
        """Add tokens to the vocabulary, such as the markers of entities, and resize the embeddings.

        They are matched exactly as written, also inside other text, and never split. Their embeddings are drawn around
        the mean of the others, as transformers does by default, and have to be trained.

        Args:
            tokens: The tokens.

        Returns:
            Those that are new; a known token is kept as it is, and logged.

        Raises:
            ValueError: A token is empty, has a space at its beginning or end, or is named twice.
        """
        return add_tokens_to(self, tokens)

    # ---- heads and adapters ----

    def add_head(
        self, name: str, *, type: str, labels: Sequence[str] | None = None, text: str = "string", **options: Any
    ) -> nn.Module:
        """Add a head with random weights and return it.

        Args:
            name: Name of the task.
            type: Task type, a key of `HEADS`.
            labels: Label names in the order of the logits; None for types without labels, such as `regression`.
            text: Form of the texts: `string`, `words` or `pair`. Types with a fixed form ignore it:
                `token_classification` reads `words`, `sentence_similarity` reads `apart`.
            **options: Options of the head (`pooling`, `dropout`, `label_smoothing`, `loss`, ...), and `adapter`, the
                name of its adapter (default: the adapter of all heads).

        Raises:
            ValueError: The name is invalid or taken, the type or an option is unknown, or labels are missing.
        """
        return add_head_to(self, name, type, labels, text, options)

    def remove_head(self, name: str) -> nn.Module:
        """Remove a head, and its adapter if no other head uses it, and return the head.

        Raises:
            ValueError: There is no such head.
        """
        return remove_head_of(self, name)

    def rename_head(self, old: str, new: str) -> None:
        """Rename a head. It keeps its weights, its position and its training steps.

        An adapter with the same name is renamed, too.

        Raises:
            ValueError: There is no head `old`, or `new` is invalid or already the name of a head or adapter.
        """
        rename_head_of(self, old, new)

    def adapt(self, type: str, *, per_task: bool = False, **arguments: Any) -> None:
        """Freeze the encoder and add adapters to it. New adapters do not change the outputs.

        Args:
            type: Name of a configuration class of peft, such as `LoraConfig`, or `BottleneckConfig`.
            per_task: One adapter for each head instead of one for all heads. The encoder then runs once for each
                adapter instead of once for all heads.
            **arguments: Arguments of the configuration class (`r`, `target_modules`, ...).

        Raises:
            ValueError: The model already has adapters, the type or an argument is unknown, the encoder does not have
                the modules, or `per_task` is set and there are no heads or one is called `shared`.
            ImportError: peft is not installed.
        """
        put_adapters_into(self, {"type": type, **arguments}, per_task)

    def merge_adapters(self, task: str | None = None) -> None:
        """Merge an adapter into the encoder's weights: the model then has no adapters and makes the same predictions.

        Args:
            task: Head whose adapter to merge, needed if the model has several adapters. Heads with other adapters are
                removed.

        Raises:
            ValueError: There is no adapter or no such head, there are several adapters and no `task`, or the type of
                adapter cannot be merged.
        """
        merge_adapter_of(self, task)

    def adapter_of(self, head: str | None) -> str | None:
        """The adapter that the encoder uses for a head (for None: for embeddings), or None for no adapter."""
        return adapter_of(self.config, head)

    def adapted_states(self, adapter: str | None, **inputs: Any) -> Tensor:
        """The encoder's last hidden states with one adapter (None: without), without dropout, (B, T, H)."""
        with self.evaluating():
            use_adapter(self.encoder, adapter)
            states: Tensor = self.encoder(**inputs, return_dict=True).last_hidden_state
        use_adapter(self.encoder, self.adapter_of(None))
        return states

    # ---- saving and loading ----

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Load a saved model, with the arguments of transformers' `from_pretrained`.

        The tokenizer is loaded later, from the same place and commit.

        Args:
            pretrained_model_name_or_path: Hub id, local folder or `package:<python package>/<folder>`.
            *model_args: As in transformers.
            **kwargs: As in transformers; `attn_implementation` applies to the encoder.

        Raises:
            OSError: There is no model, or it has no weights in safetensors (pickled weights are not loaded).
            ValueError: The Python package is not installed or has no such folder, or the configuration or weights are
                damaged or do not match.
        """
        name = pretrained_model_name_or_path
        if isinstance(name, str):
            name = resolve_path(name)
        access = {key: kwargs[key] for key in ("token", "local_files_only", "cache_dir") if key in kwargs}
        kwargs["revision"] = resolve_revision(name, kwargs.get("revision"), **access)
        kwargs.setdefault("use_safetensors", True)  # a pickle can hold code
        with_info = kwargs.pop("output_loading_info", False)
        config: Any = kwargs.get("config")
        if name is not None and not isinstance(config, PreTrainedConfig):
            config = own_config(str(config or name), **{key: kwargs[key] for key in WHERE if key in kwargs})
            if config is None:
                raise ValueError(
                    f"{name} is not a multi-task model. To create one around an encoder, use `from_encoder`."
                )
        elif config is not None:
            check_config(config.to_dict(), str(name))
        if os.path.isdir(str(name)):
            check_no_pickle(str(name))
        try:
            loaded: Any = super().from_pretrained(name, *model_args, output_loading_info=True, **kwargs)
        except DAMAGED as error:
            reason = explain(error)
            if "ignore_mismatched_sizes" in reason and os.path.isdir(str(name)):
                with torch.device("meta"):
                    reason = "shapes differ" + shape_mismatch(cls(config), str(name))
            raise ValueError(f"{name} cannot be loaded: {reason}") from error
        model, info = loaded
        # Tensors in a file are aligned to 8 bytes, where some CPUs round products with one output differently.
        adapters = (model.encoder.get_parameter(parameter) for parameter in adapter_parameters(model.encoder))
        for parameter in (*model.heads.parameters(), *adapters):
            parameter.data = parameter.data.clone()
        freeze_around_adapters(model.encoder, model.config)  # loading has replaced all parameters
        if name is not None:
            # With the configuration `AutoTokenizer` knows the type of the model, and needs no remote code to find it.
            where = {key: kwargs[key] for key in WHERE if key in kwargs}
            model._origin = os.fspath(name), where | {"config": model.config, "trust_remote_code": False}
        return (model, info) if with_info else model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, loaded at its first use from where the model was loaded."""
        if self._tokenizer is None:
            name, options = self._origin or (str(self.name_or_path), {"config": self.config})
            words = any(spec["text"] == "words" for spec in self.config.heads.values())
            self._tokenizer = load_tokenizer(name, words=words, **options)
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:  # type: ignore[override]
        """Save the configuration, the weights of encoder and heads, and the tokenizer, if there is one."""
        from .pipeline import TASK, MultiTaskPipeline  # here, so that loading a model does not import pipelines

        # `pipeline` finds its class by this where `mtl_hf` is not installed.
        impl = f"pipeline.{MultiTaskPipeline.__name__}"
        self.config.custom_pipelines = {TASK: {"impl": impl, "pt": ["AutoModel"], "type": "text"}}
        # Some encoders would be saved under other parameter names than in memory, which a resumed run expects.
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, **kwargs)
        if kwargs.get("is_main_process", True):
            heads: Any = self.heads.values()
            save_foreign(os.fspath(save_directory), {type(head) for head in heads})
        if not kwargs.get("is_main_process", True) or (self._tokenizer is None and not self.name_or_path):
            return
        try:
            tokenizer = self.tokenizer
        except (OSError, ValueError) as error:
            logger.warning("%s is saved without a tokenizer: %s", save_directory, error)
            return
        tokenizer.save_pretrained(save_directory)

    # ---- running ----

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: dict[str, Tensor] | None = None,
        heads: str | Iterable[str] | None = None,
        num_items: dict[str, Tensor | float] | None = None,
        encoder_states: Tensor | None = None,
        num_segments: Tensor | None = None,
        word_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> MultiTaskOutput:
        """Run the encoder once (once per adapter that is used), then the heads.

        Args:
            input_ids: Token ids, (B, T).
            attention_mask: 1 for real tokens, 0 for padding on the right, (B, T). Default: all tokens are real.
            token_type_ids: Segment of each token, (B, T), for encoders that use it.
            labels: Task → labels in the form that its head documents.
            heads: Name of a head or list of names; None for all heads. A `masked_lm` head runs only if it is named or
                has labels, since its logits are as wide as the vocabulary.
            num_items: Task → divisor of its summed loss. Default: the number of labelled items in the batch.
            encoder_states: Last hidden states of the encoder, (B, T, H), if they are known; the encoder is not run.
            num_segments: Number of encoder inputs of each row, (rows,), if rows have several; their sum is B. Heads of
                whole texts then return one output per row, if these inputs are the windows of a text.
            word_ids: Number of each token's word, -1 for special tokens and padding, (B, T), for heads with an
                `alignment` other than `first`.
            **kwargs: Passed to the encoder (`inputs_embeds`, `output_hidden_states`, ...).

        Raises:
            ValueError: The model has no such head, `encoder_states` is given for a head that reads several layers,
                hidden states or attentions are requested for heads with different adapters or with `encoder_states`, or
                the attention kernel returns no attentions.
        """
        labels = labels or {}
        names = self.select_heads(heads, labels)
        if unknown := set(labels) - set(self.heads):
            raise ValueError(f"`labels` has {sorted(unknown)}; the heads are {list(self.heads)}.")
        if not self.training and not labels:
            self.warn_untrained(names)
        if token_type_ids is not None:
            kwargs["token_type_ids"] = token_type_ids
        if attention_mask is None:
            source = input_ids if input_ids is not None else kwargs["inputs_embeds"]
            attention_mask = torch.ones(source.shape[:2], dtype=torch.long, device=source.device)
        kwargs["return_dict"] = True
        with_states = kwargs.get("output_hidden_states", getattr(self.encoder.config, "output_hidden_states", False))
        if len({self.adapter_of(name) for name in names}) > 1 and (with_states or kwargs.get("output_attentions")):
            raise ValueError(
                f"the heads {', '.join(names)} have different adapters, so there are several sets of hidden states and"
                " attentions: choose one head with `heads`."
            )
        if encoder_states is not None and (with_states or kwargs.get("output_attentions")):
            raise ValueError("with `encoder_states` the encoder is not run: it returns no hidden states or attentions.")
        if deep := [name for name in names if layers_of(self.heads[name]) > 1]:
            kwargs["output_hidden_states"] = True
        passes: Iterable[tuple[list[str], Any]]
        if encoder_states is None:
            passes = encoder_passes(
                self.encoder, self.config, names, input_ids=input_ids, attention_mask=attention_mask, **kwargs
            )
        elif deep:
            raise ValueError(f"`encoder_states` has the states of one layer, but head {deep[0]!r} reads several.")
        else:
            passes = [(names, BaseModelOutput(last_hidden_state=encoder_states))]

        own = HeadInputs(input_ids, attention_mask, None, self._input_embeddings(), num_segments, word_ids)
        logits: dict[str, Tensor] = {}
        losses: dict[str, Tensor] = {}
        gates: dict[str, Tensor] = {}
        for group, encoded in passes:
            for name, states, gate in states_read(encoded, attention_mask, self.heads, group, self.experts):
                head: Any = self.heads[name]
                if gate is not None:
                    gates[name] = gate
                inputs = replace(own, labels=labels.get(name))
                logits[name] = head(states, attention_mask, inputs)
                if name in labels:
                    total, own_items = head.loss(logits[name], labels[name], inputs)
                    losses[name] = total / (own_items.clamp(min=1) if num_items is None else num_items[name])
        attentions = encoded.get("attentions")
        if kwargs.get("output_attentions") and (not attentions or any(one is None for one in attentions)):
            raise ValueError(
                f"`output_attentions`: the encoder's attention kernel, {self.encoder.config._attn_implementation!r},"
                ' returns no attentions. Load the model with `attn_implementation="eager"`.'
            )
        return MultiTaskOutput(
            loss=torch.stack(list(losses.values())).sum() if losses else None,
            losses=losses or None,
            logits=logits,
            gates=gates or None,
            hidden_states=encoded.get("hidden_states") if with_states else None,
            attentions=attentions,
        )

    def row_outputs(self, batch: dict[str, Tensor], names: list[str | None]) -> dict[str | None, Tensor]:
        """The outputs of heads for each row of a batch (`Head.by_row`), and for None its embedding, (B, H).

        Args:
            batch: Inputs of the encoder, (N, T): `input_ids`, `attention_mask`, ...; and optionally `num_segments`,
                (B,), and `word_ids`, (N, T).
            names: Names of heads; None for the embedding.
        """
        inputs = self._head_inputs(batch)
        found = self.segment_outputs(batch, names)
        heads: Any = self.heads
        return {
            name: mean_of_windows(one, inputs.num_segments) if name is None else heads[name].by_row(one, inputs)
            for name, one in found.items()
        }

    def _head_inputs(self, batch: dict[str, Tensor]) -> HeadInputs:
        return HeadInputs(
            batch["input_ids"], batch["attention_mask"], None, self._input_embeddings(), batch.get("num_segments"),
            batch.get("word_ids"),
        )  # fmt: skip

    def segment_outputs(self, batch: dict[str, Tensor], names: list[str | None]) -> dict[str | None, Tensor]:
        """What the heads return for a batch, as their class documents, and for None the embedding of each segment.

        Args:
            batch: As of `row_outputs`. Without `num_segments`, heads of whole texts return one output a segment.
            names: Names of heads; None for the embedding, (N, H).
        """
        inputs, mask = self._head_inputs(batch), batch["attention_mask"]
        batch = {key: values for key, values in batch.items() if key not in ("num_segments", "word_ids")}
        pool, num_layers = pooling_of(self, None, None) if None in names else (None, 1)
        deep = max([num_layers, *(layers_of(self.heads[name]) for name in names if name is not None)]) > 1
        outputs: dict[str | None, Tensor] = {}
        for group, encoded in encoder_passes(
            self.encoder, self.config, names, **batch, return_dict=True, output_hidden_states=deep
        ):
            heads = [name for name in group if name is not None]
            for name, states, _ in states_read(encoded, mask, self.heads, heads, self.experts):
                outputs[name] = self.heads[name](states, mask, inputs)
            if pool is not None and None in group:
                states = last_layers(encoded.last_hidden_state, encoded.get("hidden_states"), num_layers)
                outputs[None] = pool(states, mask)
        return outputs

    def to_tensors(self, batch: Batch) -> dict[str, Tensor]:
        """A batch of arrays as tensors on the model's device."""
        return {key: torch.from_numpy(values).to(self.device) for key, values in batch.items()}

    @torch.no_grad()
    def outputs(self, batch: Batch, names: Readers) -> dict[str | None, np.ndarray]:
        """`row_outputs` in evaluation mode, as arrays; see `TextModel.outputs`."""
        with self.evaluating():
            found = self.row_outputs(self.to_tensors(batch), names)
        return {name: output.float().cpu().numpy() for name, output in found.items()}

    def check_embeddings(self) -> None:
        """Raise `ValueError` if the pooling of the model has weights, which belong to a head."""
        pooling_of(self, None, None)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Switch to evaluation mode; afterwards restore the mode of every module (frozen parts may have their own)."""
        training = [module for module in self.modules() if module.training]
        if training:  # a model in evaluation mode is not touched: other threads may be using it
            self.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True

    @property
    def _num_layers(self) -> int | None:
        return getattr(self.config.text_config, "num_hidden_layers", None)

    def warn_untrained(self, names: list[str]) -> None:
        """Log heads without training, each once; a head without parameters needs none."""
        super().warn_untrained([name for name in names if [*self.heads[name].parameters()]])

    # ---- raw text ----

    @torch.no_grad()
    def encode(
        self,
        texts: str | Sequence[Any],
        *,
        batch_size: int = 32,
        normalize: bool = False,
        pooling: str | None = None,
        head: str | None = None,
        show_progress: bool = False,
        report: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Sentence embeddings: the pooled states of the encoder, with the adapter of all heads, if there is one.

        Experts are not used: their mixture belongs to a task.

        Args:
            texts: A string, or a sequence of strings (or of pairs, as tuples).
            batch_size: Texts per batch; texts of similar length share one.
            normalize: Whether to scale each embedding to length 1.
            pooling: Pooling to use instead of the model's; not `attention`, whose weights belong to a head.
            head: Head whose pooling (which may be `attention`) and adapter to use.
            show_progress: Whether to show a progress bar.
            report: Called with the number of truncated texts. Default: the number is logged.

        Returns:
            (num_texts, hidden_size) float32 on the CPU in the order of `texts`; (hidden_size,) for a single string.

        Raises:
            ValueError: An item is not a text, pairs and single texts are mixed, `batch_size` is below 1, the pooling or
                head is unknown, both are given, the head does not pool, or `attention` is given without a head.
        """
        several = [texts] if isinstance(texts, str) else texts
        check_texts(several)
        check_count("batch_size", batch_size)
        result, num_cut = embed(self, several, pooling, head, batch_size, show_progress)
        if report is None:
            report_cut(num_cut, len(several), self.config.max_length)
        else:
            report(num_cut)
        if normalize:
            result = nn.functional.normalize(result, dim=-1)
        return result[0] if isinstance(texts, str) else result


# Every save then copies this file and those that it imports, so that `trust_remote_code` loads the model elsewhere.
MultiTaskModel.register_for_auto_class("AutoModel")
