"""`MultiTaskModel`: one pretrained encoder, any number of named heads, one pass for all of them.

Notable: the encoder is built from its configuration, never loaded inside `__init__` (transformers fills models on the
meta device), so `from_encoder` is the way in from a pretrained encoder; the encoder's own pooler is removed, since
heads pool for themselves; and a head that nobody has trained says so when it is asked.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.generic import ModelOutput
from transformers.utils.hub import resolve_revision

from .answers import answer
from .configuration_multitask import MultiTaskConfig
from .encoding import NO_TOKEN, PAIRED, WHERE, default_length, encode, load_tokenizer, longest_input, split_words
from .heads import build_head, by_row, check_head_name
from .pooling import check_pooling, last_layers, layers_read, make_pooling

logger = logging.getLogger(__name__)


@dataclass
class MultiTaskOutput(ModelOutput):
    """What `MultiTaskModel.forward` returns.

    Attributes:
        loss: Sum of `losses`, ().
        losses: Task → its loss: the mean over its labelled items, or their sum over `num_items[task]`, ().
        logits: Task → (B, num_labels), (B,) for regression, (B, T, num_labels) for token classification, (B, H) vectors
            of length 1 for sentence similarity, whose pairs are rows 2i and 2i + 1.
        hidden_states: The encoder's, when asked for with `output_hidden_states=True`.
        attentions: The encoder's, when asked for with `output_attentions=True`.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    logits: dict[str, Tensor] | None = None
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
        super().__init__(config)
        for pooling in (config.pooling, *(spec.get("pooling") for spec in (config.heads or {}).values())):
            check_pooling(pooling or config.pooling, self._num_layers)
        if encoder is None:
            encoder = AutoModel.from_config(config.text_config, attn_implementation=config.encoder_attn_implementation)
        # Not every encoder has a pooler, and those that do make it again at each load.
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None
        self.encoder = encoder
        self.heads = nn.ModuleDict(
            {name: build_head(config.hidden_size, config.pooling, spec) for name, spec in (config.heads or {}).items()}
        )
        self._tokenizer: PreTrainedTokenizerBase | None = None
        # Where it was loaded from: the name or path, and what `load_tokenizer` needs besides.
        self._origin: tuple[str, dict[str, Any]] | None = None
        self._warned_heads: set[str] = set()
        self.post_init()

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
        keep_heads: bool = False,
        **kwargs: Any,
    ) -> "MultiTaskModel":
        """A model without heads around a pretrained encoder, with its tokenizer, in evaluation mode.

        Args:
            name_or_path: Hub id or local folder of anything that `AutoModel` loads, or of a multi-task model, of which
                the encoder is taken.
            pooling: `mean`, `cls`, `max`, `mean_last_<n>` or `attention`; heads may choose their own. By default that
                of a multi-task model, else `mean`.
            max_length: Longest input in tokens; by default that of a multi-task model, what a sentence encoder was made
                for, else the most that encoder and tokenizer can take.
            attn_implementation: `sdpa`, `eager`, ...; by default transformers' own choice.
            encoder_config: Fields of the encoder's configuration to change, such as `hidden_dropout_prob`.
            keep_heads: Of a multi-task model, keep the heads too, as `from_pretrained` does.
            **kwargs: Handed to both `from_pretrained` (`revision`, `token`, `trust_remote_code`, ...).

        Raises:
            ValueError: `max_length` beyond what the encoder can take, an unknown `pooling` or field of the encoder's
                configuration, a tokenizer without padding, an encoder that runs code of its own, no encoder at all, or
                `keep_heads` of what is no multi-task model.
        """
        name = os.fspath(name_or_path)
        found, _ = PreTrainedConfig.get_config_dict(name, **{key: kwargs[key] for key in WHERE if key in kwargs})
        if found.get("model_type") == MultiTaskConfig.model_type:
            return cls._from_own(name, pooling, max_length, attn_implementation, encoder_config, keep_heads, kwargs)
        if keep_heads:
            raise ValueError(f"{name!r} is no multi-task model: it has no heads to keep.")
        tokenizer = load_tokenizer(name, **kwargs)
        if tokenizer.pad_token_id is None:
            raise ValueError(f"the tokenizer of {name!r} has no padding token, so it cannot make batches.")
        _check_fields(encoder_config, AutoConfig.from_pretrained(name, **kwargs))
        # float32 in spite of what the checkpoint is in: half-precision weights do not take small updates.
        encoder = AutoModel.from_pretrained(
            name, dtype=torch.float32, attn_implementation=attn_implementation, **(encoder_config or {}), **kwargs
        )
        if type(encoder).__module__.startswith("transformers_modules."):
            raise ValueError(
                f"{name!r} runs code of its own ({type(encoder).__name__}), which a saved model would not have: choose"
                " an encoder that transformers knows."
            )
        limit = _check_length(name, max_length, tokenizer, encoder.config)
        text_config = encoder.config.to_dict()
        if os.path.isdir(name):
            text_config.pop("_name_or_path", None)  # a path of this machine says nothing to those who load the model
        config = MultiTaskConfig(
            text_config=text_config,
            pooling=pooling or "mean",
            max_length=max_length or default_length(name, limit, **kwargs),
            encoder_attn_implementation=encoder.config._attn_implementation,
        )
        model = cls(config, encoder=encoder)
        model._tokenizer, model._origin = tokenizer, (name, kwargs)
        return model.eval()  # as `from_pretrained` does

    @classmethod
    def _from_own(
        cls,
        name: str,
        pooling: str | None,
        max_length: int | None,
        attn_implementation: str | None,
        encoder_config: dict[str, Any] | None,
        keep_heads: bool,
        kwargs: dict[str, Any],
    ) -> "MultiTaskModel":
        """`from_encoder` of a multi-task model."""
        config = MultiTaskConfig.from_pretrained(name, **{key: kwargs[key] for key in WHERE if key in kwargs})
        _check_fields(encoder_config, config.text_config)
        for field, value in (encoder_config or {}).items():
            setattr(config.text_config, field, value)
        config.pooling = pooling or config.pooling
        config.encoder_attn_implementation = attn_implementation or config.encoder_attn_implementation
        model: MultiTaskModel = cls.from_pretrained(name, config=config, dtype=torch.float32, **kwargs)
        _check_length(name, max_length, model.tokenizer, config.text_config)
        model.config.max_length = max_length or config.max_length
        for head in [] if keep_heads else list(model.heads):
            model.remove_head(head)
        return model

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
            **options: Of the head's class: `pooling`, `dropout`, `label_smoothing`, `loss`, ...

        Raises:
            ValueError: The name is taken or cannot be one; unknown type or option; labels missing.
        """
        check_head_name(name)
        if name in self.heads:
            raise ValueError(f"there is a head {name!r} already.")
        own_form = {"token_classification": "words", "sentence_similarity": "apart"}
        spec: dict[str, Any] = {"type": type, "text": own_form.get(type, text)}
        if labels is not None:
            spec["labels"] = list(labels)
        spec |= {key: value for key, value in options.items() if value is not None}
        spec["num_steps"] = 0
        check_pooling(spec.get("pooling", self.config.pooling), self._num_layers)
        head = build_head(self.config.hidden_size, self.config.pooling, spec)
        first_of_words = not any(other["text"] == "words" for other in self.config.heads.values())
        if spec["text"] == "words" and first_of_words and self._origin is not None:
            self._tokenizer = load_tokenizer(self._origin[0], words=True, **self._origin[1])
        head.apply(self._init_weights)
        self.heads[name] = head.to(self.device, self.dtype).train(self.training)
        self.config.heads[name] = spec
        return head

    def remove_head(self, name: str) -> nn.Module:
        """Remove a head and return it.

        Raises:
            ValueError: There is no such head.
        """
        self._check_head(name)
        head = self.heads.pop(name)
        del self.config.heads[name]
        self._warned_heads.discard(name)
        return head

    def rename_head(self, old: str, new: str) -> None:
        """Call a head otherwise; it keeps its weights, its place among the heads and what it was trained for.

        Raises:
            ValueError: There is no head `old`, `new` is taken, or it cannot be a head's name.
        """
        self._check_head(old)
        check_head_name(new)
        if new in self.heads:
            raise ValueError(f"there is a head {new!r} already.")
        self.heads = nn.ModuleDict({new if name == old else name: head for name, head in self.heads.items()})
        self.config.heads = {new if name == old else name: spec for name, spec in self.config.heads.items()}
        self._warned_heads.discard(old)

    def _check_head(self, name: str) -> None:
        if name not in self.heads:
            raise ValueError(f"there is no head {name!r}; the model has {', '.join(self.heads) or 'none'}.")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """As transformers', for a saved model; its tokenizer will come from the same place, at the same commit."""
        name = pretrained_model_name_or_path
        access = {key: kwargs[key] for key in ("token", "local_files_only", "cache_dir") if key in kwargs}
        kwargs["revision"] = resolve_revision(name, kwargs.get("revision"), **access)
        loaded: Any = super().from_pretrained(name, *model_args, **kwargs)
        model = loaded[0] if kwargs.get("output_loading_info") else loaded
        # A file's tensors lie at multiples of 8 bytes; some CPUs round a product with one output otherwise there.
        for parameter in model.heads.parameters():
            parameter.data = parameter.data.clone()
        if name is not None:
            # With the configuration at hand `AutoTokenizer` need not find out what kind of model this is, which it
            # could only by running the repository's code.
            where = {key: kwargs[key] for key in WHERE if key in kwargs}
            model._origin = os.fspath(name), where | {"config": model.config}
        return loaded

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
        # Some encoders would be written by other names than they have in memory, by which a resumed run looks for them.
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, **kwargs)
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
        **kwargs: Any,
    ) -> MultiTaskOutput:
        """One pass through the encoder, then every head or those asked for.

        Args:
            input_ids: Token ids, (B, T).
            attention_mask: 1 for real tokens, 0 for padding on the right, (B, T); all real by default.
            token_type_ids: Segment of each token, (B, T), for encoders that read it.
            labels: Task → labels in the form that its head documents. Only heads that run can have a loss.
            heads: None for every head, a name, or several. A head that is not asked for is not run at all.
            num_items: Task → what to divide the sum of its loss by; by default the batch's number of labelled items.
            **kwargs: Handed to the encoder (`inputs_embeds`, `output_hidden_states`, ...).

        Raises:
            ValueError: A head or a label of a task that the model does not have.
        """
        names = self._select_heads(heads)
        labels = labels or {}
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
        if any(self._layers_read(name) > 1 for name in names):
            kwargs["output_hidden_states"] = True
        encoded = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **kwargs)

        logits: dict[str, Tensor] = {}
        losses: dict[str, Tensor] = {}
        for name in names:
            head: Any = self.heads[name]
            states = last_layers(encoded.last_hidden_state, encoded.get("hidden_states"), self._layers_read(name))
            logits[name] = head(states, attention_mask)
            if name in labels:
                total, own_items = head.loss(logits[name], labels[name])
                losses[name] = total / (own_items.clamp(min=1) if num_items is None else num_items[name])
        return MultiTaskOutput(
            loss=torch.stack(list(losses.values())).sum() if losses else None,
            losses=losses or None,
            logits=logits,
            hidden_states=encoded.get("hidden_states") if asked else None,
            attentions=encoded.get("attentions"),
        )

    def _select_heads(self, heads: str | Iterable[str] | None) -> list[str]:
        if heads is None:
            return list(self.heads)
        names = [heads] if isinstance(heads, str) else list(heads)
        if unknown := [name for name in names if name not in self.heads]:
            raise ValueError(f"`heads` asks for {unknown}; the model has {list(self.heads)}.")
        return names

    @property
    def _num_layers(self) -> int | None:
        return getattr(self.config.text_config, "num_hidden_layers", None)

    def _layers_read(self, name: str) -> int:
        """How many of the encoder's last layers a head reads."""
        return getattr(self.heads[name], "num_layers", 1)

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
    ) -> Tensor:
        """Sentence embeddings.

        Args:
            texts: A string, or a sequence of strings (or of pairs, as tuples).
            batch_size: Texts a batch; texts of like length share one.
            normalize: Whether to scale each embedding to length 1.
            pooling: Instead of the model's own; not `attention`, whose weights belong to a head.
            head: The head whose pooling to use, which may be `attention`.
            show_progress: Whether to draw a progress bar.

        Returns:
            (num_texts, hidden_size) float32 on the CPU in the order of `texts`; (hidden_size,) for a single string.

        Raises:
            ValueError: An unknown pooling or head, both of them, a head that does not pool, attention without a head.
        """
        pool, num_layers = self._pooling(pooling, head)
        several = [texts] if isinstance(texts, str) else list(texts)
        result = torch.empty(len(several), self.config.hidden_size)
        form = "pair" if several and isinstance(several[0], tuple) else "string"
        with self._evaluating():
            for rows, batch, _ in self._batches(several, form, batch_size, show_progress):
                encoded = self.encoder(**batch, return_dict=True, output_hidden_states=num_layers > 1)
                states = last_layers(encoded.last_hidden_state, encoded.get("hidden_states"), num_layers)
                result[rows] = pool(states, batch["attention_mask"]).float().cpu()
        if normalize:
            result = nn.functional.normalize(result, dim=-1)
        return result[0] if isinstance(texts, str) else result

    def _pooling(self, pooling: str | None, head: str | None) -> tuple[Callable[[Tensor, Tensor], Tensor], int]:
        """What `encode` pools by, and how many of the last layers that reads."""
        if head is not None:
            if pooling is not None:
                raise ValueError(f"`pooling` is {pooling!r} and `head` {head!r}: a head pools by its own; give one.")
            self._select_heads(head)
            own: Any = self.heads[head]
            if not hasattr(own, "pool"):
                raise ValueError(f"`head` is {head!r}, a {self.config.heads[head]['type']} head, which does not pool.")
            self._warn_untrained([head] if isinstance(own.pool, nn.Module) else [])
            return own.pool, self._layers_read(head)
        name = check_pooling(pooling or self.config.pooling, self._num_layers)
        if name == "attention":
            able = [task for task, found in self.heads.items() if isinstance(getattr(found, "pool", None), nn.Module)]
            raise ValueError(
                "`pooling` is 'attention', whose weights belong to a head: name one with `head`"
                f" ({', '.join(able) or 'the model has none that pools so'}), or another pooling."
            )
        return make_pooling(name, self.config.hidden_size), layers_read(name)

    @torch.no_grad()
    def predict(
        self,
        texts: Sequence[Any],
        *,
        heads: str | Iterable[str] | None = None,
        batch_size: int = 32,
        show_progress: bool = False,
    ) -> list[dict[str, Any]]:
        """Answers of every head, or of those asked for, to raw texts: one encoder pass a way of reading the text.

        Heads read a text as they were trained to: whole, or split into words (which for most tokenizers gives the same
        tokens, and then the same pass serves both).

        Args:
            texts: Strings, lists of words, or tuples of two strings (pairs).
            heads: None for every head, a name, or several.
            batch_size: Texts a batch; texts of like length share one.
            show_progress: Whether to draw a progress bar.

        Returns:
            For each text, task → answer, as `answers.answer` describes. Heads for pairs answer only pairs, and only
            they do.

        Raises:
            ValueError: A single string, or a head that the model does not have.
        """
        if isinstance(texts, str):
            raise ValueError("`texts` is a single string; give a list of texts, such as [text].")
        names = self._select_heads(heads)
        self._warn_untrained(names)
        texts = list(texts)
        results: list[dict[str, Any]] = [{} for _ in texts]
        if not names:
            raise ValueError("the model has no heads to answer with: `add_head` first.")
        pairs = [index for index, text in enumerate(texts) if isinstance(text, tuple)]
        singles = [index for index, text in enumerate(texts) if not isinstance(text, tuple)]
        by_form: dict[str, list[str]] = {}
        for name in names:
            by_form.setdefault(self.config.heads[name]["text"], []).append(name)
        unasked = [name for form in PAIRED for name in by_form.get(form, [])] if not pairs else []
        if pairs and not singles:
            unasked = [name for name in names if self.config.heads[name]["text"] not in PAIRED]
        if texts and unasked:
            reason = "their texts are no pairs" if pairs else "their texts are pairs, given as tuples"
            logger.warning("No answer from %s: %s.", ", ".join(unasked), reason)
        for form in [form for form in PAIRED if pairs and form in by_form]:
            self._answer([texts[i] for i in pairs], pairs, form, by_form[form], results, batch_size, show_progress)
        forms = [form for form in ("words", "string") if form in by_form]
        if singles and forms:
            if len(forms) == 2 and self._same_tokens([texts[i] for i in singles]):
                by_form["words"] = [name for name in names if self.config.heads[name]["text"] not in PAIRED]
                forms = ["words"]
            for form in forms:
                chosen = [texts[i] for i in singles]
                self._answer(chosen, singles, form, by_form[form], results, batch_size, show_progress)
        return [{name: result[name] for name in names if name in result} for result in results]

    def _answer(
        self,
        texts: list[Any],
        rows: list[int],
        form: str,
        names: list[str],
        results: list[dict[str, Any]],
        batch_size: int,
        show_progress: bool,
    ) -> None:
        """Write the answers of heads `names` to `texts`, rows `rows` of `results`."""
        for chosen, batch, starts in self._batches(texts, form, batch_size, show_progress):
            with self._evaluating():
                found_logits = self(**batch, heads=names).logits
                head_logits = {name: by_row(self.heads[name], found_logits[name]) for name in names}
            for name in names:
                spec = self.config.heads[name]
                logits = head_logits[name].float().cpu().numpy()
                for position, row in enumerate(chosen):
                    if spec["type"] != "token_classification":
                        results[rows[row]][name] = answer(spec, logits[position])
                        continue
                    text, spans = _words_of(texts[row])
                    by_word = np.full((len(spans), logits.shape[-1]), np.nan, dtype=np.float32)
                    found = np.asarray(starts[position], dtype=int)
                    by_word[found != NO_TOKEN] = logits[position, found[found != NO_TOKEN]]
                    results[rows[row]][name] = answer(spec, by_word, text, spans)

    def _same_tokens(self, texts: list[Any]) -> bool:
        """Whether reading these texts whole or word by word gives the same tokens."""
        limit = self.config.max_length
        words = encode(self.tokenizer, [_word_list(text) for text in texts], form="words", max_length=limit)
        whole = encode(self.tokenizer, [_words_of(text)[0] for text in texts], form="string", max_length=limit)
        return words["input_ids"] == whole["input_ids"]

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Dropout off; afterwards every module is in the mode it was in (frozen parts may differ from the rest)."""
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True

    def _batches(self, texts: list[Any], form: str, batch_size: int, show_progress: bool) -> Iterable[Any]:
        """Yield (row numbers, padded batch on the model's device, word starts), longest texts first."""
        if form == "words":
            texts = [_word_list(text) for text in texts]
        elif form == "string":
            texts = [_words_of(text)[0] for text in texts]
        encoded = encode(self.tokenizer, texts, form=form, max_length=self.config.max_length) if texts else {}
        starts = encoded.pop("word_starts", None)
        second = encoded.pop("second", None)
        encoded.pop("cut", None)
        order = sorted(range(len(texts)), key=lambda row: -len(encoded["input_ids"][row]))
        progress = None
        if show_progress:
            from tqdm.auto import tqdm

            progress = tqdm(total=len(texts), unit="text")
        for begin in range(0, len(order), batch_size):
            rows = order[begin : begin + batch_size]
            columns = {key: [column[row] for row in rows] for key, column in encoded.items()}
            if second is not None:  # the two texts of a row as two rows of the batch
                begins = [second[row] for row in rows]
                columns = {
                    key: [part for ids, at in zip(column, begins, strict=True) for part in (ids[:at], ids[at:])]
                    for key, column in columns.items()
                }
            padded = self.tokenizer.pad(
                columns,
                return_tensors="pt",
                padding_side="right",
            )
            batch = {key: value.to(self.device) for key, value in padded.items()}
            yield rows, batch, None if starts is None else [starts[row] for row in rows]
            if progress is not None:
                progress.update(len(rows))
        if progress is not None:
            progress.close()


def _check_fields(changes: dict[str, Any] | None, encoder_config: Any) -> None:
    if unknown := [field for field in changes or {} if not hasattr(encoder_config, field)]:
        raise ValueError(f"`encoder_config`: {unknown[0]!r} is no field of {type(encoder_config).__name__}.")


def _check_length(name: str, max_length: int | None, tokenizer: PreTrainedTokenizerBase, encoder_config: Any) -> int:
    """The most tokens that encoder and tokenizer can take, which `max_length` may not exceed."""
    limit = longest_input(tokenizer, encoder_config)
    if max_length is not None and not 3 <= max_length <= limit:
        raise ValueError(f"`max_length` is {max_length}; {name!r} takes 3 to {limit} tokens.")
    return limit


def _words_of(text: str | Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """A text (string or list of words) as a string, with the character span of each of its words."""
    if isinstance(text, str):
        return text, split_words(text)
    spans, position = [], 0
    for word in text:
        spans.append((position, position + len(word)))
        position += len(word) + 1
    return " ".join(text), spans


def _word_list(text: str | Sequence[str]) -> list[str]:
    whole, spans = _words_of(text)
    return [whole[start:end] for start, end in spans]


# Every save then brings this file and those that it imports along, for `trust_remote_code` where we are not installed.
MultiTaskModel.register_for_auto_class("AutoModel")
