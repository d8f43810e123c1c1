"""The sections of a config as dataclasses: each field with its type, default and help text."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .values import key_of


def option(help: str, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field with a help text. Without a default it is required."""
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass(kw_only=True)
class Model:
    """`model:` the shared encoder: a pretrained one (`encoder`), or that of a saved multi-task model (`from`)."""

    encoder: str | None = option(
        "pretrained encoder: a Hub id, a local folder, or package:<python package>/<folder inside it>", None
    )
    from_: str | None = option(
        "multi-task model to start from, instead of `encoder`: the folder of a run, a checkpoint, or a Hub id such as"
        " me/model or me/model@revision",
        None,
    )
    keep: Literal["encoder", "matching"] | None = option(
        "what to load from `from`: encoder (only the encoder), or matching (also the heads with the name of a task)"
        " (default: matching)",
        None,
    )
    rename: dict[str, str] | None = option("heads of `from` to rename before matching: {old: new}", None)
    revision: str | None = option("branch, tag or commit of the encoder on the Hub", None)
    trust_remote_code: bool = option(
        "allow code from the encoder's repository (of its tokenizer) to run on this machine", False
    )
    pooling: str | None = option(
        "how sentence heads pool token states into one vector: mean, cls, max, mean_last_<n> (mean over the last n"
        " layers, then over tokens) or attention (weights learned per head) (default: mean, or as in `from`)",
        None,
    )
    max_length: int | None = option(
        "maximum number of tokens that the encoder reads at once; longer texts: see overflow (default: the encoder's"
        " limit, or as in `from`)",
        None,
    )
    overflow: Literal["truncate", "window"] | None = option(
        "texts longer than max_length. truncate: read only one end · window: read the whole text in overlapping windows"
        " (default: truncate, or as in `from`)",
        None,
    )
    stride: int | None = option(
        "overflow window only: how many tokens neighbouring windows share (default: a quarter of max_length)",
        None,
    )
    truncation_side: Literal["right", "left"] | None = option(
        "overflow truncate only: which end of a long text is cut; left keeps its end (default: as in the tokenizer,"
        " mostly right)",
        None,
    )
    add_tokens: list[str] = option(
        'tokens to add to the vocabulary, such as the markers of entities: ["[E1]", "[/E1]"]', []
    )
    dropout: float = option("dropout before the last layer of each new head: at least 0, below 1", 0.1)
    experts: dict[str, int] | None = option(
        "expert networks between encoder and heads, shared by all tasks and mixed by one gate per task:"
        " {num: 4, hidden: 512} (default: none, or as in `from`)",
        None,
    )
    attn_implementation: str | None = option("attention kernel: sdpa, eager, ... (default: transformers' choice)", None)
    pretrained: bool = option(
        "load the encoder's pretrained weights; false: initialize it at random from its configuration, whose sizes"
        " encoder_config may then change",
        True,
    )
    encoder_config: dict[str, Any] = option(
        "fields of the encoder's configuration to override, such as hidden_dropout_prob", {}
    )
    peft: dict[str, Any] | None = option(
        "freeze the encoder and train adapters: {type: LoraConfig (or another configuration class of peft, or"
        " BottleneckConfig), and its arguments}; per_task: true for one adapter per task instead of one for all",
        None,
    )

    @property
    def keeps_heads(self) -> bool:
        """Whether the heads of the model in `from` are loaded, too."""
        return self.from_ is not None and self.keep != "encoder"


@dataclass(kw_only=True)
class Source:
    """`sources.<name>:` one dataset and its text column. Other keys are passed to `datasets.load_dataset`."""

    path: str | None = option(
        "first argument of datasets.load_dataset: json, csv, parquet, conll, text, a Hub id or a folder", None
    )
    data_files: Any = option(
        "files per split: {train: ..., validation: ...}; may use ${name} and package:<python package>/<file>", None
    )
    text: str | list[str] = option(
        "text column: strings or lists of words; [first, second] for text pairs; [text, choices] for multiple choice"
    )
    group_by: str | list[str] | None = option(
        "for files with one word per row: the column with the number of the sentence, or several columns", None
    )
    batch_size: int | None = option(
        "global batch size, over all processes (default: per_device_train_batch_size x processes)", None
    )
    split: dict[str, Any] = option(
        "how to get a missing split. validation, test: a share of the training rows (0.1) or the dataset's name of the"
        " split (dev) · stratify: a label column · seed (default: 13)",
        {},
    )
    max_train_rows: int | None = option(
        "use at most N training rows; the sample is fixed, and smaller samples are subsets of larger ones", None
    )
    balance: str | None = option(
        "label column of a task with one label per row: each label gives the same number of rows per epoch", None
    )
    drop_bad_rows: bool = option(
        "drop rows without text, with tags that break the tag scheme, or spans outside of the text, instead of raising"
        " an error",
        False,
    )
    drop_leaked: bool = option(
        "drop training rows whose text is also in a validation or test split of any source", False
    )
    dataset: Any = option("a datasets.Dataset or DatasetDict, instead of path (Python only)", None)
    loader: dict[str, Any] = option("the source's other keys: arguments of datasets.load_dataset", {})


