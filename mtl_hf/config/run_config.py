"""`RunConfig`: one YAML → checked sections, and back.

Notable: every top-level scalar that is not a section is a variable, used as `${name}`. `training:` stays an untyped
mapping here; `training/arguments.py`, which knows the fields of transformers' arguments, types it. Secrets are never
written.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .secrets import drop_secrets, remember_secrets, secrets_of
from .sections import Card, Model, Source, Task
from .values import NONE, Plain, check_keys, nearest, plain, shorten, show, typed, without_defaults
from .yaml_trees import apply_override, copy_tree, dump, fill, flow, read_yaml

_POOLING = "mean|cls|max|attention|mean_last_([2-9]|[1-9][0-9]{1,3})"  # as `modeling/pooling.py`, which needs torch
_MOST_WEIGHT = 10**9

SECTIONS = ("model", "sources", "tasks", "training", "card")


@dataclass(kw_only=True)
class RunConfig:
    """One run: the whole YAML."""

    model: Model
    sources: dict[str, Source]
    tasks: dict[str, Task]
    training: dict[str, Any] = field(default_factory=dict)
    card: Card = field(default_factory=Card)
    variables: dict[str, Any] = field(default_factory=dict)
    # The YAML with overrides applied but variables not filled in, so that a saved run can be given other values.
    template: dict[str, Any] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in self.sources:
            check_name("source", name)
        for name, task in self.tasks.items():
            check_name("task", name)
            if not task.sources:
                raise ValueError(f"`tasks.{name}.source` is empty; name a source, or a list of sources.")
            if len(set(task.sources)) < len(task.sources):
                raise ValueError(f"`tasks.{name}.source` names a source twice: {', '.join(task.sources)}.")
            _check_labels(name, task)
            if not 0 < task.loss_weight <= _MOST_WEIGHT:
                raise ValueError(
                    f"`tasks.{name}.loss_weight` is {task.loss_weight}; it should be above 0 and at most"
                    f" {_MOST_WEIGHT:,}. To train without the task, remove it."
                )
            for key, most in (("score_weight", _MOST_WEIGHT), ("learning_rate", 1000)):
                if (value := getattr(task, key)) is not None and not 0 <= value <= most:
                    raise ValueError(f"`tasks.{name}.{key}` is {value}; it should be at least 0 and at most {most:,}.")
            for source in task.sources:
                if source not in self.sources:
                    raise ValueError(
                        f"`tasks.{name}.source` is {source!r}, which is not a source."
                        f"{nearest(source, self.sources)} The sources are: {', '.join(self.sources) or 'none'}."
                    )
        if not self.tasks:
            raise ValueError("`tasks` is empty: name at least one task.")
        _check_start(self.model, self.tasks)
        if self.model.peft is not None and self.training.get("frozen_cache") is not None:
            raise ValueError(
                "`training.frozen_cache` stores the outputs of frozen layers, which the adapters of `model.peft`"
                " change. Remove one of the two."
            )
        for name in self.sources:
            if not any(name in task.sources for task in self.tasks.values()):
                raise ValueError(f"`sources.{name}` is not used by any task: use it or remove it.")
        for name, spec in self.sources.items():
            if spec.batch_size is not None and spec.batch_size < 1:
                raise ValueError(f"`sources.{name}.batch_size` is {spec.batch_size}; it should be at least 1.")
            if spec.max_train_rows is not None and spec.max_train_rows < 1:
                raise ValueError(f"`sources.{name}.max_train_rows` is {spec.max_train_rows}; it should be at least 1.")
        if self.model.max_length is not None and self.model.max_length < 1:
            raise ValueError(f"`model.max_length` is {self.model.max_length}; it should be at least 1.")
        _check_overflow(self.model)
        if self.model.experts is not None:
            _check_experts(self.model.experts)
        for path, pooling in [
            ("model.pooling", self.model.pooling),
            *((f"tasks.{name}.pooling", task.pooling) for name, task in self.tasks.items()),
        ]:
            if pooling is not None and not re.fullmatch(_POOLING, pooling):
                hint = nearest(pooling, ("mean", "attention", "mean_last_2"))
                raise ValueError(
                    f"`{path}` is {show(pooling)}.{hint} Valid are mean, cls, max, attention, and mean_last_<n> with n"
                    " at least 2."
                )
        for path, value in [
            ("model.dropout", self.model.dropout),
            *((f"tasks.{name}.{key}", getattr(task, key)) for name, task in self.tasks.items()
              for key in ("dropout", "label_smoothing")),
        ]:  # fmt: skip
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"`{path}` is {value}; it should be at least 0 and less than 1.")

    @classmethod
    def load(cls, config: "str | Path | Mapping[str, Any] | RunConfig", overrides: Sequence[str] = ()) -> "RunConfig":
        """Read a config from a YAML file or a dict, apply `a.b=c` overrides, fill in variables, and check it.

        Raises:
            ValueError: The config is invalid. The message names the key and what is valid.
        """
        if isinstance(config, RunConfig):
            if overrides:
                raise ValueError("overrides apply to a YAML file or a dict, not to a `RunConfig`.")
            return config
        where = "the config"
        if not isinstance(config, Mapping):
            if not isinstance(config, str | Path):
                raise ValueError(f"the config is {show(config)}; it should be a YAML file or a mapping.")
            where = str(config)
            config = read_yaml(Path(config))
        tree = copy_tree(config)
        for text in overrides:
            apply_override(tree, text)
        template = copy_tree(tree)
        sections = set(SECTIONS)
        variables = {key: tree.pop(key) for key in list(tree) if key not in sections}
        for key, value in variables.items():
            if isinstance(value, dict | list) or not re.fullmatch(r"[A-Za-z_]\w*", key):
                raise ValueError(f"unknown key `{shorten(key)}` in {where}.{nearest(key, sections)} Sections are: "
                                 f"{', '.join(sorted(sections))}; variables are plain values.")  # fmt: skip
        tree, filled, used = fill(tree, variables)
        remember_secrets(tree)
        for key in variables:
            if key not in used:
                raise ValueError(
                    f"unknown key `{key}` in {where}: it is neither a section nor a variable used as ${{{key}}}."
                    f"{nearest(key, sections | used)}"
                )
        for key in ("sources", "tasks"):
            if key in tree and not isinstance(tree[key], Mapping):
                raise ValueError(f"`{key}` is {show(tree[key])}; it should be a mapping from names to {key}.")
        for name, source in (tree.get("sources") or {}).items():
            if isinstance(source, Mapping):
                own = {item.name for item in dataclasses.fields(Source)}
                loader = {key: source[key] for key in source if key not in own}
                tree["sources"][name] = _number_as_text({key: source[key] for key in source if key in own}, "text") | (
                    {"loader": loader | dict(source.get("loader") or {})} if loader else {}
                )
        # The keys of a task type stay untyped here: only the type (`tasks/`) knows their types.
        options: dict[str, dict[str, Any]] = {}
        for name, task in (tree.get("tasks") or {}).items():
            if isinstance(task, Mapping):
                own = {item.name for item in dataclasses.fields(Task)} - {"options"}
                options[name] = {key: task[key] for key in task if key not in own}
                tree["tasks"][name] = _number_as_text({key: task[key] for key in task if key in own}, "label")
        # The training section stays untyped here: only `training/arguments.py` knows the types of its fields.
        training = tree.pop("training", None)
        if training is None or (isinstance(training, Plain) and training.lower() in NONE):
            training = {}
        if not isinstance(training, Mapping):
            raise ValueError(f"`training` is {show(training)}; it should be a mapping.")
        parsed: RunConfig = typed(RunConfig, tree, "")
        for name, found in options.items():
            parsed.tasks[str(name)].options = found
        for key in ("encoder", "from_", "revision"):
            if getattr(parsed.model, key) == "":
                raise ValueError(f"`model.{key.rstrip('_')}` is empty text; give it a value, or remove it.")
        return dataclasses.replace(
            parsed,
            training=dict(training),
            variables={key: plain(value) for key, value in filled.items()},
            template=template,
        )

    def to_dict(self) -> dict[str, Any]:
        """The config as plain data, with variables filled in and without datasets given in Python."""
        tree: dict[str, Any] = {"model": without_defaults(self.model)}
        tree["sources"] = {}
        for name, source in self.sources.items():
            keys = without_defaults(source)
            keys.pop("dataset", None)
            tree["sources"][name] = keys | keys.pop("loader", {})
        for name, task in self.tasks.items():
            keys = without_defaults(task)
            tree.setdefault("tasks", {})[name] = keys | plain(keys.pop("options", {}))
        tree["training"] = plain(self.training)
        if self.card != Card():
            tree["card"] = without_defaults(self.card)
        return tree

    def to_yaml(self) -> str:
        """The config as YAML, with its variables and without secrets; `load` returns the same config from it."""
        tree = self.to_dict() if self.template is None else copy_tree(self.template)
        for source in tree.get("sources", {}).values():
            source.pop("dataset", None)
        drop_secrets(tree)
        variables = [key for key in tree if key not in SECTIONS]
        # Drop the variables that only secrets used.
        while unused := [key for key in variables if key in tree and f"${{{key}}}" not in str(tree)]:
            for key in unused:
                del tree[key]
        return dump(tree)


def secret_overrides(config: RunConfig) -> list[str]:
    """The secrets that `to_yaml` leaves out, as overrides: applied to the YAML they restore the config."""
    return [f"{path}={flow(plain(value))}" for path, value in secrets_of(config.to_dict())]


def check_name(what: str, name: str) -> None:
    """Check the name of a source or task, which becomes part of metric names, overrides and file names.

    Raises:
        ValueError: It has other signs than letters, digits, `_` and `-`, or already names a metric.
    """
    kinds = [unicodedata.category(sign)[0] for sign in name]  # letters, numbers and the marks that some scripts need
    signs = {sign for sign, kind in zip(name, kinds, strict=True) if kind not in "LNM"}
    if not name or kinds[0] not in "LN" or signs - {"_", "-"}:
        raise ValueError(
            f"a {what} cannot be called {name!r}: use letters, digits, `_` and `-`, and begin with a letter or digit."
        )
    if what == "task" and name in ("loss", "score", "runtime", "joint", "model_preparation_time"):
        raise ValueError(f"a task cannot be called {name!r}: `eval_{name}` is already the name of another metric.")


def _check_overflow(model: Model) -> None:
    """Check the keys for long texts that exclude each other, as far as possible without the model in `from`."""
    if model.stride is not None and model.stride < 0:
        raise ValueError(f"`model.stride` is {model.stride}; it should be at least 0.")
    truncates = model.overflow == "truncate" or (model.overflow is None and model.from_ is None)
    if model.stride is not None and truncates:
        raise ValueError(
            f"`model.stride` is {model.stride}, but long texts are truncated: add `overflow: window`, or remove"
            " `stride`."
        )
    if model.truncation_side is not None and model.overflow == "window":
        raise ValueError(
            f"`model.truncation_side` is {model.truncation_side}, but with `overflow: window` texts are not truncated:"
            " remove one of the two."
        )


def _check_start(model: Model, tasks: Mapping[str, Task]) -> None:
    """Check `model.from`, and tasks that are only evaluated, as far as possible before anything is loaded."""
    if (model.encoder is None) == (model.from_ is None):
        raise ValueError(
            "`model` has both `encoder` and `from`: remove one (on the command line: `model.encoder=`)."
            if model.encoder
            else "`model.encoder` is missing: name a pretrained encoder (or, in `model.from`, a multi-task model)."
        )
    if model.from_ is None:
        for key in ("keep", "rename"):
            if getattr(model, key):
                raise ValueError(f"`model.{key}` only works with `model.from`. Remove it, or set `model.from`.")
    elif model.rename and not model.keeps_heads:
        raise ValueError(
            "`model.rename` renames heads, and `model.keep: encoder` loads none. Remove it, or set `keep: matching`."
        )
    elif model.pooling and model.keeps_heads:
        raise ValueError(
            "`model.pooling` cannot be set with `model.from`: its heads keep the pooling they were trained with. Set"
            " `pooling` of a new task, or `model.keep: encoder`."
        )
    elif model.revision:
        raise ValueError("`model.revision` only works with `model.encoder`. For `from`, write me/model@revision.")
    elif not model.pretrained:
        raise ValueError(
            "`model.pretrained: false` only works with `model.encoder`: a model in `from` is loaded with its weights."
            " Remove it."
        )
    elif model.trust_remote_code:
        raise ValueError(
            "`model.trust_remote_code` only works with `model.encoder`: a model in `from` needs no remote code. Remove"
            " it."
        )
    if model.peft is not None and not model.peft.get("type"):
        raise ValueError("`model.peft.type` is missing: name a configuration class of peft, such as LoraConfig.")
    if model.peft is not None and not isinstance(model.peft.get("per_task", False), bool):
        raise ValueError(f"`model.peft.per_task` is {model.peft['per_task']!r}; it should be true or false.")
    scored = [name for name, task in tasks.items() if not task.train]
    if scored and not model.keeps_heads:
        raise ValueError(
            f"`tasks.{scored[0]}.train` is false, but there is no trained head for it: name a model that has one in"
            " `model.from` (with `keep: matching`)."
        )
    if len(scored) == len(tasks):
        raise ValueError(
            "`train` is false for every task: nothing would be trained (`mtl-hf evaluate` scores a model)."
        )


def _number_as_text(section: dict[str, Any], key: str) -> dict[str, Any]:
    """A section in which a column given as a number (`text: 0` of a CoNLL file) is text, as it is in YAML."""
    if type(section.get(key)) is int:
        section[key] = str(section[key])
    return section


def _check_labels(name: str, task: Task) -> None:
    if task.labels is None:
        return
    if not task.labels:
        raise ValueError(f"`tasks.{name}.labels` is empty; leave it out to take them from the training rows.")
    if isinstance(task.labels, list) and (twice := [one for one in task.labels if task.labels.count(one) > 1]):
        raise ValueError(f"`tasks.{name}.labels` names {twice[0]!r} twice.")


def _check_experts(experts: Mapping[str, int]) -> None:
    """The checks of `modeling/experts.py`, which needs torch."""
    check_keys(experts, ("num", "hidden"), "model.experts")
    for key, least, most in (("num", 2, 1024), ("hidden", 1, 2**16)):
        if not least <= experts.get(key, 0) <= most:
            found = f"is {experts[key]}" if key in experts else "is missing"
            raise ValueError(
                f"`model.experts.{key}` {found}; it should be a whole number of at least {least} and at most {most:,}."
            )
