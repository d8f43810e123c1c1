"""One YAML → typed dataclasses, and back. One pure file: no torch, no transformers, only PyYAML.

Notable: plain YAML scalars are kept as text until the type of their field is known, so `no`, `on`, `012` and `5e-5`
mean what the field says they mean (YAML 1.1 would read false, true, 10 and a string). Duplicate and unknown keys are
errors that name the nearest known one. Every top-level scalar that is not a section is a variable, used as `${name}`.
`training:` stays a mapping here; `training/arguments.py`, which knows every field of transformers' arguments, types it
with the functions of this file.
"""

import dataclasses
import difflib
import enum
import importlib.util
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml


def option(help: str, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field with its help text; required where no default is given."""
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


# ---- the sections ----


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
    text: str | list[str] = option("column with the text: strings or lists of words; or [first, second] for pairs")
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
    drop_bad_rows: bool = option("drop rows without text (and say so) instead of stopping", False)
    drop_leaked: bool = option(
        "drop training rows whose text is in the validation or test split of any source of the run", False
    )
    dataset: Any = option("a datasets.Dataset or DatasetDict handed over in Python, instead of path", None)
    loader: dict[str, Any] = option("filled from the source's other keys: arguments of datasets.load_dataset", {})


@dataclass(kw_only=True)
class Task:
    """`tasks.<name>:` one head: what it learns, from which column, and how it is scored."""

    type: str = option(
        "sequence_classification, multi_label_classification, regression, token_classification, sentence_similarity or"
        " masked_lm"
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
    bio: Literal["repair", "refuse"] = option("what to do with an I- tag that continues nothing", "repair")
    loss: Literal["cosine", "ranking"] | None = option(
        "of sentence_similarity: squared error of the cosine against a score, or (without a label column) cross-entropy"
        " of each first text's own second text among those of the batch (default: cosine)",
        None,
    )
    score_range: list[float] | None = option(
        "of sentence_similarity: the least and the greatest score there can be, which are read as 0 and 1"
        " (default: [0, 1])",
        None,
    )
    temperature: float | None = option("of loss ranking: what cosines are divided by (default: 0.05)", None)
    mlm_probability: float | None = option("of masked_lm: share of the tokens that are masked (default: 0.15)", None)
    whole_word_mask: bool | None = option("of masked_lm: mask all tokens of a word together (default: false)", None)

    @property
    def sources(self) -> list[str]:
        """The names of its sources, one or several."""
        return [self.source] if isinstance(self.source, str) else self.source


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

    head_learning_rate: float | None = option("learning rate of the heads (default: learning_rate)", None)
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


_POOLING = "mean|cls|max|attention|mean_last_([2-9]|[1-9][0-9]+)"  # as `modeling/pooling.py`, which needs torch


@dataclass(kw_only=True)
class RunConfig:
    """One run: the whole YAML."""

    model: Model
    sources: dict[str, Source]
    tasks: dict[str, Task]
    training: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)
    # As it was written, overrides applied and variables not filled in, so that a saved run can be given others.
    template: dict[str, Any] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in self.sources:
            check_name("source", name)
        for name, task in self.tasks.items():
            check_name("task", name)
            if not task.sources:
                raise ValueError(f"`tasks.{name}.source` is empty; it names a source, or several.")
            if task.loss_weight <= 0:
                raise ValueError(
                    f"`tasks.{name}.loss_weight` is {task.loss_weight}; it is above 0 (or leave the task out)."
                )
            if task.score_weight is not None and task.score_weight < 0:
                raise ValueError(f"`tasks.{name}.score_weight` is {task.score_weight}; it is at least 0.")
            for source in task.sources:
                if source not in self.sources:
                    raise ValueError(
                        f"`tasks.{name}.source` is {source!r}, which is not a source."
                        f"{nearest(source, self.sources)} The sources are: {', '.join(self.sources) or 'none'}."
                    )
        if not self.tasks:
            raise ValueError("`tasks` is empty: name at least one task.")
        _check_start(self.model, self.tasks)
        for name in self.sources:
            if not any(name in task.sources for task in self.tasks.values()):
                raise ValueError(f"`sources.{name}` is read by no task: use it or remove it.")
        for name, spec in self.sources.items():
            if spec.batch_size is not None and spec.batch_size < 1:
                raise ValueError(f"`sources.{name}.batch_size` is {spec.batch_size}; it is at least 1.")
            if spec.max_train_rows is not None and spec.max_train_rows < 1:
                raise ValueError(f"`sources.{name}.max_train_rows` is {spec.max_train_rows}; it is at least 1.")
        if self.model.experts is not None:
            _check_experts(self.model.experts)
        for path, pooling in [
            ("model.pooling", self.model.pooling),
            *((f"tasks.{name}.pooling", task.pooling) for name, task in self.tasks.items()),
        ]:
            if pooling is not None and not re.fullmatch(_POOLING, pooling):
                hint = nearest(pooling, ("mean", "attention", "mean_last_2"))
                raise ValueError(
                    f"`{path}` is {pooling!r}.{hint} Valid are mean, cls, max, attention, and mean_last_<n> with n at"
                    " least 2."
                )
        for path, value in [
            ("model.dropout", self.model.dropout),
            *((f"tasks.{name}.{key}", getattr(task, key)) for name, task in self.tasks.items()
              for key in ("dropout", "label_smoothing")),
        ]:  # fmt: skip
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"`{path}` is {value}; it is a share: at least 0 and less than 1.")

    @classmethod
    def load(cls, config: "str | Path | Mapping[str, Any] | RunConfig", overrides: Sequence[str] = ()) -> "RunConfig":
        """Read a YAML file or the same thing as a dict, apply `a.b=c` overrides, fill variables in, check everything.

        Raises:
            ValueError: Anything that is wrong with it, with the key and what would be valid.
        """
        if isinstance(config, RunConfig):
            if overrides:
                raise ValueError("overrides apply to a YAML file or a dict, not to a `RunConfig`.")
            return config
        where = "the config"
        if not isinstance(config, Mapping):
            where = str(config)
            config = read_yaml(Path(config))
        tree = _copy_tree(config)
        for text in overrides:
            _apply_override(tree, text)
        template = _copy_tree(tree)
        sections = {"model", "sources", "tasks", "training"}
        variables = {key: tree.pop(key) for key in list(tree) if key not in sections}
        used: set[str] = set()
        # Variables may use each other; each is filled in once, so that a circle is found and not followed.
        for key, value in variables.items():
            if isinstance(value, dict | list) or not re.fullmatch(r"[A-Za-z_]\w*", str(key)):
                raise ValueError(f"unknown key `{key}` in {where}.{nearest(key, sections)} Sections are: "
                                 f"{', '.join(sorted(sections))}; variables are plain values.")  # fmt: skip
        filled = {key: _fill(value, variables, used, (key,)) for key, value in variables.items()}
        tree = _fill(tree, filled, used, ())
        for key in variables:
            if key not in used:
                raise ValueError(
                    f"unknown key `{key}` in {where}: it is neither a section nor used as ${{{key}}}."
                    f"{nearest(key, sections | used)}"
                )
        for key in ("sources", "tasks"):
            if key in tree and not isinstance(tree[key], Mapping):
                raise ValueError(f"`{key}` is {_show(tree[key])}; it should be a mapping from names to {key}.")
        for name, source in (tree.get("sources") or {}).items():
            if isinstance(source, Mapping):
                own = {item.name for item in dataclasses.fields(Source)}
                loader = {key: source[key] for key in source if key not in own}
                tree["sources"][name] = {key: source[key] for key in source if key in own} | (
                    {"loader": loader | dict(source.get("loader") or {})} if loader else {}
                )
        # The training section keeps its untyped scalars: only `training/arguments.py` knows what their fields hold.
        training = tree.pop("training", None) or {}
        if not isinstance(training, Mapping):
            raise ValueError(f"`training` is {_show(training)}; it should be a mapping.")
        parsed = typed(RunConfig, tree, "")
        return dataclasses.replace(
            parsed,
            training=dict(training),
            variables={key: plain(value) for key, value in filled.items()},
            template=template,
        )

    def to_dict(self) -> dict[str, Any]:
        """The config as plain data, variables filled in; datasets given in Python are left out."""
        tree: dict[str, Any] = {"model": _without_defaults(self.model)}
        tree["sources"] = {}
        for name, source in self.sources.items():
            keys = _without_defaults(source)
            keys.pop("dataset", None)
            tree["sources"][name] = keys | keys.pop("loader", {})
        tree["tasks"] = {name: _without_defaults(task) for name, task in self.tasks.items()}
        tree["training"] = plain(self.training)
        return tree

    def to_yaml(self) -> str:
        """The config as YAML that `load` reads to the same config, with its variables and without access tokens."""
        tree = self.to_dict() if self.template is None else _copy_tree(self.template)
        for source in tree.get("sources", {}).values():
            source.pop("dataset", None)
        for section in (tree.get("training") or {}, *tree.get("sources", {}).values()):
            _drop_secrets(section)
        for key in [key for key in tree if _SECRET.fullmatch(str(key))]:
            del tree[key]
        variables = [key for key in tree if key not in ("model", "sources", "tasks", "training")]
        # So do the variables that they were made of: those that nothing uses any more.
        while unused := [key for key in variables if key in tree and f"${{{key}}}" not in str(tree)]:
            for key in unused:
                del tree[key]
        return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


_SECRET = re.compile(r"(.*_)?(token|secret|password|passwd|credentials?|storage_options)", re.IGNORECASE)


def _drop_secrets(section: Any) -> None:
    """Remove what gives access to something, at any depth: secrets stay out of files."""
    if isinstance(section, dict):
        for key in [key for key in section if _SECRET.fullmatch(str(key))]:
            del section[key]
    for value in section.values() if isinstance(section, dict) else section if isinstance(section, list) else ():
        _drop_secrets(value)


def resolve_path(path: str) -> str:
    """Turn `package:<python package>/<path inside it>` into a path on this machine; leave all else as it is.

    The package is found, not imported.

    Raises:
        ValueError: The package is not installed or has no such file.
    """
    if not path.startswith("package:"):
        return path
    package, _, inside = path.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package) if re.fullmatch(r"[A-Za-z_]\w*", package) else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"`{path}`: the Python package {package!r} is not installed; try: pip install {package.replace('_', '-')}"
        )
    found = Path(spec.submodule_search_locations[0]) / inside
    if not found.exists():
        raise ValueError(f"`{path}`: there is no {inside!r} in the installed package {package!r}.")
    return str(found)


# ---- reading YAML ----

_VARIABLE = re.compile(r"\$\{([^}\n]*)\}")


class Plain(str):
    """The text of an unquoted YAML scalar, whose type is not known yet."""


class _Loader(yaml.SafeLoader):
    """YAML in which unquoted scalars stay text and a repeated key is an error."""

    yaml_implicit_resolvers = {"<": [("tag:yaml.org,2002:merge", re.compile(r"^(?:<<)$"))]}

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Not in `construct_mapping`, where merged keys (`<<`) may stand beside those that replace them.
        node = super().compose_mapping_node(anchor)
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = key_node.value
            if key_node.tag == "tag:yaml.org,2002:merge" or not isinstance(key_node, yaml.ScalarNode):
                continue
            line = key_node.start_mark.line + 1
            if key in seen:
                raise ValueError(f"{node.start_mark.name}: line {line}: `{key}` is already given in line {seen[key]}.")
            seen[key] = line
        return node


# Braces end an unquoted scalar inside `{...}`, so those of `${name}` are hidden from the parser.
_HIDE, _UNHIDE = str.maketrans("{}", "\ue000\ue001"), str.maketrans("\ue000\ue001", "{}")


def _construct_scalar(loader: _Loader, node: yaml.ScalarNode) -> str:
    text = str(loader.construct_scalar(node)).translate(_UNHIDE)
    return Plain(text) if node.style is None else text


_Loader.add_constructor("tag:yaml.org,2002:str", _construct_scalar)


class _Dumper(yaml.SafeDumper):
    """YAML in which text that `_Loader` and `typed` could take for something else is quoted."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "'" if plain(Plain(text)) != text or text.lower() in _TRUE + _FALSE + _NONE else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_plain(dumper: _Dumper, text: Plain) -> yaml.ScalarNode:
    # The tag that YAML would read out of the text is the one that needs neither quotes nor a tag of its own.
    return dumper.represent_scalar(dumper.resolve(yaml.ScalarNode, str(text), (True, False)), str(text))


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(Plain, _represent_plain)


def flow(value: Any) -> str:
    """Plain data as one line of YAML that `RunConfig.load` reads as what it is."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").strip()


def parse_yaml(text: str, name: str) -> Any:
    """Read YAML, its unquoted scalars as `Plain`.

    Args:
        text: The YAML.
        name: What messages call it.

    Raises:
        ValueError: It is not YAML, or repeats a key.
    """
    try:
        loader = _Loader(_VARIABLE.sub(lambda match: match[0].translate(_HIDE), text))
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise ValueError(f"{name} is not valid YAML: {error}") from error
    loader.name = name
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not valid YAML: {str(error).translate(_UNHIDE)}") from error
    finally:
        loader.dispose()


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ValueError: No such file, not UTF-8, not YAML, a repeated key, or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"there is no config file {path}.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}.") from None
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise ValueError(
            f"{path}: the top level is {_show(tree)}; it should be a mapping (model, sources, tasks, ...)."
        )
    return tree


def _apply_override(tree: dict[str, Any], text: str) -> None:
    """Set `a.b=c` in place, making mappings on the way; the value is read as YAML."""
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ValueError(f"{text!r} is not an override: write key=value, as in training.learning_rate=1e-4.")
    target = tree
    for key in keys[:-1]:
        if target.get(key) is None:
            target[key] = {}
        target = target[key]
        if not isinstance(target, dict):
            raise ValueError(f"override {text!r}: `{key}` holds {_show(target)}, which has no keys.")
    target[keys[-1]] = parse_yaml(value, f"override {text!r}") if value.strip() else Plain("")


def _copy_tree(value: Any) -> Any:
    # DatasetDict and Features are mappings too, but values to us.
    if isinstance(value, Mapping) and not type(value).__module__.startswith("datasets"):
        return {key: _copy_tree(item) for key, item in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return [_copy_tree(item) for item in value] if isinstance(value, list | tuple) else value


def _fill(value: Any, variables: Mapping[str, Any], used: set[str], inside: tuple[str, ...]) -> Any:
    """`value` with every `${name}` replaced; `inside` are the variables being filled in, to find circles."""
    if isinstance(value, dict):
        return {key: _fill(item, variables, used, inside) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, variables, used, inside) for item in value]
    if not isinstance(value, str) or "${" not in value:
        return value

    def replacement(name: str) -> Any:
        if name not in variables:
            raise ValueError(
                f"`${{{name}}}` is not defined.{nearest(name, variables)} Variables are top-level keys;"
                f" defined are: {', '.join(variables) or 'none'}."
            )
        if name in inside:
            raise ValueError(f"the variables {' -> '.join([*inside, name])} refer to each other in a circle.")
        used.add(name)
        return _fill(variables[name], variables, used, (*inside, name))

    if whole := _VARIABLE.fullmatch(value):
        return replacement(whole[1])
    text = _VARIABLE.sub(lambda match: str(replacement(match[1])), value)
    return Plain(text) if isinstance(value, Plain) else text


# ---- typing ----

_TRUE, _FALSE, _NONE = ("true", "yes", "on"), ("false", "no", "off"), ("", "~", "null", "none")


def typed(hint: Any, value: Any, path: str) -> Any:
    """Turn `value`, plain data in which YAML scalars may be `Plain`, into what `hint` says.

    Args:
        hint: A type: dataclass, `Literal`, union, `list[...]`, `dict[str, ...]`, `int`, `float`, `bool`, `str`, `Any`.
        value: What was found.
        path: Where it was found, for messages.

    Raises:
        ValueError: It does not fit, or a mapping has a key that a dataclass does not know.
    """
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _typed_dataclass(hint, value, path)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return plain(value)
    if origin is typing.Annotated:
        return typed(args[0], value, path)
    if origin is Literal:
        if str(value) in args:
            return str(value)
        raise ValueError(f"`{path}` is {_show(value)}; valid are {', '.join(map(str, args))}.")
    if origin in (types.UnionType, typing.Union):
        return _typed_union(args, value, path)
    if (origin or hint) in (list, Sequence, Iterable, tuple):
        if not isinstance(value, list | tuple):
            raise ValueError(f"`{path}` is {_show(value)}; it should be a list.")
        items = [typed(args[0] if args else Any, item, f"{path}[{index}]") for index, item in enumerate(value)]
        return tuple(items) if (origin or hint) is tuple else items
    if (origin or hint) in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"`{path}` is {_show(value)}; it should be a mapping.")
        inner = args[1] if args else Any
        named = {str(key).lower() if isinstance(key, bool) else str(key): item for key, item in value.items()}
        return {key: typed(inner, item, f"{path}.{key}" if path else key) for key, item in named.items()}
    return _typed_scalar(hint, value, path)


def _typed_dataclass(hint: Any, value: Any, path: str) -> Any:
    if isinstance(value, hint):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(
            f"`{path}` is {_show(value)}; it should be a mapping with the keys of a {hint.__name__.lower()}."
        )
    hints = typing.get_type_hints(hint)
    names = {_key(item): item.name for item in dataclasses.fields(hint) if item.init}
    check_keys(value, names, path)
    prefix = f"{path}." if path else ""
    for item in dataclasses.fields(hint):
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and _key(item) not in value:
            raise ValueError(f"`{prefix}{_key(item)}` is missing: {item.metadata.get('help', 'it has no default')}.")
    return hint(**{names[key]: typed(hints[names[key]], item, f"{prefix}{key}") for key, item in value.items()})


def _key(item: dataclasses.Field[Any]) -> str:
    """What a field is called in YAML: here it has a `_` after it where it is called like a word of Python."""
    return item.name.removesuffix("_")


def check_keys(found: Iterable[str], known: Iterable[str], path: str) -> None:
    """Raise `ValueError` for the first key that is not known, naming the nearest known one."""
    known = list(known)
    for key in found:
        if key not in known:
            where = f" in `{path}`" if path else ""
            shown = f" Known are: {', '.join(known)}." if len(known) <= 20 else ""
            raise ValueError(f"unknown key `{key}`{where}.{nearest(key, known)}{shown}")


def _typed_union(options: tuple[Any, ...], value: Any, path: str) -> Any:
    """The first member that fits: None and containers by their form, then scalars from the narrowest to str."""
    nothing = _NONE[:-1] if str in options else _NONE  # `report_to: none` is a word
    if value is None or (isinstance(value, Plain) and str(value).lower() in nothing):
        if type(None) in options:
            return None
        raise ValueError(f"`{path}` is empty; it needs a value.")
    order = {bool: 0, int: 1, float: 2, str: 4}
    problems = []
    for member in sorted((item for item in options if item is not type(None)), key=lambda item: order.get(item, 3)):
        try:
            return typed(member, value, path)
        except ValueError as error:
            problems.append(str(error))
    if len(problems) == 1:
        raise ValueError(problems[0])
    wanted = " or ".join(_type_name(item) for item in options if item is not type(None))
    raise ValueError(f"`{path}` is {_show(value)}; it should be {wanted}.")


def _typed_scalar(hint: Any, value: Any, path: str) -> Any:
    unquoted = isinstance(value, Plain)
    if hint is str:
        if isinstance(value, str) and not (unquoted and str(value).lower() in ("", "~")):
            return str(value)
    elif hint is bool:
        if isinstance(value, bool):
            return value
        if unquoted and str(value).lower() in _TRUE + _FALSE:
            return str(value).lower() in _TRUE
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if unquoted and re.fullmatch(r"[-+]?[0-9][0-9_]*", value):
            return int(value)
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if unquoted and (number := _as_number(value)) is not None:
            return float(number)
    elif isinstance(hint, type) and isinstance(value, hint):
        return value
    elif isinstance(hint, type) and isinstance(value, str):  # enumerations and the like, by their value
        try:
            return hint(str(value))
        except (ValueError, TypeError) as error:
            raise ValueError(f"`{path}` is {_show(value)}: {error}") from None
    raise ValueError(f"`{path}` is {_show(value)}; it should be {_type_name(hint)}.")


def plain(value: Any) -> Any:
    """Plain data with every unquoted scalar read as YAML 1.2 would: null, true, false, numbers, else text.

    Members of enumerations become their values, sections what was given of them.
    """
    if dataclasses.is_dataclass(value):
        return _without_defaults(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    if not isinstance(value, Plain):
        return value
    text = str(value)
    if text.lower() in ("", "~", "null"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    number = _as_number(text)
    return text if number is None else number


def _as_number(text: str) -> int | float | None:
    if re.fullmatch(r"[-+]?[0-9]+", text):
        return int(text)
    if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
        return float(text)
    return {".inf": float("inf"), "-.inf": -float("inf"), "inf": float("inf"), ".nan": float("nan")}.get(text.lower())


def _type_name(hint: Any) -> str:
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    origin = typing.get_origin(hint)
    if origin is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if (origin or hint) is list:
        return "a list"
    if (origin or hint) is dict:
        return "a mapping"
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _show(value: Any) -> str:
    """A found value as a message shows it."""
    if isinstance(value, dict):
        return f"a mapping ({', '.join(map(str, list(value)[:5]))})"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if value is None or (isinstance(value, Plain) and not value):
        return "empty"
    return str(value) if isinstance(value, Plain) else repr(value)


def nearest(key: Any, known: Iterable[str]) -> str:
    """A hint at the nearest of some known names, with a space before it; nothing where none is near."""
    match = difflib.get_close_matches(str(key), list(known), n=1)
    return f" Did you mean `{match[0]}`?" if match else ""


def check_name(what: str, name: str) -> None:
    """Names of sources and tasks become parts of metric names, overrides and file names."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ValueError(f"a {what} cannot be called {name!r}: use letters, digits, `_` and `-`, no sign first.")
    if what == "task" and name in ("loss", "score", "runtime", "joint", "model_preparation_time"):
        raise ValueError(f"a task cannot be called {name!r}: `eval_{name}` already means something else.")


def _check_start(model: Model, tasks: Mapping[str, Task]) -> None:
    """What can be said of `model.from` and of tasks that are only scored before anything is loaded."""
    if (model.encoder is None) == (model.from_ is None):
        raise ValueError(
            "`model` has both `encoder` and `from`: choose one (`model.encoder=` on the command line takes it out)."
            if model.encoder
            else "`model.encoder` is missing: pretrained encoder (or, instead, `model.from`: a multi-task model)."
        )
    if model.from_ is None:
        for key in ("keep", "rename"):
            if getattr(model, key):
                raise ValueError(f"`model.{key}` is about the heads of the model in `model.from`, and there is none.")
    elif model.rename and not model.keeps_heads:
        raise ValueError("`model.rename` renames heads, and with `model.keep: encoder` none is kept.")
    elif model.pooling and model.keeps_heads:
        raise ValueError(
            "`model.pooling`: the heads of the model in `from` keep the pooling that they were trained with; give a new"
            " task its own `pooling`, or set `model.keep: encoder`."
        )
    elif model.revision:
        raise ValueError("`model.revision` is of an `encoder`; a commit of `from` is named with it: me/model@revision.")
    elif not model.pretrained:
        raise ValueError("`model.pretrained: false` is of an `encoder`; a model in `from` starts with its weights.")
    elif model.trust_remote_code:
        raise ValueError("`model.trust_remote_code`: a model in `from` needs no code of its repository.")
    if model.peft is not None and not model.peft.get("type"):
        raise ValueError("`model.peft.type` is missing: a configuration class of peft, such as LoraConfig.")
    if model.peft is not None and not isinstance(model.peft.get("per_task", False), bool):
        raise ValueError(f"`model.peft.per_task` is {model.peft['per_task']!r}; it should be true or false.")
    scored = [name for name, task in tasks.items() if not task.train]
    if scored and not model.keeps_heads:
        raise ValueError(
            f"`tasks.{scored[0]}.train` is false, but no model is there that has its head: name one in `model.from`"
            " (with `keep: matching`)."
        )
    if len(scored) == len(tasks):
        raise ValueError(
            "`train` is false for every task: nothing would be trained (`mtl-hf evaluate` scores a model)."
        )


def _check_experts(experts: Mapping[str, int]) -> None:
    """As `modeling/experts.py`, which needs torch."""
    check_keys(experts, ("num", "hidden"), "model.experts")
    for key, least in (("num", 2), ("hidden", 1)):
        if experts.get(key, 0) < least:
            found = f"is {experts[key]}" if key in experts else "is missing"
            raise ValueError(f"`model.experts.{key}` {found}; it is a whole number of at least {least}.")


def _without_defaults(section: Any) -> dict[str, Any]:
    keys = {}
    for item in dataclasses.fields(section):
        value = getattr(section, item.name)
        default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
        if value != default:
            keys[_key(item)] = value
    return keys


def describe() -> str:
    """Every field of ours with its default and meaning, for `--help`."""
    lines = []
    for title, section in [
        ("model:", Model),
        ("sources.<name>:", Source),
        ("tasks.<name>:", Task),
        ("training: (and every field of transformers.TrainingArguments)", OurTraining),
        ("training.unfreeze:", Thawing),
    ]:
        lines += [title, *describe_fields(section)]
    lines.append("anything else at the top level: a variable, used as ${name}")
    return "\n".join(lines)


def describe_fields(section: Any) -> list[str]:
    """A line for each field of a dataclass, with its default and meaning."""
    lines = []
    for item in dataclasses.fields(section):
        if item.name in ("loader", "dataset"):
            continue
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            default = " (required)"
        elif item.default in (dataclasses.MISSING, None):
            default = ""
        else:
            default = f" [{item.default}]"
        lines.append(f"  {_key(item)}: {item.metadata['help']}{default}")
    return lines