@dataclass(kw_only=True)
class Task:
    """`tasks.<name>:` one head: its type, source, label column, and metrics."""

    type: str = option(
        "sequence_classification, multi_label_classification, regression, token_classification, sentence_similarity,"
        " masked_lm, multiple_choice, extractive_qa, or a type that another package registers"
    )
    source: str | list[str] = option("source of the task's rows, or a list of sources")
    label: str | list[str] | None = option(
        "label column; none for task types that need no label, such as masked_lm; of multi_label_classification also a"
        " list of columns with 0 or 1 in each row, one per label",
        None,
    )
    spans: str | None = option(
        "for token_classification, instead of label: column with spans of characters (of words, if texts are lists of"
        " words) and their labels",
        None,
    )
    labels: list[str] | dict[str, str] | None = option(
        "label names in order, or a mapping {value in the column: name} (default: collected from the training rows)",
        None,
    )
    metrics: list[Any] = option(
        "built-in metrics, or metrics of the `evaluate` library (a name, path or Hub id, or {path: f1, average:"
        " macro}); the first is the primary metric (default: those of the task type)",
        [],
    )
    train: bool = option(
        "false: only evaluate this head of `from`, before and after training, without training it", True
    )
    loss_weight: float = option("the task's loss is multiplied by this", 1.0)
    score_weight: float | None = option(
        "weight of the primary metric in the score (default: 1; 0 if that metric is a loss, or with train: false)", None
    )
    learning_rate: float | None = option(
        "learning rate of this head (default: head_learning_rate, else learning_rate)", None
    )
    pooling: str | None = option("pooling of this head (default: model.pooling)", None)
    window_pooling: Literal["mean", "attention"] | None = option(
        "model.overflow window only: how the windows of a long text are pooled (default: mean)", None
    )
    dropout: float | None = option("dropout of this head (default: model.dropout; none for sentence_similarity)", None)
    label_smoothing: float | None = option("label smoothing of the loss: at least 0, below 1", None)
    layers: Literal["last", "mix"] | None = option(
        "what this head reads. last: the encoder's output (default) · mix: a learnt mix of all layers", None
    )
    options: Any = option("the task's other keys: those of its type (`tasks/<type>.py`)", {})

    @property
    def sources(self) -> list[str]:
        """The names of the task's sources, one or several."""
        return [self.source] if isinstance(self.source, str) else self.source

    @property
    def column(self) -> str | list[str] | None:
        """The column with its labels: `label`, or `spans`, which holds tags of words once it is loaded."""
        return self.label if self.spans is None else self.spans

    @property
    def label_columns(self) -> list[str]:
        """The names of the task's label columns: none, one or several."""
        return [] if not self.column else [self.column] if isinstance(self.column, str) else self.column

    @property
    def label_place(self) -> str:
        """The task's label columns, for messages."""
        columns = self.label_columns
        return f"the column{'s' if len(columns) > 1 else ''} {', '.join(map(repr, columns))}"


@dataclass(kw_only=True)
class Card:
    """`card:` metadata of the model card that the run cannot determine itself."""

    language: str | list[str] | None = option("language of the texts: an ISO 639 code such as en, or a list", None)
    license: str | None = option("licence of the model, by its name on the Hub, such as mit or cc-by-4.0", None)

    def __post_init__(self) -> None:
        languages = [self.language] if isinstance(self.language, str) else self.language or []
        for language in languages:
            if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|multilingual|code", language):
                raise ValueError(f"`card.language` is {language!r}; it should be an ISO 639 code, such as en.")
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license):
            raise ValueError(f"`card.license` is {self.license!r}; it should be a name of the Hub, such as mit.")


@dataclass(kw_only=True)
class Thawing:
    """`training.unfreeze:` when the parts in `freeze` are unfrozen during training."""

    schedule: Literal["gradual", "explicit"] = option(
        "gradual: unfreeze the frozen parts of the encoder one by one · explicit: unfreeze parts at the times in `at`",
        "gradual",
    )
    every: int | str | None = option(
        "gradual only: unfreeze the next part every N steps (300), or every N epochs (1 epoch)", None
    )
    from_: Literal["top"] = option(
        "gradual only: where to begin; top: from the last layer down to the embeddings", "top"
    )
    when: Literal["plateau"] | None = option(
        "gradual only: unfreeze the next part when the score stops improving (instead of `every`)", None
    )
    patience: int | None = option(
        "plateau only: evaluations without a better score before the next part is unfrozen (default: 2)", None
    )
    until: dict[str, float] = option(
        "plateau only: {task: target of its primary metric}; unfreezing stops once one evaluation meets all targets", {}
    )
    at: dict[str, int | str] = option(
        "explicit only: {part, named as in freeze: the step (300) or epoch (1.5 epochs) at which it is unfrozen}", {}
    )


