"""`MultiTaskModel`: one pretrained encoder, any number of named heads, one pass for all of them.

Notable: the encoder is built from its configuration, never loaded inside `__init__` (transformers fills models on the
meta device), so `from_encoder` is the way in from a pretrained encoder; the encoder's own pooler is removed, since
heads pool for themselves; and a head that nobody has trained says so when it is asked. The class says what can be done
with a model, and holds the pass through it; how a model is made, how it is changed and how texts are read, stands in
files of their own: `building`, `changes`, `reading`, `embeddings` and `texts`.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, initialization
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import ModelOutput
from transformers.utils.hub import resolve_revision

from .adapters import adapter_parameters, inject_adapter, use_adapter
from .building import Wishes, make_model
from .changes import add_head_to, merge_adapter_of, put_adapters_into, remove_head_of, rename_head_of
from .checking import DAMAGED, check_config, check_no_pickle, explain, shape_mismatch
from .configuration_multitask import MultiTaskConfig, own_config
from .embeddings import embed, pooling_of
from .encoding import WHERE, check_count, check_texts, load_tokenizer
from .experts import Silent, build_experts
from .foreign_heads import save_foreign
from .head import EncoderShape, Head, HeadInputs
from .heads import build_head
from .package_path import resolve_path
from .pooling import check_pooling, last_layers
from .reading import adapter_of, encoder_passes, freeze_around_adapters, layers_of, states_read
from .texts import EMBEDDING, answer_stream, report_cut

logger = logging.getLogger(__name__)


@dataclass
class MultiTaskOutput(ModelOutput):
    """What `MultiTaskModel.forward` returns.

    Attributes:
        loss: Sum of `losses`, ().
        losses: Task → its loss: the mean over its labelled items, or their sum over `num_items[task]`, ().
        logits: Task → (B, num_labels), (B,) for regression, (B, T, num_labels) for token classification, (B, H) vectors
            of length 1 for sentence similarity, whose pairs are rows 2i and 2i + 1, (N, V) of the N masked tokens for
            masked language modelling, (B, T, V) of all where there are no labels. In float32 or wider, under
            autocast too.
        gates: Task → its mixture of experts for each row of the batch, (B, K), if the model has experts.
        hidden_states: The encoder's, when asked for with `output_hidden_states=True`.
        attentions: The encoder's, when asked for with `output_attentions=True`.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    logits: dict[str, Tensor] | None = None
    gates: dict[str, Tensor] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class MultiTaskModel(PreTrainedModel):
    """A shared encoder with named heads.

    Args:
        config: What to build.
        encoder: The encoder itself; by default one with random weights is made from `config.text_config`.
    """

    config_class = MultiTaskConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # The stock Trainer would add up the labels of different tasks; `MultiTaskTrainer` counts items a task instead.
    accepts_loss_kwargs = False

    def __init__(self, config: MultiTaskConfig, encoder: PreTrainedModel | None = None) -> None:
        # `from_pretrained(..., attn_implementation=...)` sets the field of the whole model, and ours is the encoder's.
        if config._attn_implementation is None:
            config._attn_implementation = config.encoder_attn_implementation
        else:
            config.encoder_attn_implementation = config._attn_implementation
        super().__init__(config)
        for pooling in (config.pooling, *(spec.get("pooling") for spec in (config.heads or {}).values())):
            check_pooling(pooling or config.pooling, self._num_layers)
        if encoder is None:
            encoder = AutoModel.from_config(config.text_config, attn_implementation=config.encoder_attn_implementation)
        # Not every encoder has a pooler, and those that do make it again at each load.
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None
        self.encoder = encoder
        config._attn_implementation_internal = encoder.config._attn_implementation  # both, also if none was chosen
        self.experts = build_experts(config.hidden_size, config.experts)
        self.heads = nn.ModuleDict({name: self._build_head(spec) for name, spec in (config.heads or {}).items()})
        self._tokenizer: PreTrainedTokenizerBase | None = None
        # Where it was loaded from: the name or path, and what `load_tokenizer` needs besides.
        self._origin: tuple[str, dict[str, Any]] | None = None
        self._warned_heads: set[str] = set()
        self._warned_silent: set[str] = set()
        self.post_init()
        # After it, which would give adapters random weights: a new one begins as doing nothing.
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
        attn_implementation: str | None = None,
        encoder_config: dict[str, Any] | None = None,
        pretrained: bool = True,
        keep_heads: bool = False,
        experts: dict[str, int] | None = None,
        **kwargs: Any,
    ) -> "MultiTaskModel":
        """A model without heads around a pretrained encoder, with its tokenizer, in evaluation mode.

        Args:
            name_or_path: Hub id, local folder or `package:<python package>/<folder>` of anything that `AutoModel`
                loads, or of a multi-task model, of which the encoder is taken.
            pooling: `mean`, `cls`, `max`, `mean_last_<n>` or `attention`; heads may choose their own. By default that
                of a multi-task model, else `mean`.
            max_length: Longest input in tokens; by default that of a multi-task model, what a sentence encoder was made
                for, else the most that encoder and tokenizer can take.
            attn_implementation: `sdpa`, `eager`, ...; by default transformers' own choice.
            encoder_config: Fields of the encoder's configuration to change, such as `hidden_dropout_prob`; sizes too,
                where it is not `pretrained`.
            pretrained: Whether to load its weights; else they are random, and only configuration and tokenizer are its.
            keep_heads: Of a multi-task model, keep the heads too, as `from_pretrained` does, and its experts.
            experts: `{"num": 4, "hidden": 512}` for new experts between the encoder and all heads; none by default.
            **kwargs: Handed to both `from_pretrained` (`revision`, `token`, `trust_remote_code`, ...).

        Raises:
            ValueError: A package that is not installed or has no such folder, `max_length` beyond what the encoder can
                take, a tokenizer with more tokens than the encoder, an unknown `pooling` or field of the encoder's
                configuration, a tokenizer without padding, an encoder that runs code of its own, no encoder at all,
                `keep_heads` of what is no multi-task model, or with it `experts` that the model does not have.
        """
        wishes = Wishes(
            pooling=pooling,
            max_length=max_length,
            attn_implementation=attn_implementation,
            encoder_config=encoder_config or {},
            pretrained=pretrained,
            keep_heads=keep_heads,
            experts=experts,
        )
        return make_model(cls, os.fspath(name_or_path), wishes, kwargs)

    def _build_head(self, spec: dict[str, Any]) -> nn.Module:
        return build_head(spec, self.encoder_shape, self.config.num_experts)

    @property
    def encoder_shape(self) -> EncoderShape:
        """What heads are built on."""
        return EncoderShape(self.config.hidden_size, self.config.pooling, *self._input_embeddings().shape)

    def _input_embeddings(self) -> Tensor:
        """The matrix that token ids are looked up in, (V, E); E need not be the width of the encoder's states."""
        embeddings: Any = self.encoder.get_input_embeddings()
        return embeddings.weight

    def _init_weights(self, module: nn.Module) -> None:
        """As transformers', the bias that no layer of torch holds, and new experts, which say nothing."""
        super()._init_weights(module)
        if isinstance(module, Head):
            module.init_weights()
        if isinstance(module, Silent):
            initialization.zeros_(module.weight)
            initialization.zeros_(module.bias)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As transformers'; heads that are tied to the input embeddings follow."""
        embeddings: nn.Embedding = super().resize_token_embeddings(*args, **kwargs)
        head: Any
        for head in self.heads.values():
            head.resize(len(embeddings.weight))
        return embeddings

    # ---- heads and adapters ----

    def add_head(
        self, name: str, *, type: str, labels: Sequence[str] | None = None, text: str = "string", **options: Any
    ) -> nn.Module:
        """Add a head with random weights and return it.

        Args:
            name: The task's name.
            type: A key of `HEADS`.
            labels: Names of the labels in the order of the logits; none for `regression` and `sentence_similarity`.
            text: Form of its training texts: `string`, `words` or `pair`. Token classification is always `words`,
                sentence similarity always `apart`.
            **options: Of the head's class: `pooling`, `dropout`, `label_smoothing`, `loss`, ...; and `adapter`, one of
                the model's, if not the one of all heads.

        Raises:
            ValueError: The name is taken or cannot be one; unknown type or option; labels missing.
        """
        return add_head_to(self, name, type, labels, text, options)

    def remove_head(self, name: str) -> nn.Module:
        """Remove a head, and the adapter that only it read with, and return the head.

        Raises:
            ValueError: There is no such head.
        """
        return remove_head_of(self, name)

    def rename_head(self, old: str, new: str) -> None:
        """Call a head otherwise; it keeps its weights, its place among the heads and what it was trained for.

        An adapter of its own that is called as it was is renamed with it.

        Raises:
            ValueError: There is no head `old`, `new` is taken, or it cannot be the name of a head or of its adapter.
        """
        rename_head_of(self, old, new)

    def adapt(self, type: str, *, per_task: bool = False, **arguments: Any) -> None:
        """Freeze the encoder and put adapters into it, which begin as doing nothing.

        Args:
            type: A configuration class of peft by its name, such as `LoraConfig`, or `BottleneckConfig`.
            per_task: An adapter for each head that there is, instead of one for all heads. The encoder then runs once
                for each adapter that is asked for, no longer once for all heads.
            **arguments: Of that class (`r`, `target_modules`, ...).

        Raises:
            ValueError: The model has adapters already; an unknown type or argument; modules that the encoder does not
                have; `per_task` without heads, or with one that is called `shared`.
            ImportError: peft is not installed.
        """
        put_adapters_into(self, {"type": type, **arguments}, per_task)

    def merge_adapters(self, task: str | None = None) -> None:
        """Add an adapter to the encoder's own weights: the model is then a plain one, with the same answers.

        Args:
            task: Of a model with several adapters, a head: those that read with the same adapter stay, others are
                removed.

        Raises:
            ValueError: There is no adapter, or no such head; several adapters and no `task`; adapters of a type that
                cannot be merged.
        """
        merge_adapter_of(self, task)

    def adapter_of(self, head: str | None) -> str | None:
        """The adapter that a head reads with; of None, an embedding, that of all heads. None for the bare encoder."""
        return adapter_of(self.config, head)

    def adapted_states(self, adapter: str | None, **inputs: Any) -> Tensor:
        """The encoder's last states with one adapter, or bare, without dropout, (B, T, H)."""
        with self.evaluating():
            use_adapter(self.encoder, adapter)
            states: Tensor = self.encoder(**inputs, return_dict=True).last_hidden_state
        use_adapter(self.encoder, self.adapter_of(None))
        return states

    # ---- saving and loading ----

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """As transformers', for a saved model; its tokenizer will come from the same place, at the same commit.

        Args:
            pretrained_model_name_or_path: Hub id, local folder or `package:<python package>/<folder>`.
            *model_args: As transformers'.
            **kwargs: As transformers'; `attn_implementation` is that of the encoder.

        Raises:
            OSError: There is no model, or no weights in safetensors (weights in pickles are not read).
            ValueError: A package that is not installed or has no such folder; a configuration or weights that are
                damaged, or do not belong together.
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
                raise ValueError(f"{name} is no multi-task model; `from_encoder` makes one around an encoder.")
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
        # A file's tensors lie at multiples of 8 bytes; some CPUs round a product with one output otherwise there.
        adapters = (model.encoder.get_parameter(parameter) for parameter in adapter_parameters(model.encoder))
        for parameter in (*model.heads.parameters(), *adapters):
            parameter.data = parameter.data.clone()
        freeze_around_adapters(model.encoder, model.config)  # loading has replaced all parameters
        if name is not None:
            # With the configuration at hand `AutoTokenizer` need not find out what kind of model this is, which it
            # could only by running the repository's code.
            where = {key: kwargs[key] for key in WHERE if key in kwargs}
            model._origin = os.fspath(name), where | {"config": model.config, "trust_remote_code": False}
        return (model, info) if with_info else model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, loaded from where the model came from when first asked for."""
        if self._tokenizer is None:
            name, options = self._origin or (str(self.name_or_path), {"config": self.config})
            words = any(spec["text"] == "words" for spec in self.config.heads.values())
            self._tokenizer = load_tokenizer(name, words=words, **options)
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:  # type: ignore[override]
        """Save configuration, weights with every head, and the tokenizer if the model has one or came with one."""
        from .pipeline import TASK, MultiTaskPipeline  # here, so that loading a model need not load pipelines

        # Where we are not installed, `pipeline` finds its class by this.
        impl = f"pipeline.{MultiTaskPipeline.__name__}"
        self.config.custom_pipelines = {TASK: {"impl": impl, "pt": ["AutoModel"], "type": "text"}}
        # Some encoders would be written by other names than they have in memory, by which a resumed run looks for them.
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
        **kwargs: Any,
    ) -> MultiTaskOutput:
        """One pass through the encoder (one for each adapter that is read with), then every head or those asked for.

        Args:
            input_ids: Token ids, (B, T).
            attention_mask: 1 for real tokens, 0 for padding on the right, (B, T); all real by default.
            token_type_ids: Segment of each token, (B, T), for encoders that read it.
            labels: Task → labels in the form that its head documents. Only heads that run can have a loss.
            heads: None for every head, a name, or several. A head that is not asked for is not run at all. One of
                masked language modelling, whose logits are as wide as the vocabulary, has to be named or have labels.
            num_items: Task → what to divide the sum of its loss by; by default the batch's number of labelled items.
            encoder_states: The encoder's last states, (B, T, H), where they are known: then it is not run.
            num_segments: Where rows of the data are several inputs of the encoder: how many inputs each row is, in the
                order of the batch; B is then their sum.
            **kwargs: Handed to the encoder (`inputs_embeds`, `output_hidden_states`, ...).

        Raises:
            ValueError: A head or a label of a task that the model does not have; `encoder_states` for a head that reads
                several layers; hidden states or attentions asked for of heads that read with different adapters, or
                together with `encoder_states`; `output_attentions` with an attention kernel that returns none.
        """
        labels = labels or {}
        names = self._select_heads(heads, labels)
        if unknown := set(labels) - set(self.heads):
            raise ValueError(f"`labels` has {sorted(unknown)}; the heads are {list(self.heads)}.")
        if not self.training and not labels:
            self._warn_untrained(names)
        if token_type_ids is not None:
            kwargs["token_type_ids"] = token_type_ids
        if attention_mask is None:
            source = input_ids if input_ids is not None else kwargs["inputs_embeds"]
            attention_mask = torch.ones(source.shape[:2], dtype=torch.long, device=source.device)
        kwargs["return_dict"] = True
        asked = kwargs.get("output_hidden_states", getattr(self.encoder.config, "output_hidden_states", False))
        if len({self.adapter_of(name) for name in names}) > 1 and (asked or kwargs.get("output_attentions")):
            raise ValueError(
                f"the heads {', '.join(names)} read with adapters of their own, so there are several sets of hidden"
                " states and attentions: ask for one head."
            )
        if encoder_states is not None and (asked or kwargs.get("output_attentions")):
            raise ValueError("with `encoder_states` the encoder is not run: it has no hidden states and no attentions.")
        if deep := [name for name in names if layers_of(self.heads[name]) > 1]:
            kwargs["output_hidden_states"] = True
        passes: Iterable[tuple[list[str], Any]]
        if encoder_states is None:
            passes = encoder_passes(
                self.encoder, self.config, names, input_ids=input_ids, attention_mask=attention_mask, **kwargs
            )
        elif deep:
            raise ValueError(f"`encoder_states` are those of one layer, and head {deep[0]!r} reads several.")
        else:
            passes = [(names, BaseModelOutput(last_hidden_state=encoder_states))]

        own = HeadInputs(input_ids, attention_mask, None, self._input_embeddings(), num_segments)
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
            hidden_states=encoded.get("hidden_states") if asked else None,
            attentions=attentions,
        )

    def row_outputs(self, batch: dict[str, Tensor], names: list[str | None]) -> dict[str | None, Tensor]:
        """The outputs of heads for each row of a batch (`Head.by_row`); for None its embedding, (B, H).

        Args:
            batch: `input_ids`, `attention_mask` and what else the encoder reads, (B, T); perhaps `num_segments`.
            names: Of heads, and None.
        """
        batch = dict(batch)
        mask, num_segments = batch["attention_mask"], batch.pop("num_segments", None)
        inputs = HeadInputs(batch["input_ids"], mask, None, self._input_embeddings(), num_segments)
        pool, num_layers = pooling_of(self, None, None) if None in names else (None, 1)
        deep = max([num_layers, *(layers_of(self.heads[name]) for name in names if name is not None)]) > 1
        outputs: dict[str | None, Tensor] = {}
        for group, encoded in encoder_passes(
            self.encoder, self.config, names, **batch, return_dict=True, output_hidden_states=deep
        ):
            heads = [name for name in group if name is not None]
            for name, states, _ in states_read(encoded, mask, self.heads, heads, self.experts):
                head: Any = self.heads[name]
                outputs[name] = head.by_row(head(states, mask, inputs), inputs)
            if pool is not None and None in group:
                states = last_layers(encoded.last_hidden_state, encoded.get("hidden_states"), num_layers)
                outputs[None] = pool(states, mask)
        return outputs

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Dropout off; afterwards every module is in the mode it was in (frozen parts may differ from the rest)."""
        training = [module for module in self.modules() if module.training]
        if training:  # a model that only answers is not touched: other threads may be reading it
            self.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True

    def _select_heads(self, heads: str | Iterable[str] | None, labels: Iterable[str] = ()) -> list[str]:
        if heads is None:
            return [name for name, head in self.heads.items() if name in labels or head.answers_texts]
        names = [heads] if isinstance(heads, str) or not isinstance(heads, Iterable) else list(heads)
        if unknown := [name for name in names if not isinstance(name, str) or name not in self.heads]:
            raise ValueError(f"`heads` asks for {unknown}; the model has {list(self.heads)}.")
        return names

    @property
    def _num_layers(self) -> int | None:
        return getattr(self.config.text_config, "num_hidden_layers", None)

    def _warn_untrained(self, names: list[str]) -> None:
        for name in names:
            trained = self.config.heads[name].get("num_steps", 0) or not [*self.heads[name].parameters()]
            if not trained and name not in self._warned_heads:
                self._warned_heads.add(name)
                logger.warning("Head %r has not been trained: its answers are random.", name)

    # ---- answering raw text ----

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
        """Sentence embeddings: the states of the encoder with the adapter of all heads, if it has one, pooled.

        Experts, which mix states for a task, take no part.

        Args:
            texts: A string, or a sequence of strings (or of pairs, as tuples).
            batch_size: Texts a batch; texts of like length share one.
            normalize: Whether to scale each embedding to length 1.
            pooling: Instead of the model's own; not `attention`, whose weights belong to a head.
            head: The head whose pooling to use, which may be `attention`, and whose adapter.
            show_progress: Whether to draw a progress bar.
            report: Called with the number of texts that were cut at `max_length`; by default the number is logged.

        Returns:
            (num_texts, hidden_size) float32 on the CPU in the order of `texts`; (hidden_size,) for a single string.

        Raises:
            ValueError: Something that is no text, or pairs and single texts together; an unknown pooling or head, both
                of them, a head that does not pool, attention without a head; a batch without a text.
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

    def predict(self, texts: Sequence[Any], **options: Any) -> list[dict[str, Any]]:
        """Answers of every head, or of those asked for, to raw texts: one encoder pass a way of reading the text.

        Heads read a text as they were trained to: whole, or split into words (which for most texts gives the same
        tokens, and then the same pass serves both).

        Args:
            texts: Strings, lists of words, tuples of two strings (pairs), or of a string and a list of strings (a text
                with choices). What is longer than `max_length` is cut.
            **options: `heads`, `batch_size`, `top_k`, `embeddings`, `show_progress`, as of `predict_stream`.

        Returns:
            For each text, task → answer, as `answer` of its head describes, and `"cut": True` if it is longer than
            `max_length`. Heads for pairs answer only pairs, and only they do.

        Raises:
            ValueError: A single string, something that is no text, or a head that the model does not have.
        """
        return list(self.predict_stream(texts, **options))

    def predict_stream(
        self,
        texts: Iterable[Any],
        *,
        heads: str | Iterable[str] | None = None,
        batch_size: int = 32,
        top_k: int | None = 1,
        embeddings: bool = False,
        show_progress: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """`predict` for any number of texts: answers come in the order of the texts, while these are still read.

        Args:
            texts: As of `predict`.
            heads: None for every head, a name, or several.
            batch_size: Texts a batch. Up to 64 batches are read ahead, so that texts of like length share one (but the
                first answers come after one batch); with 1 each text is answered as it comes.
            top_k: How many labels of a text to answer: 1 the best, n a list of the n best, None a list of all.
            embeddings: Whether to answer `"embedding"`, too: what `encode` gives, as a list of numbers.
            show_progress: Whether to draw a progress bar.

        Raises:
            ValueError: As of `predict`; at once, but for what is wrong with a text.
        """
        check_texts(texts)
        names = self._select_heads(heads)
        if tied := [name for name in names if not self.heads[name].answers_texts]:
            raise ValueError(
                f"`heads` asks for {tied[0]!r}, which fills in masked tokens and says nothing about a text. Its logits"
                f" over the vocabulary come from the model itself: `model(**batch, heads={tied[0]!r})`."
            )
        if not names and not embeddings:
            silent = ", ".join(self.heads) if heads is None else ""
            only = f" (only {silent}, which says nothing about a text)" if silent else ""
            raise ValueError(f"the model has no heads to answer with{only}: `add_head` first.")
        if embeddings and EMBEDDING in names:
            raise ValueError(f"a head is called {EMBEDDING!r}, as `embeddings` are: leave it out of `heads`.")
        check_count("batch_size", batch_size)
        if top_k is not None:
            check_count("top_k", top_k)
        self._warn_untrained(names)
        if embeddings:
            pooling_of(self, None, None)  # or say at once that there is none without a head
        asked: list[str | None] = [*names, *([None] if embeddings else [])]
        bar = tqdm(total=len(texts) if isinstance(texts, Sized) else None, unit="text", disable=not show_progress)
        return answer_stream(self, texts, asked, batch_size=batch_size, top_k=top_k, bar=bar, report=self._warn_silent)

    def _warn_silent(self, names: list[str], reason: str) -> None:
        if set(names) - self._warned_silent:
            self._warned_silent.update(names)
            logger.warning("No answer from %s: %s.", ", ".join(names), reason)


# Every save then brings this file and those that it imports along, for `trust_remote_code` where we are not installed.
MultiTaskModel.register_for_auto_class("AutoModel")
