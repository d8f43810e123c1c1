"""The sections of a config as dataclasses: every field of ours with its type, default and meaning."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .values import key_of


def option(help: str, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field with its help text; required where no default is given."""
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass(kw_only=True)
class Model:
    """`model:` the shared encoder and what every head starts from: an `encoder`, or `from` a model of ours."""

    encoder: str | None = option(
        "pretrained encoder: a Hub id, a local folder, or package:<python package>/<folder inside it>", None
    )
    from_: str | None = option(
        "instead of `encoder`, a multi-task model to go on from: a run's folder, one of its checkpoints, or a Hub id"
        " such as me/model or me/model@revision",
        None,
    )
    keep: Literal["encoder", "matching"] | None = option(
        "of the model in `from`: its encoder alone, or also the heads of the config's tasks (default: matching)", None
    )
    rename: dict[str, str] | None = option(
        "heads of the model in `from` to call otherwise before they are matched: {old: new}", None
    )
    revision: str | None = option("branch, tag or commit of the encoder on the Hub", None)
    trust_remote_code: bool = option(
        "allow code of the encoder's repository (its tokenizer's) to run on this machine", False
    )
    pooling: str | None = option(
        "how token states become one vector for sentence heads: mean, cls, max, mean_last_<n> (over the last n layers,"
        " then over tokens) or attention (learned weights, each head its own) (default: mean, or that of the model in"
        " `from`)",
        None,
    )
    max_length: int | None = option(
        "longest input in tokens; longer ones are cut (default: the encoder's limit, or that of the model in `from`)",
        None,
    )
    dropout: float = option("dropout before the last layer of each new head, 0 to 1", 0.1)
    experts: dict[str, int] | None = option(
        "networks between encoder and heads that all tasks share, which a gate mixes for each: {num: 4, hidden: 512}"
        " (default: none, or those of the model in `from`)",
        None,
    )
    attn_implementation: str | None = option("attention kernel: sdpa, eager, ... (default: transformers' choice)", None)
    pretrained: bool = option(
        "whether the encoder starts with its weights; with false only with its configuration and tokenizer, so that"
        " encoder_config may give it other sizes",
        True,
    )
    encoder_config: dict[str, Any] = option(
        "fields of the encoder's configuration to change, such as hidden_dropout_prob", {}
    )
    peft: dict[str, Any] | None = option(
        "freeze the encoder and train adapters in it: {type: a configuration class of peft such as LoraConfig, or"
        " BottleneckConfig, and its arguments}; per_task: true for one a task instead of one for all",
        None,
    )

    @property
    def keeps_heads(self) -> bool:
        """Whether heads of the model in `from` are kept."""
        return self.from_ is not None and self.keep != "encoder"


@dataclass(kw_only=True)
class Source:
    """`sources.<name>:` one dataset and the text of it that the encoder reads. All other keys go to the loader."""

    path: str | None = option(
        "what datasets.load_dataset loads: json, csv, parquet, conll, text, a Hub id or a folder", None
    )
    data_files: Any = option("files of each split; ${name} and package:<python package>/<file> are filled in", None)
    text: str | list[str] = option(
        "column with the text: strings or lists of words; [first, second] for pairs; [text, choices] for choices"
    )
    batch_size: int | None = option(
        "rows of the global batch, over all processes (default: per_device_train_batch_size x processes)", None
    )
    split: dict[str, Any] = option(
        "validation / test: a share of the training rows to carve off (0.1), or the name of the dataset's split (dev);"
        " stratify: a label column; seed: 13",
        {},
    )
    max_train_rows: int | None = option(
        "train on so many rows at most: the same ones in every run, and those of a smaller number are among them", None
    )
    drop_bad_rows: bool = option(
        "drop rows without text, or with tags that do not fit the scheme of the others, instead of stopping", False
    )
    drop_leaked: bool = option(
        "drop training rows whose text is in the validation or test split of any source of the run", False
    )
    dataset: Any = option("a datasets.Dataset or DatasetDict handed over in Python, instead of path", None)
    loader: dict[str, Any] = option("filled from the source's other keys: arguments of datasets.load_dataset", {})


@dataclass(kw_only=True)
class Task:
    """`tasks.<name>:` one head: what it learns, from which column, and how it is scored."""

    type: str = option(
        "sequence_classification, multi_label_classification, regression, token_classification, sentence_similarity,"
        " masked_lm, or a type that another package registers"
    )
    source: str | list[str] = option("the source, or several, whose rows it reads")
    label: str | None = option("the label column; none where the task type makes its labels itself", None)
    labels: list[str] | dict[str, str] | None = option(
        "the labels in order, or a map from what the column holds to their names (default: from the training rows)",
        None,
    )
    metrics: list[Any] = option(
        "names of our metrics, or of any of `evaluate` (a name, path or Hub id, or {path: f1, average: macro});"
        " the first is the primary one",
        [],
    )
    train: bool = option(
        "false: a head of the model in `from` that stays as it is and is only scored, before training and after", True
    )
    loss_weight: float = option("factor of the task's loss", 1.0)
    score_weight: float | None = option(
        "weight of the primary metric in the score (default: 1; 0 for a loss, and for a task that is only scored)", None
    )
    learning_rate: float | None = option("of this head (default: head_learning_rate, else learning_rate)", None)
    pooling: str | None = option("instead of the model's", None)
    dropout: float | None = option("instead of the model's (of sentence_similarity: instead of none)", None)
    label_smoothing: float | None = option("share of each label spread over all labels, 0 to 1", None)
    options: Any = option("filled from the task's other keys: those of its type (`tasks/<type>.py`)", {})

    @property
    def sources(self) -> list[str]:
        """The names of its sources, one or several."""
        return [self.source] if isinstance(self.source, str) else self.source