@dataclass
class OurTraining:
    """The fields of `training:` that transformers' TrainingArguments does not have."""

    head_learning_rate: float | None = option("learning rate of heads and experts (default: learning_rate)", None)
    layerwise_lr_decay: float = option(
        "layer k of L (1 is nearest the input) has learning_rate x decay^(L-k), the embeddings x decay^L", 1.0
    )
    learning_rates: dict[str, float] = option(
        "learning rates by part, named as in freeze: {heads: 1e-3, encoder.layers.3-5: 1e-4, embeddings: 1e-5}; the"
        " most specific name applies, and overrides learning_rate, layerwise_lr_decay and head_learning_rate",
        {},
    )
    freeze: list[str] = option(
        "parts not to train: embeddings, encoder (all of it), encoder.layers.0-3 (counted from 0), encoder.top (what"
        " follows the layers), adapters, adapters.<task>, experts, heads, heads.<task>",
        [],
    )
    unfreeze: Thawing | None = option(
        "when to unfreeze parts in freeze: {schedule: gradual, every: 1 epoch}, {schedule: gradual, when: plateau,"
        " patience: 2, until: {<task>: 0.9}} or {schedule: explicit, at: {encoder.layers.4-5: 300}}",
        None,
    )
    frozen_cache: str | None = option(
        "cache the outputs of the frozen encoder layers on disk (at most this size: 4GB) instead of recomputing them"
        " every epoch (default: no cache)",
        None,
    )
    policy: Literal["round_robin", "proportional", "temperature", "fixed"] = option(
        "how batches are drawn from the sources. round_robin: sources alternate in YAML order · proportional: all"
        " batches of all sources, shuffled · temperature, fixed: same epoch length, sources sampled by"
        " sampling_temperature or sampling_probabilities",
        "round_robin",
    )
    sampling_temperature: float | dict[str, float] | None = option(
        "policy temperature only: sample sources in proportion to (number of batches)^(1/T), where 1 is proportional"
        " and .inf uniform; {from: 5, to: 1} changes T over the epochs, in equal steps of 1/T",
        None,
    )
    sampling_probabilities: dict[str, float] = option(
        "policy fixed only: share of each source in an epoch's batches, such as {ner: 0.7, sentiment: 0.3}", {}
    )
    examples_cap: int | None = option(
        "policies proportional and temperature only: count at most this many rows of a source when its share is"
        " computed (over the epochs, all of its rows are still used)",
        None,
    )
    stopping_rule: Literal["all_exhausted", "first_exhausted"] = option(
        "policy round_robin only: end an epoch with the longest source (all_exhausted; shorter ones start over) or with"
        " the shortest (first_exhausted)",
        "all_exhausted",
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = option(
        "precision of the forward pass; sets bf16, fp16 and use_cpu. auto: bf16 if the hardware supports it", "auto"
    )
    early_stopping_patience: int | None = option(
        "stop after this many evaluations without a better score (default: never)", None
    )
    keep_best_per_task: bool = option(
        "also keep the best checkpoint of each task, besides the one with the best score", False
    )
    loss_balancing: str | dict[str, Any] = option(
        "how task losses are weighted, on top of loss_weight: static (not at all), gradnorm, or a class of"
        " torchjd.scalarization such as UW; with options: {type: gradnorm, alpha: 1.5, learning_rate: 0.025}",
        "static",
    )
    gradient_aggregation: str | dict[str, Any] | None = option(
        "how the tasks' gradients of shared parameters are combined: a class of torchjd.aggregation such as UPGrad;"
        " with options: {type: CAGrad, c: 0.5}. Needs round_robin; a step is then one round (default: their sum)",
        None,
    )
    log_gradient_conflicts: int | None = option(
        "write the cosines of the tasks' gradients to gradient_conflicts.jsonl every N steps (default: never)",
        None,
    )


def describe(task_options: Mapping[str, Any]) -> str:
    """Every field with its default and help text, for `--help`.

    Args:
        task_options: Task type → the dataclass of its own keys.
    """
    lines = []
    for title, section in [
        ("model:", Model),
        ("sources.<name>:", Source),
        ("tasks.<name>:", Task),
        *((f"tasks.<name>: with type: {kind}", options) for kind, options in task_options.items()),
        ("training: (and every field of transformers.TrainingArguments)", OurTraining),
        ("training.unfreeze:", Thawing),
        ("card:", Card),
    ]:
        if fields := describe_fields(section):
            lines += [title, *fields]
    lines.append("anything else at the top level: a variable, used as ${name}")
    return "\n".join(lines)


def describe_fields(section: Any) -> list[str]:
    """One line per field of a dataclass, with its default and help text."""
    lines = []
    for item in dataclasses.fields(section):
        if item.name in ("loader", "options", "dataset"):
            continue
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            default = " (required)"
        elif item.default in (dataclasses.MISSING, None):
            default = ""
        else:
            default = f" [{item.default}]"
        lines.append(f"  {key_of(item)}: {item.metadata['help']}{default}")
    return lines