@dataclass(kw_only=True)
class Card:
    """`card:` metadata of the model card that a run cannot find out."""

    language: str | list[str] | None = option("language of the texts as an ISO 639 code (en), or several", None)
    license: str | None = option("the model's licence, by the Hub's name of it, such as mit or cc-by-4.0", None)

    def __post_init__(self) -> None:
        languages = [self.language] if isinstance(self.language, str) else self.language or []
        for language in languages:
            if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|multilingual|code", language):
                raise ValueError(f"`card.language` is {language!r}; it is an ISO 639 code, such as en.")
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license):
            raise ValueError(f"`card.license` is {self.license!r}; it is the Hub's name of a licence, such as mit.")


@dataclass(kw_only=True)
class Thawing:
    """`training.unfreeze:` when parts that `freeze` names are trained after all."""

    schedule: Literal["gradual", "explicit"] = option(
        "gradual: the frozen parts of the encoder, one after the other; explicit: as `at` says", "gradual"
    )
    every: int | str | None = option(
        "of gradual: open one more after so many steps each, or after each `1 epoch`", None
    )
    from_: Literal["top"] = option(
        "of gradual: where to begin; top: with the uppermost layer, down to the embeddings", "top"
    )
    when: Literal["plateau"] | None = option(
        "of gradual, instead of every: open one more whenever evaluations find no better score", None
    )
    patience: int | None = option("of plateau: evaluations without a better score before one opens (default: 2)", None)
    until: dict[str, float] = option(
        "of plateau: task -> what its first metric should reach; once all have at one evaluation, no more opens", {}
    )
    at: dict[str, int | str] = option(
        "of explicit: part, named as in freeze -> steps (300), or epochs (1.5 epochs), after which it opens", {}
    )


@dataclass
class OurTraining:
    """The fields of `training:` that transformers' TrainingArguments does not have."""

    head_learning_rate: float | None = option("learning rate of heads and experts (default: learning_rate)", None)
    layerwise_lr_decay: float = option(
        "layer k of L (1 is nearest the input) trains at learning_rate x decay^(L-k), the embeddings at x decay^L", 1.0
    )
    learning_rates: dict[str, float] = option(
        "explicit rates, named as in freeze, as {heads: 1e-3, encoder.layers.3-5: 1e-4, embeddings: 1e-5}: the closest"
        " name counts, and comes before learning_rate, its decay and head_learning_rate",
        {},
    )
    freeze: list[str] = option(
        "parts that stay as they are: embeddings, encoder (all of it), encoder.layers.0-3 (counted from 0), encoder.top"
        " (what follows the layers), adapters, adapters.<task>, experts, heads, heads.<task>",
        [],
    )
    unfreeze: Thawing | None = option(
        "when frozen parts are trained after all: {schedule: gradual, every: 1 epoch}, {schedule: gradual, when:"
        " plateau, patience: 2, until: {<task>: 0.9}} or {schedule: explicit, at: {encoder.layers.4-5: 300}}",
        None,
    )
    frozen_cache: str | None = option(
        "compute what the frozen layers of the encoder say of training and validation rows once, and keep it in a file"
        " of at most this size (4GB) among cached data sets (default: compute it at every pass)",
        None,
    )
    policy: Literal["round_robin", "proportional", "temperature", "fixed"] = option(
        "how sources take turns: whole rounds in the order of the YAML; every batch of every source once, shuffled; or"
        " as many batches, of which each source has a share by sampling_temperature, or by sampling_probabilities",
        "round_robin",
    )
    sampling_temperature: float | dict[str, float] | None = option(
        "of policy temperature: shares in proportion to (number of batches)^(1/T): 1 is proportional, .inf equal; or"
        " {from: 5, to: 1}, from the first epoch to the last in equal steps of 1/T",
        None,
    )
    sampling_probabilities: dict[str, float] = option(
        "of policy fixed: the share of each source in an epoch's batches, as in {ner: 0.7, sentiment: 0.3}", {}
    )
    examples_cap: int | None = option(
        "of policies proportional and temperature: shares are computed as if no source had more rows than this (all of"
        " them are still shown in turn)",
        None,
    )
    stopping_rule: Literal["all_exhausted", "first_exhausted"] = option(
        "when an epoch of round_robin ends: with the longest source (shorter ones start over) or with the shortest",
        "all_exhausted",
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = option(
        "arithmetic of the forward pass; sets bf16, fp16 and use_cpu. auto: bf16 where the hardware has it", "auto"
    )
    early_stopping_patience: int | None = option(
        "stop after so many evaluations without a better score (default: never)", None
    )
    keep_best_per_task: bool = option("keep the best checkpoint of each task besides that with the best score", False)
    loss_balancing: str | dict[str, Any] = option(
        "what losses are multiplied by besides loss_weight: static (nothing), gradnorm, or a class of"
        " torchjd.scalarization such as UW; with options {type: gradnorm, alpha: 1.5, learning_rate: 0.025}",
        "static",
    )
    gradient_aggregation: str | dict[str, Any] | None = option(
        "a class of torchjd.aggregation such as UPGrad, by which the tasks' gradients of what they share are combined"
        " (with options {type: CAGrad, c: 0.5}); a step is then one round of round_robin (default: they are added up)",
        None,
    )
    log_gradient_conflicts: int | None = option(
        "steps from one line of gradient_conflicts.jsonl to the next: how the tasks' gradients meet (default: none)",
        None,
    )


def describe(task_options: Mapping[str, Any]) -> str:
    """Every field of ours with its default and meaning, for `--help`.

    Args:
        task_options: Task type → the dataclass of the keys that only it has.
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
    """A line for each field of a dataclass, with its default and meaning."""
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
